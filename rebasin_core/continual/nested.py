"""Inputs of a model as nested arrays: rows of them, their leaves, and the way back.

Inputs are an array, or tuples, lists and mappings of such. Lists come from loaders, which make one of the arrays of a
model with several inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array
from rebasin_core.errors import DataError

__all__ = ["flatten", "map_leaves", "take_rows", "to_host", "unflatten"]


def map_leaves(function: Callable[[Array], Any], values: Any) -> Any:
    """Apply a function to every array of nested values; lists become tuples, a list of numbers an array.

    Raises
    ------
    DataError
        Something is neither an array nor a container of arrays.
    """
    if isinstance(values, Mapping):
        return {key: map_leaves(function, value) for key, value in values.items()}
    if isinstance(values, tuple) or (isinstance(values, list) and any(hasattr(x, "shape") for x in values)):
        return tuple(map_leaves(function, value) for value in values)
    if isinstance(values, list):
        values = np.asarray(values)
    if not hasattr(values, "shape") or (isinstance(values, np.ndarray) and values.dtype.kind not in "biuf"):
        raise DataError(
            f"expected arrays of numbers, or tuples and mappings of them, got {type(values).__name__}; convert what a "
            f"loader yields, as in (np.asarray(x), np.asarray(y))"
        )
    return function(values)


def take_rows(values: Any, rows: np.ndarray[Any, Any]) -> Any:
    """Entries of every array at these places of its first axis."""

    def take(x: Array) -> Array:
        backend = get_backend(x)
        return backend.take(x, backend.asarray(rows, like=x, dtype="int64"), 0)

    return map_leaves(take, values)


def to_host(values: Any) -> Any:
    """Copy every array to NumPy."""
    return map_leaves(lambda x: get_backend(x).to_numpy(x), values)


def flatten(values: Any) -> tuple[list[Array], Any]:
    """Return the arrays in a list, and their nesting in words that JSON knows.

    Examples
    --------
    >>> flatten({"ids": np.zeros(2), "mask": np.ones(2)})
    ([array([0., 0.]), array([1., 1.])], {'mapping': [['ids', 0], ['mask', 1]]})
    """
    leaves: list[Array] = []

    def walk(values: Any) -> Any:
        if isinstance(values, Mapping):
            return {"mapping": [[key, walk(value)] for key, value in values.items()]}
        if isinstance(values, tuple):
            return {"tuple": [walk(value) for value in values]}
        leaves.append(values)
        return len(leaves) - 1

    return leaves, walk(map_leaves(lambda x: x, values))


def unflatten(leaves: Sequence[Array], structure: Any) -> Any:
    """Undo `flatten`."""
    if isinstance(structure, int):
        return leaves[structure]
    if "tuple" in structure:
        return tuple(unflatten(leaves, part) for part in structure["tuple"])
    return {key: unflatten(leaves, part) for key, part in structure["mapping"]}
