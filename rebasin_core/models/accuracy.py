"""The share of predictions that are right: what the metric "accuracy" comes down to, whatever the framework."""

from typing import Any

import numpy as np

from rebasin_core.errors import ShapeError

__all__ = ["share_right"]


def share_right(found: np.ndarray[Any, Any], wanted: Any, needs: str = "one class per row of outputs") -> float:
    """Return the share of predictions that are as wanted (dimensionless, 0 to 1).

    Parameters
    ----------
    found : ndarray
        Predictions: numbers or names of classes.
    wanted : array-like
        As many, in the same order, in any shape.
    needs : str
        What targets must be, for the message.

    Raises
    ------
    ShapeError
        There are more targets or fewer.

    Examples
    --------
    >>> share_right(np.array([0, 1, 1, 2]), [[0], [1], [2], [2]])
    0.75
    """
    wanted = np.asarray(wanted)
    if found.size != wanted.size:
        raise ShapeError(
            f"accuracy needs {needs}; got targets of shape {wanted.shape} for predictions of shape {found.shape}"
        )
    return float(np.mean(found == wanted.reshape(found.shape)))
