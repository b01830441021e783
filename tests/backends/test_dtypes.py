"""Floating dtypes: one rule for those of every framework."""

import numpy as np
import pytest

from rebasin_core.backends.dtypes import is_floating, is_narrow, resolution

OF_NUMPY = ("float16", "float32", "float64", np.dtype(np.longdouble).name)
OTHERS = ("bool", "int8", "int64", "uint4", "complex64", "complex128", "complex32", "qint8", "object")


def check_resolution(dtype, rounded):
    """`rounded` takes numbers to the dtype and back: those near 1 must go to 1 or to 1 and the resolution."""
    step = np.longdouble(resolution(dtype))
    nearest = rounded(1 + step * np.array([0.0, 0.25, 0.75, 1.0], np.longdouble))
    assert list(nearest) == [1, 1, 1 + step, 1 + step]
    assert is_floating(dtype)
    assert is_narrow(dtype) == (dtype not in OF_NUMPY[1:])


@pytest.mark.parametrize("dtype", OF_NUMPY)
def test_one_plus_the_resolution_is_the_next_number_in_floats_of_numpy(dtype):
    check_resolution(dtype, lambda x: x.astype(dtype).astype(np.longdouble))


def test_one_plus_the_resolution_is_the_next_number_in_floats_that_numpy_lacks():
    ml_dtypes = pytest.importorskip("ml_dtypes")  # those of JAX and TensorFlow
    kinds = {name: kind for name, kind in vars(ml_dtypes).items() if isinstance(kind, type) and "float" in name}
    assert kinds.keys() >= {"bfloat16", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e4m3b11fnuz"}
    for name, kind in kinds.items():
        check_resolution(name, lambda x, kind=kind: x.astype(kind).astype(np.longdouble))


@pytest.mark.parametrize("dtype", OTHERS)
def test_what_is_not_floating_has_no_resolution(dtype):
    assert (is_floating(dtype), is_narrow(dtype), resolution(dtype)) == (False, False, 0.0)
