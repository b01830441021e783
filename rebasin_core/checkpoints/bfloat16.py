"""bfloat16, which NumPy lacks: the upper half of a float32, by its bits."""

from typing import Any

import numpy as np

__all__ = ["from_bfloat16", "to_bfloat16"]


def from_bfloat16(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the float32 numbers that these 16-bit integers mean; all of them are exact.

    Examples
    --------
    >>> from_bfloat16(np.array([0x3F80, 0xC000], "uint16"))
    array([ 1., -2.], dtype=float32)
    """
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def to_bfloat16(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the bits of the nearest bfloat16, ties to even, as 16-bit integers; NaN stays NaN.

    Examples
    --------
    >>> [hex(b) for b in to_bfloat16(np.array([1.0, 1.001, np.nan], "float32"))]
    ['0x3f80', '0x3f80', '0x7fc0']
    """
    wide = np.ascontiguousarray(x, np.float32).view(np.uint32)
    upper = wide >> np.uint32(16)
    rounded = (wide + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    # A NaN is cut off, not rounded, which could carry it over to a number; one with nothing above the cut gets a bit.
    quiet = np.where(upper & np.uint32(0x7F), upper, upper | np.uint32(0x40))
    return np.where(np.isnan(x), quiet, rounded).astype(np.uint16)
