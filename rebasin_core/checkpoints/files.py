"""What a checkpoint file is to the rest of the library, and how the reader of a format is found.

Requirements
------------
A reader never runs code that stands in a file, reads a tensor only when asked for it where the format allows that, and
writes a file whole or not at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rebasin_core.errors import CheckpointError

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]

# The name of a file ends in the name of its format. What a reader needs is imported when such a file is opened.
READERS = {
    ".npz": "rebasin_core.checkpoints.npz:NpzFile",
    ".safetensors": "rebasin_core.checkpoints.safetensors:SafetensorsFile",
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
        What stands in it, in the order of the file.
    tied : mapping of str to str
        Names that share one storage in the file, with the first name of that storage.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    tied: Mapping[str, str]

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Read one tensor; formats that NumPy lacks, such as bfloat16, come as float32, which holds them exactly."""
        ...

    def write(self, path: Path, tensor: Callable[[str], np.ndarray[Any, Any]]) -> None:
        """Write a file like this one, with other values; names, order, dtypes, metadata and ties stay.

        ``tensor(name)`` is asked for one tensor after the other, in the order of the file, and may be forgotten
        once it has been written. The file appears whole or not at all.
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
    reader = READERS.get(path.suffix)
    if reader is None:
        raise CheckpointError(f"{path}: expected a file that ends in {', '.join(READERS)}; got {path.suffix!r}")
    if not path.is_file():
        raise CheckpointError(f"{path}: {'this is a folder' if path.is_dir() else 'there is no such file'}")
    try:
        opened: Callable[[Path], Checkpoint] = EntryPoint(name="", value=reader, group="").load()
    except ModuleNotFoundError as error:
        raise CheckpointError(f"{path}: reading {path.suffix} needs {error.name}; install it") from None
    return opened(path)
