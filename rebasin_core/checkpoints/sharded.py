"""A checkpoint in several ``.safetensors`` files, as large models are saved, and the index that names them.

``model.safetensors.index.json`` says which tensor is in which file of its folder.
"""

import json
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rebasin_core.checkpoints.files import NewValues, TensorInfo
from rebasin_core.checkpoints.safetensors import SafetensorsFile, header_of
from rebasin_core.errors import CheckpointError
from rebasin_core.support.atomic import replacing

__all__ = ["ShardedSafetensors"]


class ShardedSafetensors:
    """Several ``.safetensors`` files as one; see `rebasin_core.checkpoints.files.Checkpoint`.

    It is written as one file, which every library that reads the pieces reads too.

    Parameters
    ----------
    path : Path
        The index, ``model.safetensors.index.json``.

    Raises
    ------
    CheckpointError
        The index or one of its files is damaged, or absent; a file is not in the folder of the index, or holds other
        tensors than the index says.
    """

    tied: dict[str, str] = {}  # noqa: RUF012, the format has none, in any file

    def __init__(self, path: Path) -> None:
        self.path = path
        self._of = _weight_map(path)
        self._files = {name: _piece(path, name) for name in dict.fromkeys(self._of.values())}
        for file_name, file in self._files.items():
            named = {tensor for tensor, place in self._of.items() if place == file_name}
            different = sorted(named ^ file.tensors.keys())
            if different:
                there = file.path if different[0] in file.tensors else path
                raise CheckpointError(
                    f"{path} is damaged: tensor {different[0]!r} of {file.path.name} is named by {there.name} alone"
                )
        self.tensors: dict[str, TensorInfo] = {
            name: info for file in self._files.values() for name, info in file.tensors.items()
        }

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the files say beside their tensors; where they differ, the first one counts."""
        found: dict[str, str] = {}
        for file in self._files.values():
            found = {**file.metadata, **found}
        return found

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Read one tensor; bfloat16 comes as float32."""
        return self._files[self._of[name]].read(name)

    def write(self, path: Path, tensor: NewValues) -> None:
        """Write one file that holds what all these hold, with other values."""
        head, names = header_of(self.metadata, self.tensors)
        with ExitStack() as stack:
            sources = {name: stack.enter_context(file.unchanged()) for name, file in self._files.items()}
            target = stack.enter_context(replacing(path))
            target.write(head)
            for name in names:
                file = self._of[name]
                self._files[file].copy(sources[file], target, name, tensor(name))


def _weight_map(path: Path) -> dict[str, str]:
    """Names of the files, by tensor."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        found = index["weight_map"]
        if not found or not all(isinstance(x, str) for pair in found.items() for x in pair):
            raise ValueError("its weight_map does not name a file for every tensor")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no index of safetensors files: {error!r}") from None
    return dict(found)


def _piece(index: Path, name: str) -> SafetensorsFile:
    """Open one of the files; an index from elsewhere must not name files outside of its folder."""
    if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
        raise CheckpointError(f"{index} names {name!r}; expected a .safetensors file of the same folder")
    path = index.parent / name
    if not path.is_file():
        raise CheckpointError(f"{index} names {name}, which is not in the folder; fetch all its files")
    return SafetensorsFile(path)
