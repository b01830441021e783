"""Episodic memory: a few samples of every task, kept for later ones."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.continual.nested import flatten, map_leaves, take_rows, to_host, unflatten
from rebasin_core.errors import DataError

__all__ = ["Head", "Picker", "TaskMemory", "class_numbers", "target_array"]

Head: TypeAlias = int | str | None
"""The output of a model with several that belongs to a task: its index or key; None where there is one output."""


@dataclass(frozen=True)
class TaskMemory:
    """Samples of one task, as NumPy arrays.

    Attributes
    ----------
    task : int, str or None
        The head the task was learned with, or its label where the model has one output.
    inputs : ndarray, or tuple or dict of them
        As the model takes them, samples along the first axis.
    targets : ndarray, shape (n, ...)
        What was to be learned.

    Examples
    --------
    >>> len(TaskMemory(0, np.zeros((10, 3)), np.zeros(10, int)))
    10
    """

    task: Head
    inputs: Any
    targets: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.targets)


class Picker:
    """Chooses samples while data go by: as many of every class, each with the same chance, and each once.

    Every sample draws a number, and those with the lowest of their class are kept; so it does not matter how the data
    are cut into batches, nor how many there are.

    Parameters
    ----------
    per_class : int
        Samples per class, fewer where the data have fewer; per task where targets are no class numbers.
    rng : numpy.random.Generator
        Draws the numbers.
    """

    def __init__(self, per_class: int, rng: np.random.Generator) -> None:
        self._per_class, self._rng = per_class, rng
        # Per class: (number drawn, arrays of the inputs, target), the lowest first.
        self._kept: dict[int, list[tuple[float, list[Any], Any]]] = {}
        self._structure: Any = None

    def add(self, inputs: Any, targets: Any) -> None:
        """Look at one batch.

        Raises
        ------
        DataError
            The targets are not one array, or the inputs have another structure than those before.
        """
        host = target_array(targets)
        classes = class_numbers(host)
        labels = np.zeros(len(host), dtype=np.int64) if classes is None else classes
        drawn = self._rng.random(len(host))
        order = np.lexsort((drawn, labels))
        _, first = np.unique(labels[order], return_index=True)
        rank = np.arange(len(order)) - np.repeat(first, np.diff([*first, len(order)]))
        rows = order[rank < self._per_class]
        leaves, structure = flatten(to_host(take_rows(inputs, rows)))
        if self._structure not in (None, structure):
            raise DataError("the inputs of one task have several structures; pass the same arrays with every batch")
        self._structure = structure
        for i, row in enumerate(rows):
            kept = self._kept.setdefault(int(labels[row]), [])
            kept.append((float(drawn[row]), [leaf[i] for leaf in leaves], host[row]))
        for kept in self._kept.values():
            kept.sort(key=lambda sample: sample[0])
            del kept[self._per_class :]

    def memory(self, task: Head) -> TaskMemory:
        """Return what was chosen, class by class."""
        samples = [sample for label in sorted(self._kept) for sample in self._kept[label]]
        columns = zip(*(leaves for _, leaves, _ in samples), strict=True)
        try:
            inputs = unflatten([np.stack(column) for column in columns], self._structure)
        except ValueError:
            raise DataError(
                "samples of different shapes cannot be kept together; pad the inputs of a task to one shape, or pass "
                "memory_per_class=None to keep none"
            ) from None
        return TaskMemory(task, inputs, np.stack([target for _, _, target in samples]))


def target_array(targets: Any) -> np.ndarray[Any, Any]:
    """Copy targets to NumPy; raise `DataError` unless they are one array or one list of numbers."""
    arrays, structure = flatten(targets)
    if structure != 0:
        raise DataError(
            f"targets came as a {type(targets).__name__} of several arrays; a memory keeps one array of targets. Join "
            f"them, or pass memory_per_class=None to keep none"
        )
    host: np.ndarray[Any, Any] = map_leaves(lambda x: get_backend(x).to_numpy(x), arrays[0])
    return host


def class_numbers(targets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Class of every sample, shape (n,), where the targets are whole numbers, one per sample; None elsewhere.

    Examples
    --------
    >>> class_numbers(np.array([[2], [0]])), class_numbers(np.array([0.5, 1.0]))
    (array([2, 0]), None)
    """
    if targets.dtype.kind not in "iub" or targets.size != len(targets):
        return None
    return targets.reshape(-1).astype(np.int64)
