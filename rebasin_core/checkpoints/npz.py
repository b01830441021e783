"""NumPy's ``.npz``: a zip archive with an array in each member, read without pickle."""

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from rebasin_core.checkpoints.files import NewValues, TensorInfo, like_stored, new_array
from rebasin_core.errors import CheckpointError
from rebasin_core.support.atomic import replacing
from rebasin_core.support.chunks import CHUNK

__all__ = ["NpzFile"]

# How many bytes deflate can make of one, and what a short member takes besides.
MOST_PER_BYTE, SLACK = 1032, 1024


@dataclass(frozen=True)
class _Member:
    """An array in the archive: the entry of the archive, and what the array's own header says."""

    entry: zipfile.ZipInfo
    header: bytes
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool

    @property
    def is_tensor(self) -> bool:
        """Whether it holds numbers; texts and dates are kept as they are."""
        return self.dtype.kind in "biufc"

    @property
    def info(self) -> TensorInfo:
        return TensorInfo(self.shape, self.dtype.name)


class NpzFile:
    """An archive as ``numpy.savez`` writes it; see `rebasin_core.checkpoints.files.Checkpoint`.

    Opening it reads the headers of all arrays and checks them against the table of the archive. An array is read when
    it is asked for, and written as soon as it is known. What holds no numbers (texts, dates) is kept, and not listed
    among the tensors.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    CheckpointError
        The file is not of this format, is damaged, or holds Python objects, which only pickle could read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.npz"
    >>> np.savez(path, w=np.ones((2, 3)), note="of the first run")
    >>> file = NpzFile(path)
    >>> {name: str(info) for name, info in file.tensors.items()}
    {'w': 'float64[2, 3]'}
    >>> file.write(path, lambda name: 2 * file.read(name))
    >>> str(np.load(path)["note"]), NpzFile(path).read("w").sum()
    ('of the first run', np.float64(12.0))
    """

    tied: dict[str, str] = {}  # noqa: RUF012, the format has none, in any file
    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file, _reading(path):
            self._comment, self._members = _contents(file)
        self.tensors = {name: member.info for name, member in self._members.items() if member.is_tensor}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Read one array, in the byte order of this machine."""
        member = self._members[name]
        stored = new_array(math.prod(member.shape), member.dtype)
        room, start = stored.view(np.uint8), -len(member.header)
        for chunk in self._chunks(member):
            if start >= 0:
                room[start : start + len(chunk)] = np.frombuffer(chunk, np.uint8)
            start += len(chunk)
        shaped = stored.reshape(member.shape[::-1]).T if member.is_fortran else stored.reshape(member.shape)
        return np.ascontiguousarray(shaped, member.dtype.newbyteorder("=")).reshape(member.shape)

    def write(self, path: Path, tensor: NewValues) -> None:
        """Write an archive with the same members, compressed as they are, and other values."""
        with replacing(path) as target, zipfile.ZipFile(target, "w") as archive:
            archive.comment = self._comment
            for name, member in self._members.items():
                new = tensor(name) if member.is_tensor else None
                # Room for sizes of 64 bits in every entry, as NumPy writes it: the size is known too late otherwise.
                with archive.open(_fresh(member.entry), "w", force_zip64=True) as file:
                    if new is None:
                        for chunk in self._chunks(member):
                            file.write(chunk)
                    else:
                        file.write(member.header)
                        _store(like_stored(new, name, member.info), member, file)

    def _chunks(self, member: _Member) -> Iterator[bytes]:
        """The bytes of a member: its header, then the rest in pieces; at the end, checksum and length are right."""
        with open(self.path, "rb") as file, _reading(self.path), zipfile.ZipFile(file) as archive:
            packed = archive.open(member.entry)
            left = member.entry.file_size - len(member.header)
            if packed.read(len(member.header)) != member.header:
                raise ValueError("it was changed by someone else while it was in use")
            yield member.header
            while chunk := packed.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
            if left:
                raise ValueError(f"array {member.entry.filename!r} is not as long as its header says")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # zipfile and NumPy raise nearly anything on bytes that mean nothing
        raise CheckpointError(f"{path} is no archive of numpy.savez, or is damaged: {error}") from None


def _contents(file: BinaryIO) -> tuple[bytes, dict[str, _Member]]:
    """The comment of the archive, and its members by the names of the arrays."""
    found: dict[str, _Member] = {}
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or name in found:
                raise ValueError(f"member {entry.filename!r} is {'there twice' if name in found else 'no array'}")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"member {entry.filename!r} is compressed in a way that NumPy does not know")
            # Before anything is unpacked: no member is larger than the bytes of this file can make it.
            possible = min(entry.compress_size, size) * (MOST_PER_BYTE if entry.compress_type else 1) + SLACK
            if entry.file_size > possible:
                raise ValueError(f"member {entry.filename!r} claims {entry.file_size:,} bytes and cannot have them")
            with archive.open(entry) as packed:
                found[name] = _member(entry, packed)
        return archive.comment, found


def _member(entry: zipfile.ZipInfo, file: IO[bytes]) -> _Member:
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call,unused-ignore]
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise ValueError(f"array {entry.filename!r} is of version {version} of NumPy's format, which holds no numbers")
    shape, is_fortran, dtype = read_header[version](file)
    if dtype.hasobject:
        raise CheckpointError(
            f"array {entry.filename!r} holds Python objects, which only pickle can read, and pickle runs what stands "
            f"in the file; save arrays of numbers"
        )
    length = file.tell()
    if entry.file_size - length != math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(
            f"array {entry.filename!r} is {dtype}{list(shape)}, which does not fit its {entry.file_size - length:,} "
            f"bytes"
        )
    file.seek(0)
    return _Member(entry, file.read(length), dtype, shape, is_fortran)


def _store(x: np.ndarray[Any, Any], member: _Member, file: IO[bytes]) -> None:
    flat = (x.T if member.is_fortran else x).reshape(-1)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK]
        file.write(chunk.astype(member.dtype, casting="same_kind", copy=False).tobytes())


def _fresh(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """An entry of the same name, date and compression, for another archive."""
    fresh = zipfile.ZipInfo(entry.filename, entry.date_time)
    fresh.compress_type, fresh.external_attr, fresh.comment = entry.compress_type, entry.external_attr, entry.comment
    fresh.create_system = entry.create_system
    return fresh
