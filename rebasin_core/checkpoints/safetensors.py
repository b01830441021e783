"""The format of ``.safetensors``: a length, a header in JSON, and the bytes of the tensors.

Read and written here and not by the package of that name, which needs all tensors in memory to write a file, and a
framework for bfloat16. https://huggingface.co/docs/safetensors describes the format.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rebasin_core.checkpoints.bfloat16 import from_bfloat16, to_bfloat16
from rebasin_core.checkpoints.files import NewValues, TensorInfo, like_stored, new_array
from rebasin_core.errors import CheckpointError
from rebasin_core.support.atomic import replacing
from rebasin_core.support.chunks import CHUNK

__all__ = ["SafetensorsFile", "header_of"]

# The format's own limit: no header is longer.
LONGEST_HEADER = 100_000_000

# Names of the format: those of everyone else, and how many bits a number takes.
DTYPES = {
    "BOOL": ("bool", 8),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F16": ("float16", 16),
    "F32": ("float32", 32),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
    "BF16": ("bfloat16", 16),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "F4": ("float4_e2m1fn", 4),
}
COPIED_ONLY = ("float8_", "float6_", "float4_")


@dataclass(frozen=True)
class _Place:
    """Where a tensor is, in bytes from the start of the file."""

    info: TensorInfo
    start: int
    end: int

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """What its bytes are to NumPy; None where it has no name for them."""
        if self.info.dtype.startswith(COPIED_ONLY):
            return None
        return np.dtype("uint16" if self.info.dtype == "bfloat16" else self.info.dtype).newbyteorder("<")


class SafetensorsFile:
    """A file of the format ``.safetensors``; see `rebasin_core.checkpoints.files.Checkpoint`.

    Opening it reads the header alone and checks all of it. A tensor is read when it is asked for, and written as soon
    as it is known, so that neither needs memory for more than one. Eight-bit floats and narrower are listed and copied;
    they cannot be read.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    CheckpointError
        The file is not of this format, or is damaged.

    Examples
    --------
    >>> import tempfile
    >>> header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> _ = path.write_bytes(len(header).to_bytes(8, "little") + header + np.float32([1, 2]).tobytes())
    >>> file = SafetensorsFile(path)
    >>> str(file.tensors["w"]), file.read("w")
    ('float32[2]', array([1., 2.], dtype=float32))
    >>> file.write(path, lambda name: file.read(name)[::-1])
    >>> SafetensorsFile(path).read("w")
    array([2., 1.], dtype=float32)
    """

    tied: dict[str, str] = {}  # noqa: RUF012, the format has none, in any file

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            self._size = os.fstat(file.fileno()).st_size
            self._head = _head(path, file, self._size)
        try:
            entries, self.metadata = _parsed(self._head[8:])
            self._places = _places(entries, len(self._head), self._size)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged: {error}") from None
        self.tensors = {name: place.info for name, place in self._places.items()}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Read one tensor; bfloat16 comes as float32."""
        place = self._places[name]
        if place.dtype is None:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} is of {place.info.dtype}, which is copied but not read; leave it out of "
                f'what moves (axes "."), or convert it to bfloat16 first'
            )
        stored = new_array(math.prod(place.info.shape), place.dtype)
        with open(self.path, "rb") as file:
            file.seek(place.start)
            if file.readinto(stored.view(np.uint8).data) != stored.nbytes:
                raise self._changed()
        stored = stored.reshape(place.info.shape)
        return from_bfloat16(stored) if place.info.dtype == "bfloat16" else stored.astype(place.info.dtype, copy=False)

    def write(self, path: Path, tensor: NewValues) -> None:
        """Write a file with the same header and other values."""
        with self.unchanged() as source, replacing(path) as target:
            target.write(self._head)
            for name in sorted(self._places, key=lambda name: (self._places[name].start, self._places[name].end)):
                self.copy(source, target, name, tensor(name))

    @contextmanager
    def unchanged(self) -> Iterator[BinaryIO]:
        """Open the file, after a look at whether it is still the one that was read."""
        with open(self.path, "rb") as source:
            if source.read(len(self._head)) != self._head or os.fstat(source.fileno()).st_size != self._size:
                raise self._changed()
            yield source

    def copy(self, source: BinaryIO, target: BinaryIO, name: str, new: np.ndarray[Any, Any] | None) -> None:
        """Write one tensor behind what is in `target`: new values, or those of this file, `source`, bit by bit."""
        place = self._places[name]
        if new is None:
            self._copy(source, target, place)
        elif place.dtype is None:
            raise CheckpointError(f"{self.path}: values of {place.info.dtype} cannot be written; tensor {name!r}")
        else:
            _store(like_stored(new, name, place.info), place, target)

    def _copy(self, source: BinaryIO, target: BinaryIO, place: _Place) -> None:
        source.seek(place.start)
        left = place.end - place.start
        while left:
            chunk = source.read(min(left, CHUNK))
            if not chunk:
                raise self._changed()
            target.write(chunk)
            left -= len(chunk)

    def _changed(self) -> CheckpointError:
        return CheckpointError(f"{self.path} was changed by someone else while it was in use; start again")


