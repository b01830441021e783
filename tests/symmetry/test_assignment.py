"""Linear assignment: the best of all permutations."""

from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.errors import NonFiniteError, ShapeError
from rebasin_core.symmetry import assignment
from rebasin_core.symmetry.assignment import linear_assignment


@pytest.mark.parametrize("seed", range(5))
def test_no_permutation_scores_higher(seed):
    scores = np.random.default_rng(seed).normal(size=(5, 5))
    rows = np.arange(5)
    best = max(scores[rows, list(p)].sum() for p in permutations(range(5)))
    assert_allclose(scores[rows, linear_assignment(scores)].sum(), best)


def test_a_permutation_matrix_gives_its_index_vector():
    perm = np.array([2, 0, 3, 1])
    assert_array_equal(linear_assignment(np.eye(4)[perm]), perm)
    assert linear_assignment(np.eye(2, dtype=np.float32)).dtype == np.int64


@pytest.mark.parametrize("levels", [0.0, 10.0, 1e6])
def test_large_scores_are_assigned_as_small_ones_are(levels, monkeypatch):
    """Reducing the rows and columns favors no permutation, and leaves the scores that came as they were."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 40)) + levels * (rng.normal(size=40) + rng.normal(size=(40, 1)))
    before, plain = scores.copy(), linear_assignment(scores)
    monkeypatch.setattr(assignment, "WORTH_REDUCING", 40)
    assert_array_equal(linear_assignment(scores), plain)
    assert_array_equal(scores, before)


def test_a_planted_permutation_of_many_units_is_found():
    rng = np.random.default_rng(0)
    n = assignment.WORTH_REDUCING
    perm = rng.permutation(n)
    assert_array_equal(linear_assignment(np.eye(n)[perm] + 0.05 * rng.normal(size=(n, n))), perm)


def test_a_batch_is_assigned_one_by_one():
    scores = np.random.default_rng(0).normal(size=(3, 4, 4))
    assert_array_equal(linear_assignment(scores), [linear_assignment(s) for s in scores])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (1, 2, 2, 2)])
def test_scores_that_are_not_square_are_refused(shape):
    with pytest.raises(ShapeError, match=r"square"):
        linear_assignment(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(NonFiniteError):
        linear_assignment(np.array([[bad, 0.0], [0.0, 1.0]]))
