"""What the parts of the operator share."""

import pytest

from rebasin_core.sinkhorn_operator.kernel import compute_dtype


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float8_e4m3fn", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("float128", "float64"),
    ],
)
def test_half_precision_computes_in_single(dtype, expected):
    assert compute_dtype(dtype) == expected
