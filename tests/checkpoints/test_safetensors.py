"""The safetensors format: what the package of that name writes is read, and the other way round; nothing else is."""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from rebasin_core.checkpoints import open_checkpoint
from rebasin_core.checkpoints.bfloat16 import from_bfloat16, to_bfloat16
from rebasin_core.errors import CheckpointError, ShapeError

fast = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def packed(header, data=b""):
    """Bytes of a file with this header: a dictionary, or text."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "b": rng.normal(size=(3, 4)).astype("float32"),
        "a": rng.normal(size=5),
        "half": rng.normal(size=(2, 2)).astype("float16"),
        "count": np.array(7),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), "float32"),
        "codes": rng.integers(0, 255, 6).astype("uint8"),
    }


@pytest.fixture
def path(tmp_path):
    """A file with tensors of many dtypes, not in the order of their names, and with metadata and padding."""
    header, data = {"__metadata__": {"format": "pt", "ä": "ö"}}, b""
    names = {"float32": "F32", "float64": "F64", "float16": "F16", "int64": "I64", "bool": "BOOL", "uint8": "U8"}
    for name, x in arrays().items():
        header[name] = entry(names[x.dtype.name], list(x.shape), len(data), len(data) + x.nbytes)
        data += x.tobytes()
    header["wide"] = entry("BF16", [2], len(data), len(data) + 4)
    header["narrow"] = entry("F8_E4M3", [3], len(data) + 4, len(data) + 7)
    data += np.uint16([0x3F80, 0x7FC1]).tobytes() + b"\x01\x02\x03"
    (tmp_path / "a.safetensors").write_bytes(packed(json.dumps(header, ensure_ascii=False) + "   ", data))
    return tmp_path / "a.safetensors"


def test_tensors_are_read_as_they_were_written(path):
    file = open_checkpoint(path)
    assert list(file.tensors) == [*arrays(), "wide", "narrow"]
    for name, x in arrays().items():
        assert_array_equal(file.read(name), x, strict=True)
        assert str(file.tensors[name]) == f"{x.dtype}{list(x.shape)}"
    assert_array_equal(file.read("wide"), np.float32([1.0, np.nan]), strict=True)


def test_a_tensor_may_be_changed_by_whoever_read_it(path):
    file = open_checkpoint(path)
    file.read("b")[:] = 0.0
    assert_array_equal(file.read("b"), arrays()["b"])


@pytest.mark.parametrize("copied", [(), ("b", "a", "wide"), None])
def test_writing_what_was_read_gives_the_same_bytes(path, copied):
    """Header, padding, metadata, order and all, whether tensors are copied or written anew."""
    file, other = open_checkpoint(path), path.with_name("b.safetensors")

    def tensor(name):
        return None if name == "narrow" or copied is None or name in copied else file.read(name)

    file.write(other, tensor)
    assert other.read_bytes() == path.read_bytes()


def test_a_file_may_take_its_own_place(path):
    file = open_checkpoint(path)
    file.write(path, lambda name: -file.read(name) if name == "b" else None)
    assert_array_equal(open_checkpoint(path).read("b"), -arrays()["b"], strict=True)
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_tensors_are_asked_for_in_the_order_in_which_they_lie(tmp_path):
    path, asked = tmp_path / "a.safetensors", []
    header = {"second": entry("U8", [2], 1, 3), "first": entry("U8", [1], 0, 1)}
    path.write_bytes(packed(header, b"abc"))
    file = open_checkpoint(path)
    assert list(file.tensors) == ["second", "first"]
    file.write(path, lambda name: asked.append(name))
    assert asked == ["first", "second"]
    assert path.read_bytes() == packed(header, b"abc")


def test_values_are_converted_to_the_dtype_of_the_file(path):
    file = open_checkpoint(path)
    new = {"half": np.full((2, 2), 1 / 3), "wide": np.array([1.00390625, -3.0])}
    file.write(path, new.get)
    assert_array_equal(open_checkpoint(path).read("half"), np.full((2, 2), np.float16(1 / 3)), strict=True)
    assert_array_equal(open_checkpoint(path).read("wide"), np.float32([1.0, -3.0]), strict=True)


def test_values_that_do_not_fit_leave_everything_as_it_was(path):
    file, before = open_checkpoint(path), path.read_bytes()
    with pytest.raises(ShapeError, match=r"'b' is float32\[3, 4\], and is to be written with values of shape \[4, 3\]"):
        file.write(path, lambda name: file.read(name).T if name == "b" else None)
    with pytest.raises(TypeError):
        file.write(path, lambda name: np.full((), 0.5) if name == "count" else None)
    with pytest.raises(CheckpointError, match="float8_e4m3fn cannot be written"):
        file.write(path, lambda name: np.zeros(3) if name == "narrow" else None)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_an_interrupted_write_leaves_the_old_file(path, monkeypatch):
    file, before = open_checkpoint(path), path.read_bytes()

    def interrupted(name):
        raise KeyboardInterrupt

    def fails(*_):
        raise OSError("disk full")

    with pytest.raises(KeyboardInterrupt):
        file.write(path, interrupted)
    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        file.write(path, lambda name: None)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_a_file_that_changes_while_it_is_used_is_noticed(path):
    file, whole = open_checkpoint(path), path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(CheckpointError, match="was changed by someone else"):
        file.write(path, lambda name: None)
    with pytest.raises(CheckpointError, match="was changed by someone else"):
        file.read("wide")
    path.write_bytes(whole.replace(b"narrow", b"broad!"))
    with pytest.raises(CheckpointError, match="was changed by someone else"):
        file.write(path, lambda name: None)


def test_eight_bit_floats_are_copied_and_not_read(path):
    with pytest.raises(CheckpointError, match="float8_e4m3fn, which is copied but not read"):
        open_checkpoint(path).read("narrow")


# --- the package of that name -----------------------------------------------------------------------------------------
def test_the_package_reads_what_is_written_here(path, tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    whole = {name: x for name, x in arrays().items() if name != "flags"}
    package.save_file(whole, tmp_path / "b.safetensors", metadata={"format": "np"})
    file = open_checkpoint(tmp_path / "b.safetensors")
    file.write(tmp_path / "c.safetensors", lambda name: file.read(name) * 2)
    loaded = package.load_file(tmp_path / "c.safetensors")
    assert loaded.keys() == whole.keys()
    for name, x in whole.items():
        assert_array_equal(loaded[name], 2 * x)
        assert loaded[name].dtype == x.dtype


def test_what_the_package_writes_comes_out_the_same(tmp_path):
    torch, package = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    draw = torch.Generator().manual_seed(0)
    tensors = {"w": torch.randn(3, 4, generator=draw), "h": torch.randn(5, generator=draw).bfloat16()}
    tensors |= {"f": tensors["w"].to(torch.float8_e5m2), "n": torch.tensor(3), "c": torch.ones(2, dtype=torch.cfloat)}
    path, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    package.save_file(tensors, path, metadata={"format": "pt"})
    file = open_checkpoint(path)
    assert_array_equal(file.read("h"), tensors["h"].float().numpy(), strict=True)
    file.write(other, lambda name: None if name == "f" else file.read(name))
    assert other.read_bytes() == path.read_bytes()


# --- bfloat16 ---------------------------------------------------------------------------------------------------------
def test_every_bfloat16_comes_back_from_float32():
    bits = np.arange(2**16, dtype=np.uint16)
    assert_array_equal(to_bfloat16(from_bfloat16(bits)), bits)


def test_bfloat16_is_the_nearest_ties_to_even():
    between = np.float32([1.00390625, 1.01171875, 1.0039064, -1.00390625, 3.4e38, 1e-45, np.inf, -np.inf])
    nearest = np.float32([1.0, 1.015625, 1.0078125, -1.0, np.inf, 0.0, np.inf, -np.inf])
    assert_array_equal(from_bfloat16(to_bfloat16(between)), nearest)
    lowest_nan = np.uint32([0x7F800001, 0xFF800001]).view(np.float32)
    assert np.isnan(from_bfloat16(to_bfloat16(lowest_nan))).all()


# --- what is refused --------------------------------------------------------------------------------------------------
ONE = entry("U8", [1], 0, 1)
REFUSED = {
    "an empty file": (b"", "was cut off"),
    "half a length": (b"\x01\x00", "was cut off"),
    "a header longer than the file": (packed({"a": ONE}, b"x")[:20], "was cut off"),
    "a header of exabytes": (b"\xff" * 8 + b"{}", "was cut off"),
    "no JSON": (packed("{"), "damaged"),
    "no text": ((2).to_bytes(8, "little") + b"\xff\xfe", "damaged"),
    "no object": (packed([1]), "is list, not an object"),
    "deep nesting": (packed("[" * 100_000), "damaged"),
    "a name twice": (packed('{"a": 1, "b": 1, "a": 1}'), "names 'a' twice"),
    "a key twice": (packed('{"a": {"dtype": "U8", "dtype": "U8"}}'), "names 'dtype' twice"),
    "metadata of numbers": (packed({"__metadata__": {"a": 1}}), "metadata are not texts"),
    "metadata in a list": (packed({"__metadata__": ["a"]}), "metadata are not texts"),
    "a tensor that is a number": (packed({"a": 3}), "is described by 3"),
    "a tensor without offsets": (packed({"a": {"dtype": "U8", "shape": [1]}}), "is described by"),
    "one key too many": (packed({"a": ONE | {"more": 1}}, b"x"), "is described by"),
    "an unknown dtype": (packed({"a": entry("F128", [1], 0, 1)}, b"x"), "of dtype 'F128'; known are BOOL"),
    "a dtype that is a list": (packed({"a": entry(["U8"], [1], 0, 1)}, b"x"), "known are BOOL"),
    "a negative size": (packed({"a": entry("U8", [-1], 0, 1)}, b"x"), "has shape"),
    "a size that is true": (packed({"a": entry("U8", [True], 0, 1)}, b"x"), "has shape"),
    "a size that is no integer": (packed({"a": entry("U8", [1.0], 0, 1)}, b"x"), "has shape"),
    "three offsets": (packed({"a": ONE | {"data_offsets": [0, 1, 1]}}, b"x"), "has shape"),
    "a size larger than the data": (packed({"a": entry("U8", [10**12], 0, 1)}, b"x"), "takes 1,000,000,000,000 bytes"),
    "sizes that overflow": (packed({"a": entry("U8", [2**33, 2**33], 0, 1)}, b"x"), "too large for any array"),
    "an empty tensor too large": (packed({"a": entry("U8", [2**70, 0], 0, 0)}), "too large for any array"),
    "too many axes": (packed({"a": entry("U8", [1] * 65, 0, 1)}, b"x"), "too large for any array"),
    "half a byte": (packed({"a": entry("F4", [1], 0, 1)}, b"x"), "takes"),
    "offsets backwards": (packed({"a": entry("U8", [1], 1, 0)}, b"x"), "takes 1 bytes, and has -1"),
    "offsets outside": (packed({"a": entry("U8", [1], 5, 6)}, b"x"), "start at"),
    "a gap": (packed({"a": ONE, "b": entry("U8", [1], 2, 3)}, b"xyz"), "of tensor 'b' start at"),
    "an overlap": (packed({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, b"xyz"), "'b' start at"),
    "bytes left over": (packed({"a": ONE}, b"xyz"), "its tensors end at byte"),
    "data cut off": (packed({"a": entry("U8", [3], 0, 3)}, b"x"), "its tensors end at byte"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_damage_is_refused(tmp_path, what):
    data, message = REFUSED[what]
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "bad.safetensors")


@fast
@given(data=st.data())
def test_damaged_bytes_are_refused_or_hold_what_they_say(path, tmp_path, damage, opens_or_refuses, data):
    header = {"b": entry("F32", [2, 2], 0, 16), "a": entry("BF16", [3], 16, 22)}
    (tmp_path / "c.safetensors").write_bytes(data.draw(damage)(packed(header, bytes(range(22)))))
    opens_or_refuses(tmp_path / "c.safetensors")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from(["U8", "F32", "F4", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", *ONE]), inner, max_size=4),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "F4"]) | VALUES,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(-1, 16), min_size=2, max_size=2) | VALUES,
    }
)


@fast
@given(header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES | VALUES), size=st.integers(0, 20))
def test_headers_that_mean_nothing_are_refused(tmp_path, opens_or_refuses, header, size):
    (tmp_path / "c.safetensors").write_bytes(packed(header, bytes(size)))
    opens_or_refuses(tmp_path / "c.safetensors")