def header_of(metadata: Mapping[str, str], tensors: Mapping[str, TensorInfo]) -> tuple[bytes, list[str]]:
    """Everything in front of the data of a file with these tensors, and their names in the order of their bytes."""
    codes = {known: (code, bits) for code, (known, bits) in DTYPES.items()}
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, info in tensors.items():
        code, bits = codes[info.dtype]
        start, end = end, end + math.prod(info.shape) * bits // 8
        entries[name] = {"dtype": code, "shape": list(info.shape), "data_offsets": [start, end]}
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the tensors are aligned
    return len(header).to_bytes(8, "little") + header, list(tensors)


def _store(x: np.ndarray[Any, Any], place: _Place, target: BinaryIO) -> None:
    flat = x.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        chunk = flat[start : start + CHUNK]
        if place.info.dtype == "bfloat16":
            chunk = to_bfloat16(chunk.astype(np.float32, casting="same_kind", copy=False))
        target.write(chunk.astype(place.dtype, casting="same_kind", copy=False).tobytes())


def _head(path: Path, file: BinaryIO, size: int) -> bytes:
    """Everything in front of the data: the length of the header, and the header."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        raise CheckpointError(
            f"{path} is no safetensors file, or was cut off: its header should take {length:,} bytes, and the file has "
            f"{size:,}"
        )
    file.seek(0)
    return file.read(8 + length)


def _parsed(header: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """The entries of the tensors, and the metadata."""
    parsed = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(parsed, dict):
        raise ValueError(f"its header is {type(parsed).__name__}, not an object")
    metadata = parsed.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts by name")
    return parsed, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"its header names {name!r} twice")
    return found


def _places(header: dict[str, Any], start: int, size: int) -> dict[str, _Place]:
    """Where every tensor is; together they fill the rest of the file, without a gap and none above another."""
    places = {name: _place(name, entry, start) for name, entry in header.items()}
    end = start
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].end)):
        if place.start != end:
            raise ValueError(f"the bytes of tensor {name!r} start at {place.start:,}, where {end:,} was expected")
        end = place.end
    if end != size:
        raise ValueError(f"its tensors end at byte {end:,}, and the file at {size:,}")
    return places


def _place(name: str, entry: Any, start: int) -> _Place:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} is described by {str(entry)[:80]}, not by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} is of dtype {str(dtype)[:80]!r}; known are {', '.join(DTYPES)}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r} has shape {str(shape)[:80]} and data_offsets {str(offsets)[:80]}")
    known, bits = DTYPES[dtype]
    # Also where another axis is empty, NumPy counts the bytes of all others, in 63 bits, and no more than 64 axes.
    if len(shape) > 64 or math.prod(n or 1 for n in shape) * bits >= 2**63:
        raise ValueError(f"tensor {name!r} has shape {str(shape)[:80]}, which is too large for any array")
    if (offsets[1] - offsets[0]) * 8 != math.prod(shape) * bits:
        raise ValueError(
            f"tensor {name!r} is {known}{shape}, which takes {math.prod(shape) * bits / 8:,.0f} bytes, and has "
            f"{offsets[1] - offsets[0]:,}"
        )
    return _Place(TensorInfo(tuple(shape), known), start + offsets[0], start + offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)
