"""The data of one task, read once to learn what they are and then as often as there are epochs."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rebasin_core.continual.memory import Picker, class_numbers, target_array
from rebasin_core.continual.nested import flatten, map_leaves, take_rows
from rebasin_core.errors import DataError
from rebasin_core.models.data import Batch, as_batches
from rebasin_core.models.data import batch_size as count

__all__ = ["TaskData"]


class TaskData:
    """Batches of one task.

    A pair of arrays is shuffled again for every epoch and cut into nearly equal parts of at most `batch_size` samples,
    so that none is left with a single sample, which batch normalization cannot do with. Batches that the user made stay
    as they are; a list of them is read in a new order each time, a loader in its own.

    Parameters
    ----------
    data : pair of arrays or iterable of pairs
        As for `rebasin_core.models.data.as_batches`.
    batch_size : int
        Most samples per batch of a pair of arrays.
    convert : callable
        Applied to inputs and targets of every batch.
    """

    def __init__(self, data: Any, batch_size: int, convert: Callable[[Any], Any]) -> None:
        self._batches = as_batches(data)
        self._convert = convert
        source = self._batches.source
        self._whole: Batch | None = None
        if isinstance(source, list) and len(source) == 1:
            inputs, targets = next(iter(self._batches))
            # Targets may be of any kind that the loss reads; only arrays and lists can be cut into rows.
            self._whole = map_leaves(lambda x: x, inputs), _as_rows(targets)
        self._size = batch_size
        self.steps = 0

    def inspect(self, picker: Picker | None) -> tuple[Any, np.ndarray[Any, Any] | None]:
        """Go through the data once: count the batches, and show every sample to the picker.

        Returns
        -------
        sample : inputs
            Of two samples, to try the model on.
        classes : ndarray or None
            The class numbers that occur; None where targets are none.

        Raises
        ------
        DataError
            No data, or targets that cannot be kept.
        """
        seen: set[int] | None = set()
        sample: Any = None
        self.steps = 0
        for inputs, targets in self._batches:
            n = count((inputs, targets))
            if n == 0:
                raise DataError("a batch is empty; leave out batches without samples")
            if sample is None:
                sample = take_rows(inputs, np.arange(min(n, 2)))
            if picker is not None:
                picker.add(inputs, targets)
            classes = _classes(targets)
            seen = None if seen is None or classes is None else seen | {int(c) for c in np.unique(classes)}
            self.steps += -(-n // self._size) if self._whole is not None else 1
        return self._convert(sample), None if seen is None else np.array(sorted(seen))

    def stream(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield batches without end."""
        if self._whole is None:
            for inputs, targets in self._batches.shuffled(rng):
                yield self._convert(inputs), self._convert(targets)
            return
        while True:
            order = rng.permutation(count(self._whole))
            for rows in np.array_split(order, -(-len(order) // self._size)):
                inputs, targets = (take_rows(values, rows) for values in self._whole)
                yield self._convert(inputs), self._convert(targets)

    def once(self) -> Iterator[Batch]:
        """Yield every batch once, in order."""
        if self._whole is None:
            for inputs, targets in self._batches:
                yield self._convert(inputs), self._convert(targets)
            return
        n = count(self._whole)
        for rows in np.array_split(np.arange(n), -(-n // self._size)):
            inputs, targets = (take_rows(values, rows) for values in self._whole)
            yield self._convert(inputs), self._convert(targets)


def _as_rows(targets: Any) -> Any:
    return map_leaves(lambda x: x, targets)


def _classes(targets: Any) -> np.ndarray[Any, Any] | None:
    """Class numbers of a batch; None for targets of another kind."""
    _, structure = flatten(targets)
    return class_numbers(target_array(targets)) if structure == 0 else None
