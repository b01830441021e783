"""What a checkpoint file is to the rest of the library, and how the reader of a format is found.

Requirements
------------
A reader never runs code that is in a file, reads a tensor only when asked for it where the format allows that, and
writes a file whole or not at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from mmap import mmap
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from rebasin_core.errors import CheckpointError, ShapeError

__all__ = ["Checkpoint", "NewValues", "TensorInfo", "like_stored", "new_array", "open_checkpoint"]

# Bytes from which an array has pages of its own.
LARGE = 2**20

NewValues: TypeAlias = Callable[[str], np.ndarray[Any, Any] | None]
"""``tensor(name)``: what is to stand in the new file, or None for a tensor that stays as it is."""

# The name of a file ends in the name of its format. What a reader needs is imported when such a file is opened.
READERS = {
    ".npz": "rebasin_core.checkpoints.npz:NpzFile",
    ".safetensors": "rebasin_core.checkpoints.safetensors:SafetensorsFile",
    ".safetensors.index.json": "rebasin_core.checkpoints.sharded:ShardedSafetensors",
    ".pt": "rebasin_torch.checkpoints:TorchFile",
    ".pth": "rebasin_torch.checkpoints:TorchFile",
    ".keras": "rebasin_keras.checkpoints:KerasFile",
}


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor of a file, known without reading it."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class Checkpoint(Protocol):
    """Tensors in a file.

    Attributes
    ----------
    path : Path
        The file.
    tensors : mapping of str to TensorInfo
        What is in it, in the order of the file.
    tied : mapping of str to str
        Names that share one storage in the file, with the first name of that storage.
    metadata : mapping of str to str
        What else the file says, as text.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    tied: Mapping[str, str]
    metadata: Mapping[str, str]

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Read one tensor, as an array of its own in row-major order, which the caller may change.

        Floating formats that NumPy lacks, such as bfloat16, come as float32, which holds them exactly.

        Raises
        ------
        CheckpointError
            The file was changed or damaged since it was opened, or the tensor is of a format that cannot be read.
        """
        ...

    def write(self, path: Path, tensor: NewValues) -> None:
        """Write a file like this one, with other values; names, order, dtypes, metadata and ties stay.

        ``tensor(name)`` is asked for one tensor after the other, in the order of the file, and may be
        forgotten once it has been written; of tensors that are tied, for the first. None means that a tensor stays as
        it is, bit by bit. The file appears whole or not at all, and may take the place of this one.

        Raises
        ------
        ShapeError
            An array has another shape than the tensor it stands for.
        CheckpointError
            The file was changed or damaged since it was opened.
        """
        ...


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint, by the ending of its name.

    Raises
    ------
    CheckpointError
        The file is absent, of another format, damaged, or would run code.
    """
    path = Path(path)
    ending = next((ending for ending in READERS if path.name.endswith(ending)), path.suffix)
    reader = READERS.get(ending)
    if reader is None:
        raise CheckpointError(f"{path}: expected a file that ends in {', '.join(READERS)}; got {path.suffix!r}")
    if not path.is_file():
        raise CheckpointError(f"{path}: {'this is a folder' if path.is_dir() else 'there is no such file'}")
    try:
        opened: Callable[[Path], Checkpoint] = EntryPoint(name="", value=reader, group="").load()
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path}: reading {ending} needs {error.name}; install it") from None
    return opened(path)


def like_stored(x: np.ndarray[Any, Any], name: str, info: TensorInfo) -> np.ndarray[Any, Any]:
    """Return new values of a tensor as they are, after checking their shape.

    Raises
    ------
    ShapeError
        They have another shape than the tensor.
    """
    if x.shape != info.shape:
        raise ShapeError(f"tensor {name!r} is {info}, and is to be written with values of shape {list(x.shape)}")
    return x


def new_array(count: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return an array to read numbers into, whose memory goes back to the system as soon as it is forgotten.

    What NumPy allocates, the C library keeps for a while; with tensors of tens of megabytes, one after the other, that
    adds up to several of them.
    """
    nbytes = count * dtype.itemsize
    return np.frombuffer(mmap(-1, nbytes), dtype) if nbytes >= LARGE else np.empty(count, dtype)
