"""A checkpoint in pieces is read like one, and written as one."""

import json
import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rebasin_core.checkpoints import open_checkpoint
from rebasin_core.errors import CheckpointError, ShapeError

tensors = pytest.importorskip("safetensors.numpy")

INDEX = "model.safetensors.index.json"
PIECES = {
    "model-00001-of-00002.safetensors": {
        "b": np.arange(6, dtype="float32").reshape(2, 3),
        "a": np.array([True, False, True]),
    },
    "model-00002-of-00002.safetensors": {"c": np.arange(5, dtype="float16"), "empty": np.zeros((0, 2))},
}
WHOLE = {name: x for piece in PIECES.values() for name, x in piece.items()}


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return folder / INDEX


@pytest.fixture
def path(tmp_path):
    """The index of a checkpoint in two pieces, with metadata."""
    for name, piece in PIECES.items():
        tensors.save_file(piece, tmp_path / name, metadata={"format": "pt"})
    return write_index(tmp_path, {tensor: name for name, piece in PIECES.items() for tensor in piece})


def test_all_tensors_are_read(path):
    file = open_checkpoint(path)
    assert set(file.tensors) == set(WHOLE)
    assert file.metadata == {"format": "pt"}
    assert dict(file.tied) == {}
    for name, x in WHOLE.items():
        assert_array_equal(file.read(name), x, strict=True)
        assert str(file.tensors[name]) == f"{x.dtype}{list(x.shape)}"


@pytest.mark.parametrize("copied", [(), ("a", "c"), tuple(WHOLE)])
def test_what_is_written_is_one_file_that_others_read(path, copied):
    file, out = open_checkpoint(path), path.with_name("out.safetensors")
    file.write(out, lambda name: None if name in copied else file.read(name))
    found = tensors.load_file(out)
    assert set(found) == set(WHOLE)
    for name, x in WHOLE.items():
        assert_array_equal(found[name], x, strict=True)
    again = open_checkpoint(out)
    assert again.metadata == {"format": "pt"}
    assert list(again.tensors) == list(file.tensors)


def test_bfloat16_and_narrow_floats_are_copied_bit_by_bit(tmp_path):
    header = {
        "wide": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "narrow": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [4, 7]},
    }
    text, data = json.dumps(header).encode(), np.uint16([0x3F80, 0x7FC1]).tobytes() + b"\x01\x02\x03"
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    file, out = open_checkpoint(write_index(tmp_path, dict.fromkeys(header, "x.safetensors"))), tmp_path / "out"
    file.write(out, lambda name: None)
    assert out.read_bytes().endswith(data)
    with pytest.raises(CheckpointError, match="float8_e4m3fn"):
        file.write(out, lambda name: np.zeros(3) if name == "narrow" else None)
    assert out.read_bytes().endswith(data)


def test_an_array_of_another_shape_leaves_nothing_behind(path):
    file, out = open_checkpoint(path), path.with_name("out.safetensors")
    with pytest.raises(ShapeError, match="'c'"):
        file.write(out, lambda name: np.zeros(7) if name == "c" else None)
    assert sorted(x.name for x in path.parent.iterdir()) == sorted([*PIECES, INDEX])


def test_a_piece_that_was_changed_is_noticed(path):
    file = open_checkpoint(path)
    tensors.save_file({"c": np.zeros(9)}, path.with_name("model-00002-of-00002.safetensors"))
    with pytest.raises(CheckpointError, match="changed by someone else"):
        file.write(path.with_name("out.safetensors"), lambda name: None)
    assert not path.with_name("out.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "..\\x.safetensors", "x.pt"]
)
def test_an_index_names_files_of_its_folder_alone(path, name):
    shutil.copy(path.with_name("model-00001-of-00002.safetensors"), path.parent.parent / "x.safetensors")
    write_index(path.parent, {"a": name, "b": name})
    with pytest.raises(CheckpointError, match="of the same folder"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 10**5]
)
def test_a_damaged_index_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(CheckpointError, match="no index of safetensors files"):
        open_checkpoint(path)


def test_pieces_that_are_absent_or_hold_something_else_are_named(path):
    weight_map = json.loads(path.read_text())["weight_map"]
    write_index(path.parent, {**weight_map, "d": weight_map["a"]})
    with pytest.raises(
        CheckpointError, match=r"'d' of model-00001-of-00002.safetensors is named by .*index.json alone"
    ):
        open_checkpoint(path)
    del weight_map["c"]
    write_index(path.parent, weight_map)
    with pytest.raises(CheckpointError, match=r"'c' of .* is named by model-00002-of-00002.safetensors alone"):
        open_checkpoint(path)
    path.with_name("model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="fetch all its files"):
        open_checkpoint(path)


def test_a_cut_off_piece_is_refused(path):
    piece = path.with_name("model-00002-of-00002.safetensors")
    piece.write_bytes(piece.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(path)
