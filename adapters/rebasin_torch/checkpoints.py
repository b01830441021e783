"""Files of ``torch.save``: ``.pt`` and ``.pth``, weights only."""

import copy
import warnings
import zipfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rebasin_core.backends.dtypes import is_narrow
from rebasin_core.checkpoints.files import NewValues, TensorInfo, like_stored
from rebasin_core.errors import CheckpointError
from rebasin_core.support.atomic import replacing
from rebasin_torch.values import dtype_name

__all__ = ["TorchFile"]

# Where training loops keep the weights, beside the epoch and the like.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params")


# Words of torch's refusals of what is more than tensors and plain values.
CODE = ("unsupported global", "unsupported class", "trying to instantiate", "trying to call", "torchscript")
# Those of instructions it does not know: in an archive of torch.save a newer pickle, elsewhere bytes that mean nothing.
UNKNOWN = "unsupported operand"


class TorchFile:
    """A file of ``torch.save`` that holds weights; see `rebasin_core.checkpoints.files.Checkpoint`.

    It holds a ``state_dict()``, or a mapping in which one stands beside plain values, such as the number of the epoch;
    these are kept. Tensors are mapped from the disk where the file is a zip archive, as ``torch.save`` writes it; a new
    file is made in memory. Two names that share one tensor still do in the new file.

    Nothing in the file is run: it is read by ``torch.load(weights_only=True)``.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    CheckpointError
        The file would run code, holds the state of an optimiser or several networks, or is damaged.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.pt"
    >>> torch.save({"epoch": 3, "model": nn.Linear(2, 1).state_dict()}, path)
    >>> file = TorchFile(path)
    >>> {name: str(info) for name, info in file.tensors.items()}
    {'weight': 'float32[1, 2]', 'bias': 'float32[1]'}
    >>> file.write(path, lambda name: np.ones(1) if name == "bias" else None)
    >>> new = torch.load(path)
    >>> new["epoch"], new["model"]["bias"]
    (3, tensor([1.]))
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored = _load(path)
        self._key = _where(path, self._stored)
        self._weights = {name: x for name, x in self._mapping(self._stored).items() if isinstance(x, Tensor)}
        for name, x in self._weights.items():
            _check(path, name, x)
        self.tensors = {name: TensorInfo(tuple(x.shape), dtype_name(x)) for name, x in self._weights.items()}
        first: dict[Any, str] = {}
        owners = {name: first.setdefault(_storage(x), name) for name, x in self._weights.items()}
        self.tied = {name: owner for name, owner in owners.items() if owner != name}
        beside = {} if self._key is None else self._stored
        self.metadata = {str(k): str(x) for k, x in beside.items() if isinstance(x, (bool, int, float, str))}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Read one tensor; floats that NumPy lacks come as float32."""
        x = self._weights[name].detach()
        x = x.float() if is_narrow(dtype_name(x)) and x.dtype is not torch.float16 else x
        return np.array(x.numpy(), order="C")

    def write(self, path: Path, tensor: NewValues) -> None:
        """Write a file with the same names, dtypes, ties and values beside the weights."""
        new: dict[str, Tensor] = {}
        for name, x in self._weights.items():
            new[name] = new[self.tied[name]] if name in self.tied else self._like(name, x, tensor(name))
        stored = copy.copy(self._stored)
        if self._key is not None:
            stored[self._key] = copy.copy(stored[self._key])
        self._mapping(stored).update(new)
        with replacing(path) as file:
            torch.save(stored, file, _use_new_zipfile_serialization=zipfile.is_zipfile(self.path))

    def _mapping(self, stored: Any) -> MutableMapping[str, Any]:
        return stored if self._key is None else stored[self._key]  # type: ignore[no-any-return]

    def _like(self, name: str, x: Tensor, values: np.ndarray[Any, Any] | None) -> Tensor:
        if values is None:
            return x
        values = np.ascontiguousarray(like_stored(values, name, self.tensors[name])).reshape(values.shape)
        made = torch.from_numpy(values).to(x.dtype)
        if isinstance(x, nn.Parameter):
            return nn.Parameter(made, requires_grad=x.requires_grad)
        return made.requires_grad_(x.requires_grad)


def _load(path: Path) -> Any:
    open(path, "rb").close()  # so that a file that may not be read is not called damaged
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it may not understand, which it then refuses
            stored = torch.load(path, weights_only=True, mmap=zipfile.is_zipfile(path), map_location="cpu")
    except Exception as error:  # torch raises nearly anything on bytes that mean nothing
        said = str(error)
        if any(words in said.lower() for words in CODE) or (UNKNOWN in said.lower() and zipfile.is_zipfile(path)):
            raise CheckpointError(
                f"{path} would run code when it is loaded, and was not: it holds more than tensors and plain values. "
                f"Save the weights alone, torch.save(model.state_dict(), ...), where the file comes from"
            ) from None
        # What torch says of a file it does not trust ends in how to trust it: not to be repeated.
        reason = "" if "weights_only" in said else f": {said[:200]}"
        raise CheckpointError(f"{path} is no file of torch.save, or is damaged{reason}") from None
    if not isinstance(stored, MutableMapping):
        raise CheckpointError(
            f"{path} holds a {type(stored).__name__}; expected tensors by name, as torch.save(model.state_dict(), ...) "
            f"writes them"
        )
    return stored


def _where(path: Path, stored: Mapping[Any, Any]) -> str | None:
    """The entry under which the weights stand; None where they are the whole."""
    for key, value in stored.items():
        if isinstance(value, Mapping) and "param_groups" in value:
            raise CheckpointError(
                f"{path} holds the state of an optimiser, {key!r}: what it remembers of every weight belongs to the "
                f"order of the weights as it is now. Save the weights alone, and let the optimiser start afresh"
            )
    inside = [key for key, value in stored.items() if isinstance(value, MutableMapping) and _has_tensors(value)]
    if _has_tensors(stored):
        inside = [key for key in inside if key in WRAPPERS]
        if not inside:
            return None
    if len(inside) != 1:
        what = f"tensors under each of {', '.join(map(repr, inside))}" if inside else "no tensors by name"
        raise CheckpointError(f"{path} holds {what}; save one network, torch.save(model.state_dict(), ...)")
    return str(inside[0])


def _has_tensors(values: Mapping[Any, Any]) -> bool:
    return any(isinstance(x, Tensor) and isinstance(name, str) for name, x in values.items())


def _check(path: Path, name: Any, x: Tensor) -> None:
    """Raise for what cannot be read as a plain array."""
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: a tensor has the name {name!r}; expected text")
    if x.layout != torch.strided or x.is_quantized or x.is_meta:
        what = "quantised" if x.is_quantized else "without values" if x.is_meta else f"stored as {x.layout}"
        raise CheckpointError(f"{path}: tensor {name!r} is {what}; save it as a dense tensor of plain numbers")
    if x.numel() * x.element_size() > x.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: tensor {name!r} has more entries than the file has numbers for it; save x.clone() of a tensor "
            f"that was expanded"
        )


def _storage(x: Tensor) -> Any:
    """What two tensors have in common that are one; an empty one is none but itself."""
    if x.numel() == 0:
        return id(x)
    return x.data_ptr(), x.dtype, tuple(x.shape), x.stride()
