"""Reading the one number that a loss, a metric or an objective returned."""

import math
from typing import Any

from rebasin_core.backends import get_backend
from rebasin_core.errors import ShapeError, UnsupportedArrayError

__all__ = ["as_number"]


def as_number(value: Any, what: str) -> float:
    """Turn a Python number or an array of one entry, of any framework, into a float.

    Raises
    ------
    UnsupportedArrayError, ShapeError
        Something else came; the message says that `what` returned it.
    """
    if isinstance(value, (int, float)):
        return float(value)
    try:
        shape = tuple(value.shape)
    except AttributeError:
        raise UnsupportedArrayError(f"{what} returned {type(value).__name__}; it must return a scalar") from None
    if math.prod(shape) != 1:
        raise ShapeError(
            f"{what} returned an array of shape {shape}; it must return a scalar, e.g. the mean over the batch"
        )
    return float(get_backend(value).to_numpy(value).reshape(()))
