"""NumPy's archives: written as they were read, and never with pickle."""

import io
import os
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from rebasin_core.checkpoints import open_checkpoint
from rebasin_core.errors import CheckpointError, ShapeError

fast = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(3, 4)),
        "columns": np.asfortranarray(rng.normal(size=(3, 4, 2)).astype("float32")),
        "a/b.c": rng.normal(size=4).astype("float16"),
        "count": np.array(7),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3)),
        "complex": np.array([1 + 2j]),
        "large": rng.normal(size=(600, 512)),
    }


OTHERS = {"note": np.array("written on a day in May"), "day": np.array("2024-05-17", "datetime64[D]")}


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "deflated"])
def path(request, tmp_path):
    request.param(tmp_path / "a.npz", **arrays(), **OTHERS, swapped=arrays()["w"].astype(">f4"))
    return tmp_path / "a.npz"


def test_arrays_are_read_as_they_were_written(path):
    file = open_checkpoint(path)
    assert list(file.tensors) == [*arrays(), "swapped"]
    for name, x in arrays().items():
        assert_array_equal(file.read(name), x, strict=True)
        assert file.read(name).flags.c_contiguous
        assert str(file.tensors[name]) == f"{x.dtype}{list(x.shape)}"
    assert file.read("swapped").dtype.isnative
    assert_array_equal(file.read("swapped"), arrays()["w"].astype("float32"))


@pytest.mark.parametrize("copies", [True, False])
def test_writing_what_was_read_gives_the_same_bytes(path, copies):
    """Texts, dates, Fortran order, byte order and compression, whether arrays are copied or written anew."""
    file, other = open_checkpoint(path), path.with_name("b.npz")
    file.write(other, lambda name: None if copies else file.read(name))
    assert other.read_bytes() == path.read_bytes()


def test_a_file_may_take_its_own_place(path):
    file = open_checkpoint(path)
    file.write(path, lambda name: file.read(name)[::-1] if name == "columns" else None)
    with np.load(path) as loaded:
        assert_array_equal(loaded["columns"], arrays()["columns"][::-1], strict=True)
        assert loaded["columns"].flags.f_contiguous
        assert str(loaded["note"]) == "written on a day in May"
    assert os.listdir(path.parent) == ["a.npz"]


def test_values_that_do_not_fit_leave_everything_as_it_was(path):
    file, before = open_checkpoint(path), path.read_bytes()
    with pytest.raises(ShapeError, match=r"'w' is float64\[3, 4\]"):
        file.write(path, lambda name: np.zeros(3) if name == "w" else None)
    with pytest.raises(TypeError):
        file.write(path, lambda name: np.array(0.5) if name == "count" else None)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.npz"]


def test_an_interrupted_write_leaves_the_old_file(path, monkeypatch):
    file, before = open_checkpoint(path), path.read_bytes()

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        file.write(path, lambda name: None)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.npz"]


def test_objects_are_refused_and_do_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.savez(tmp_path / "a.npz", w=np.zeros(2), objects=np.array([Hostile()], dtype=object))
    with pytest.raises(CheckpointError, match="holds Python objects, which only pickle can read"):
        open_checkpoint(tmp_path / "a.npz")
    fields = np.zeros(2, dtype=[("x", "f4"), ("y", "O")])
    np.savez(tmp_path / "a.npz", fields=fields)
    with pytest.raises(CheckpointError, match="holds Python objects"):
        open_checkpoint(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members:
            with pytest.warns(UserWarning, match="Duplicate") if name in file.namelist() else nullcontext():
                file.writestr(name, data)


def saved(x):
    buffer = io.BytesIO()
    np.save(buffer, x)
    return buffer.getvalue()


def test_archives_that_are_not_what_they_say_are_refused(tmp_path):
    path, x = tmp_path / "a.npz", saved(np.zeros(300))
    claims_more = x.replace(b"(300,)", b"(999,)")
    for members, message in (
        ([("w.npy", x), ("w.npy", x)], "there twice"),
        ([("readme.txt", b"hello")], "'readme.txt' is no array"),
        ([("w.npy", claims_more)], r"is float64\[999\], which does not fit its 2,400 bytes"),
        ([("w.npy", x[:-8])], r"is float64\[300\], which does not fit its 2,392 bytes"),
        ([("w.npy", x.replace(b"(300,)", b"(-30,)"))], "does not fit"),
        ([("w.npy", x[:20])], "damaged"),
        ([("w.npy", b"no array")], "damaged"),
        ([("w.npy", x.replace(b"'<f8'", b"[1+1]"))], "damaged"),
        ([("w.npy", b"\x93NUMPY\x09\x00" + x[8:])], r"of version \(9, 0\)"),
    ):
        archive(path, members)
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)
    archive(path, [("w.npy", x)], zipfile.ZIP_LZMA)
    with pytest.raises(CheckpointError, match="compressed in a way that NumPy does not know"):
        open_checkpoint(path)
    path.write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"is no archive of numpy\.savez"):
        open_checkpoint(path)


def test_a_member_that_claims_what_no_compression_can_hold_is_refused_before_it_is_unpacked(tmp_path):
    path, header = tmp_path / "a.npz", saved(np.zeros(1))[:-8]
    claimed = header.replace(b"(1,), }       ", b"(500000000,), ")
    assert len(claimed) == len(header)
    archive(path, [("w.npy", claimed)])
    data = path.read_bytes()
    size = len(claimed).to_bytes(4, "little")
    path.write_bytes(data.replace(size, (len(claimed) + 4_000_000_000).to_bytes(4, "little")))
    with pytest.raises(CheckpointError, match="claims 4,000,000,128 bytes and cannot have them"):
        open_checkpoint(path)


def test_changed_values_are_noticed_when_they_are_read(tmp_path):
    path, x = tmp_path / "a.npz", np.arange(300.0)
    np.savez(path, w=x)
    file, data = open_checkpoint(path), path.read_bytes()
    path.write_bytes(data.replace(np.float64(77).tobytes(), np.float64(78).tobytes()))
    with pytest.raises(CheckpointError, match="CRC"):
        file.read("w")
    with pytest.raises(CheckpointError, match="CRC"):
        file.write(tmp_path / "b.npz", lambda name: None)
    np.savez(path, w=x[:299])
    with pytest.raises(CheckpointError):
        file.read("w")
    assert os.listdir(tmp_path) == ["a.npz"]


@fast
@given(data=st.data())
def test_damaged_bytes_are_refused_or_hold_what_they_say(path, damage, opens_or_refuses, data):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, w=np.ones((2, 3)), b=np.zeros(2, "float32"))
    other = path.with_name("b.npz")
    other.write_bytes(data.draw(damage)(buffer.getvalue()))
    opens_or_refuses(other)
