"""Floating dtypes: which ones there are, how finely they resolve, where to sum narrow ones, whether all is finite."""

import re

import numpy as np

from rebasin_core.backends.protocol import Array, Backend, DtypeName

__all__ = ["all_finite", "is_floating", "is_inexact", "is_narrow", "resolution", "widened"]

# NumPy has no finfo for these; the names of types of 8, 6 and 4 bits say it: float8_e4m3fn has 3 bits of mantissa.
_BFLOAT16 = 2.0**-7
_MANTISSA = re.compile(r"^float\d+_e\d+m(\d+)")


def is_floating(dtype: DtypeName) -> bool:
    """Whether a dtype holds real floating numbers, of whatever width.

    Examples
    --------
    >>> is_floating("float8_e4m3fn"), is_floating("complex64"), is_floating("int64")
    (True, False, False)
    """
    return "float" in dtype


def is_inexact(dtype: DtypeName) -> bool:
    """Whether a dtype holds numbers that can be averaged, real or complex: no counters and no flags.

    Examples
    --------
    >>> is_inexact("bfloat16"), is_inexact("complex64"), is_inexact("bool")
    (True, True, False)
    """
    return is_floating(dtype) or "complex" in dtype


def resolution(dtype: DtypeName) -> float:
    """Distance from 1 to the next number; 0 for a dtype that is not floating.

    Examples
    --------
    >>> resolution("bfloat16"), resolution("float8_e5m2"), resolution("int64")
    (0.0078125, 0.25, 0.0)
    """
    if not is_floating(dtype):
        return 0.0
    if dtype == "bfloat16":
        return _BFLOAT16
    mantissa = _MANTISSA.match(dtype)
    return 2.0 ** -int(mantissa[1]) if mantissa else float(np.finfo(dtype).eps)


def is_narrow(dtype: DtypeName) -> bool:
    """Whether sums and small steps get lost in a floating dtype: it is coarser than float32.

    Examples
    --------
    >>> is_narrow("float16"), is_narrow("float32")
    (True, False)
    """
    return resolution(dtype) > resolution("float32")


def widened(backend: Backend, x: Array) -> Array:
    """Convert a narrow dtype to float32, in which sums over many weights neither overflow nor round; others stay."""
    return backend.astype(x, "float32") if is_narrow(backend.dtype(x)) else x


def all_finite(backend: Backend, x: Array) -> bool:
    """Whether an array holds neither NaN nor infinity: its extremes show it, without a temporary of its size."""
    if 0 in backend.shape(x):
        return True
    x = backend.stop_gradient(x)
    return not backend.any(~backend.isfinite(backend.max(x)) | ~backend.isfinite(backend.min(x)))
