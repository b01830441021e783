"""Data as batches: pairs of arrays, loaders and iterables, read the same way everywhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Number
from typing import Any, TypeAlias

import numpy as np

from rebasin_core.errors import DataError
from rebasin_core.support.settings import at_least

__all__ = ["Batch", "Batches", "as_batches", "batch_size"]

Batch: TypeAlias = tuple[Any, Any]
"""``(inputs, targets)``; inputs are an array, a tuple or a mapping of arrays."""

EXPECTED = "expected a pair of arrays (inputs, targets) or an iterable of such pairs, e.g. data=(X, y) or data=loader"


@dataclass(frozen=True)
class Batches:
    """An iterable of batches that can be read any number of times."""

    source: Iterable[Batch]

    def __iter__(self) -> Iterator[Batch]:
        empty = True
        for batch in self.source:
            empty = False
            yield _pair(batch)
        if empty:
            raise DataError(f"the data hold no batch; {EXPECTED}")

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield batches without end; a list is read in a new order each time, a loader in its own."""
        while True:
            if isinstance(self.source, list):
                for i in rng.permutation(len(self.source)):
                    yield _pair(self.source[i])
            else:
                yield from self

    def first(self, count: int) -> list[Batch]:
        """Read the first batches and keep them: a loader that shuffles would return others the next time."""
        return list(islice(self, count))


def as_batches(data: Any, size: int | None = None) -> Batches:
    """Read data as batches.

    Parameters
    ----------
    data : pair of arrays, or iterable of pairs
        One pair ``(inputs, targets)``, or anything that yields pairs: a list, a loader. What can be read only once (a
        generator) is read now and kept.
    size : int, optional
        Cut a pair of arrays into batches of this many samples; default: one batch.

    Raises
    ------
    DataError
        Empty data, inputs and targets of different lengths, lists of numbers, or something that yields no pairs.
    SettingError
        A batch size that is no whole number of at least 1.
    """
    if size is not None:
        at_least(1, batch_size=size)
    if data is None:
        raise DataError(f"this needs data; {EXPECTED}")
    if isinstance(data, Batches):
        return data
    if _is_one_pair(data):
        return Batches(_cut(data[0], data[1], size))
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(_is_list_of_numbers(x) for x in data):
        raise DataError(
            "two lists of numbers came, which may be inputs and targets or two batches; pass arrays of your framework, "
            "e.g. data=(np.asarray(inputs), np.asarray(targets))"
        )
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)) or hasattr(data, "shape"):
        raise DataError(f"cannot read {type(data).__name__} as data; {EXPECTED}")
    source = list(data) if isinstance(data, Iterator) else data
    if isinstance(source, Sequence) and len(source) == 0:
        raise DataError(
            f"the data hold no batch; {EXPECTED}. A generator that was already read is empty: pass a list or a loader"
        )
    if isinstance(source, Sequence):
        for batch in source:
            _pair(batch)
    return Batches(source)


def batch_size(batch: Batch) -> int:
    """Count the samples in a batch."""
    return _length(batch[0])


def _is_one_pair(data: Any) -> bool:
    """A list is always a list of batches, unless it holds two arrays; so is a tuple of two pairs."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return False
    if hasattr(data[0], "shape"):
        return True
    return isinstance(data, tuple) and isinstance(data[0], (tuple, Mapping)) and hasattr(data[1], "shape")


def _is_list_of_numbers(x: Any) -> bool:
    while isinstance(x, list) and x:
        x = x[0]
    return _is_number(x)


def _is_number(x: Any) -> bool:
    return isinstance(x, Number) and not hasattr(x, "shape")


def _cut(inputs: Any, targets: Any, size: int | None) -> list[Batch]:
    n = _length(inputs)
    if n == 0:
        raise DataError(f"the data are empty: inputs of length 0; {EXPECTED}")
    if hasattr(targets, "__len__") and len(targets) != n:
        raise DataError(f"inputs and targets differ in length: {n} and {len(targets)}")
    if size is None or size >= n:
        return [(inputs, targets)]
    return [(_rows(inputs, i, size), _rows(targets, i, size)) for i in range(0, n, size)]


def _rows(values: Any, start: int, size: int) -> Any:
    if isinstance(values, tuple):
        return tuple(_rows(v, start, size) for v in values)
    if isinstance(values, Mapping):
        return {key: _rows(v, start, size) for key, v in values.items()}
    return values[start : start + size]


def _length(values: Any) -> int:
    if isinstance(values, Mapping):
        return _length(next(iter(values.values()))) if values else 0
    # Loaders make a list of the arrays of several inputs.
    if isinstance(values, tuple) or (isinstance(values, list) and values and hasattr(values[0], "shape")):
        return _length(values[0]) if values else 0
    shape = getattr(values, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) else 1
    return len(values)


def _pair(batch: Any) -> Batch:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise DataError(f"a batch came as {_describe(batch)}; {EXPECTED}")
    if _is_number(batch[0]):
        raise DataError(f"a batch came as two numbers, {batch[0]!r} and {batch[1]!r}; {EXPECTED}")
    return batch[0], batch[1]


def _describe(batch: Any) -> str:
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)} items"
    shape = getattr(batch, "shape", None)
    return f"one {type(batch).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")
