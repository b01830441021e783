"""The marginal error, as users see it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rebasin_core.errors import ShapeError
from rebasin_core.sinkhorn_operator import marginal_error


def test_error_is_the_largest_deviation_over_the_mean_marginal():
    P = np.full((2, 3), 1 / 3)
    assert_allclose(marginal_error(P), 0.0, atol=1e-15)
    P[0, 0] += 0.2  # row 0 is off by 0.2 of a mean of 1, column 0 by 0.2 of a mean of 2 / 3
    assert_allclose(marginal_error(P), 0.3)


def test_error_does_not_depend_on_the_mass():
    rng = np.random.default_rng(0)
    P = rng.uniform(size=(4, 3, 5))
    row, col = rng.uniform(size=3), rng.uniform(size=(4, 5))
    assert marginal_error(P, (row, col)).shape == (4,)
    assert_allclose(marginal_error(1e-3 * P, (1e-3 * row, 1e-3 * col)), marginal_error(P, (row, col)))


def test_shape_is_checked():
    with pytest.raises(ShapeError, match=r"\(\.\.\., m, n\)"):
        marginal_error(np.zeros(3))
