"""Distillation on the memory: what the model said of the samples before a task is kept beside their targets.

A sample's target says which class it is; the outputs also say how the model told it from the others, and a distance to
them pulls in every direction in which the function could change, not only in that of the loss.

References
----------
.. [1] P. Buzzega, M. Boschini, A. Porrello, D. Abati, S. Calderara. Dark Experience for General Continual Learning: a
   Strong, Simple Baseline. NeurIPS 2020. arXiv:2004.07211. There the outputs are those of the moment a sample was
   stored; here they are those of the model at the start of the task, so that older tasks follow what has improved.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import widened
from rebasin_core.backends.protocol import Array
from rebasin_core.continual.heads import pick
from rebasin_core.continual.memory import Head
from rebasin_core.continual.nested import take_rows
from rebasin_core.errors import ShapeError

__all__ = ["Teacher", "outputs_of", "squared_distance"]

Teacher: TypeAlias = Callable[[Any], Any]
"""``teacher(inputs) -> outputs``: the model before the task."""


def outputs_of(teacher: Teacher, inputs: Any, rows: range, head: Head, size: int) -> Array:
    """Return what the teacher says of rows of the inputs, as an array no gradient flows through.

    Parameters
    ----------
    teacher : callable
        The model before the task, in inference mode.
    inputs : inputs
        As the model takes them.
    rows : range
        Which of them.
    head : int, str or None
        Whose outputs.
    size : int
        Most samples at once.

    Raises
    ------
    ShapeError
        The outputs are not one array with a row per sample.
    """
    found: list[np.ndarray[Any, Any]] = []
    like: Any = None
    for start in range(rows.start, rows.stop, size):
        some = np.arange(start, min(start + size, rows.stop))
        like = pick(teacher(take_rows(inputs, some)), head)
        shape = tuple(getattr(like, "shape", ()))
        if shape[:1] != (len(some),):
            raise ShapeError(
                f"distillation compares the outputs of every sample, and the model returned shape {shape} for "
                f"{len(some)} samples; return an array whose first axis are the samples, or pass distillation=0"
            )
        found.append(get_backend(like).to_numpy(like))
    return get_backend(like).asarray(np.concatenate(found), like=like)


def squared_distance(outputs: Array, before: Array) -> Array:
    """Mean over samples of the squared Euclidean distance, a scalar, at least in float32.

    Examples
    --------
    >>> float(squared_distance(np.array([[1.0, 2.0], [0.0, 0.0]]), np.zeros((2, 2))))
    2.5
    """
    backend = get_backend(outputs)
    gap = widened(backend, outputs) - widened(backend, before)
    return backend.sum(gap * gap) / math.prod(outputs.shape[:1])
