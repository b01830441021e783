"""Accuracy and forgetting of a run on one task after the other.

A run is a matrix: row k holds the accuracies after task k, column j those on task j, NaN where j was not learned yet.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

__all__ = ["average_accuracy", "forgetting", "spread"]

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def average_accuracy(matrix: Sequence[Sequence[float]] | Matrix) -> float:
    """Mean accuracy over all tasks after the last one, from 0 to 1."""
    return float(np.mean(np.asarray(matrix, dtype=float)[-1]))


def forgetting(matrix: Sequence[Sequence[float]] | Matrix) -> float:
    """Accuracy just after a task was learned minus the one at the end, mean over all tasks but the last.

    It is Avalanche's definition, and negative where later tasks have helped earlier ones. Others subtract from the best
    accuracy a task has ever had. NaN where the run has not been measured after every task.
    """
    found = np.asarray(matrix, dtype=float)
    return float(np.mean(np.diag(found)[:-1] - found[-1, :-1])) if len(found) > 1 else float("nan")


def spread(values: Iterable[float], digits: int, factor: float = 1.0) -> str:
    """Mean ± standard deviation over seeds, as text; of one seed its value, of nothing a dash."""
    array = factor * np.array(list(values), dtype=float)
    if not len(array) or np.isnan(array).any():
        return "–"
    if len(array) == 1:
        return f"{array[0]:.{digits}f}"
    return f"{array.mean():.{digits}f} ± {array.std():.{digits}f}"
