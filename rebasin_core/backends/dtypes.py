"""Floating numbers: how finely a dtype resolves them, in which one narrow ones are summed, whether all are finite."""

import numpy as np

from rebasin_core.backends.protocol import Array, Backend, DtypeName

__all__ = ["all_finite", "resolution", "widened"]

# Names that NumPy lacks; float16 is among them to say what counts as narrow.
_NARROW = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float8_e4m3fn": 2.0**-3, "float8_e5m2": 2.0**-2}


def resolution(dtype: DtypeName) -> float:
    """Distance from 1 to the next number; 0 for a dtype that is not floating.

    Examples
    --------
    >>> resolution("bfloat16"), resolution("int64")
    (0.0078125, 0.0)
    """
    if "float" not in dtype:
        return 0.0
    return _NARROW[dtype] if dtype in _NARROW else float(np.finfo(dtype).eps)


def widened(backend: Backend, x: Array) -> Array:
    """Convert half precision to float32, in which sums over many weights neither overflow nor round; others stay."""
    return backend.astype(x, "float32") if backend.dtype(x) in _NARROW else x


def all_finite(backend: Backend, x: Array) -> bool:
    """Whether an array holds neither NaN nor infinity: its extremes show it, without a temporary of its size."""
    if 0 in backend.shape(x):
        return True
    x = backend.stop_gradient(x)
    return not backend.any(~backend.isfinite(backend.max(x)) | ~backend.isfinite(backend.min(x)))
