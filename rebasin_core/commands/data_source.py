"""Data, losses and metrics as they are named on the command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rebasin_core.backends.dtypes import is_floating
from rebasin_core.checkpoints.objects import call_object, load_object
from rebasin_core.errors import DataError, RebasinError, SettingError
from rebasin_core.models.adapter import Loss
from rebasin_core.models.data import Batches, as_batches
from rebasin_core.models.model import Model

__all__ = ["DataSource", "find_loss", "find_metric", "read_data"]

TRAIN = (("x_train", "y_train"), ("x", "y"), ("inputs", "targets"), ("x_test", "y_test"))
TEST = (("x_test", "y_test"), ("x", "y"), ("inputs", "targets"), ("x_train", "y_train"))


@dataclass(frozen=True)
class DataSource:
    """What `--data` names.

    Attributes
    ----------
    train : data
        What statistics are measured on, and what objectives with data learn from.
    test : data
        What losses and accuracies are measured on; the same data where there is no other.
    batch_size : int
        For pairs of arrays.
    """

    train: Any
    test: Any
    batch_size: int

    def for_training(self, model: Model) -> Batches:
        """Batches for the model's framework."""
        return as_batches(_for(model, self.train), self.batch_size)

    def for_measuring(self, model: Model) -> Batches:
        """Batches for the model's framework."""
        return as_batches(_for(model, self.test), self.batch_size)

    def example(self) -> tuple[Any, ...]:
        """A few inputs, to trace a network with."""
        inputs = as_batches(self.train, min(2, self.batch_size)).first(1)[0][0]
        return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def read_data(name: str | None, batch_size: int) -> DataSource | None:
    """Read what `--data` names; None where it names nothing.

    Parameters
    ----------
    name : str, optional
        ``FILE.npz``, or ``package.module:function`` of a function without arguments that returns pairs, or a dictionary
        of the two: ``{"train": pairs, "test": pairs}``.
    batch_size : int
        Samples per batch, where the data are a pair of arrays.

    Raises
    ------
    DataError, SettingError
        There is no such file or function, or it does not hold pairs.
    """
    if name is None:
        return None
    if name.endswith(".npz"):
        arrays = _arrays(Path(name))
        return DataSource(_pair(arrays, TRAIN, name), _pair(arrays, TEST, name), batch_size)
    if ":" not in name:
        raise SettingError(f"expected --data as FILE.npz or package.module:function, got {name!r}")
    found = load_object(name, "--data")
    data = call_object(found, {}, f"--data {name}") if callable(found) else found
    if isinstance(data, dict) and data.keys() == {"train", "test"}:
        return DataSource(_kept(data["train"], batch_size), _kept(data["test"], batch_size), batch_size)
    kept = _kept(data, batch_size)
    return DataSource(kept, kept, batch_size)


def _kept(data: Any, batch_size: int) -> Any:
    """Data that can be read several times; arrays of NumPy stay what they are until the framework is known."""
    return data if _is_pair(data) else as_batches(data, batch_size)


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # a damaged archive fails in many ways
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"--data {path} cannot be read: {reason}") from error


def _pair(arrays: dict[str, Any], names: Sequence[tuple[str, str]], file: str) -> tuple[Any, Any]:
    for x, y in names:
        if x in arrays and y in arrays:
            return arrays[x], arrays[y]
    raise DataError(
        f"--data {file} holds {', '.join(map(repr, arrays)) or 'nothing'}; expected arrays x and y, or inputs and "
        f"targets, or x_train, y_train, x_test and y_test"
    )


def _is_pair(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(x, np.ndarray) for x in data)


def _for(model: Model, data: Any) -> Any:
    """Arrays of NumPy as those of the model's framework: its losses take no others. Whole numbers stay whole."""
    if not _is_pair(data):
        return data
    backend = model.backend
    like = next(x for x in model.params.values() if is_floating(backend.dtype(x)))
    return tuple(
        backend.asarray(x, like=like) if x.dtype.kind == "f" else backend.asarray(x, like=like, dtype="int64")
        for x in data
    )


def find_loss(name: str | None, model: Model) -> Loss:
    """Return the loss that `--loss` names: the framework's, the user's own, or None for the model's own."""
    found = load_object(name, "--loss") if name is not None and ":" in name else name
    return _guarded(model.loss(found), f"--loss {name}" if name else "the model's own loss")


def find_metric(name: str, model: Model) -> Loss:
    """Return the metric that `--metric` names."""
    found = load_object(name, "--metric") if ":" in name else name
    return _guarded(model.adapter.metric(model.source, found), f"--metric {name}")


def _guarded(function: Callable[[Any, Any], Any], what: str) -> Loss:
    def guarded(outputs: Any, targets: Any) -> Any:
        try:
            return function(outputs, targets)
        except RebasinError:
            raise
        except Exception as error:  # of the framework, or of the user's function
            raise DataError(
                f"{what} cannot be computed of outputs {_told(outputs)} and targets {_told(targets)}: {error}"
            ) from error

    return guarded


def _told(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"of shape {tuple(shape)} and dtype {value.dtype}"
