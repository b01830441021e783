"""The public operator: the laws it obeys and the arguments it refuses."""

import warnings

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from rebasin_core.backends import get_backend
from rebasin_core.errors import NonFiniteError, SettingError, ShapeError, UnsupportedArrayError
from rebasin_core.sinkhorn_operator import marginal_error, sinkhorn

X33 = np.random.default_rng(0).normal(size=(3, 3))


# --- laws -------------------------------------------------------------------------------------------------------------
@st.composite
def problems(draw):
    m, n = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tau = draw(st.sampled_from([1.0, 0.3, 0.1, 0.03]))
    stop = draw(st.sampled_from([{"num_iters": 3}, {"num_iters": 20}, {"tol": 1e-10}]))
    X = rng.normal(size=(m, n))
    if draw(st.booleans()):
        X = np.round(X)  # ties
    return rng, X, {"tau": tau, **stop}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_permuting_logits_permutes_the_plan(problem):
    rng, X, options = problem
    m, n = X.shape
    Q, R = np.eye(m)[rng.permutation(m)], np.eye(n)[rng.permutation(n)]
    assert_allclose(sinkhorn(Q @ X @ R, **options), Q @ sinkhorn(X, **options) @ R, rtol=1e-7, atol=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_plan_is_nonnegative_with_exact_rows_and_the_error_it_reports(problem):
    _, X, options = problem
    plan, error = sinkhorn(X, **options, return_error=True)
    assert np.all(plan >= 0.0)
    assert_allclose(plan.sum(axis=1), 1.0, rtol=1e-9)
    columns = plan.sum(axis=0) * X.shape[1] / X.shape[0]
    assert_allclose(error, max(np.abs(columns - 1.0).max(), np.abs(plan.sum(axis=1) - 1.0).max()), atol=1e-14)
    assert "tol" not in options or error <= 1e-10


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_constants_added_to_rows_and_columns_change_nothing(problem):
    rng, X, options = problem
    m, n = X.shape
    shifted = X + rng.normal(size=(1, n))
    if "tol" in options:
        shifted = shifted + rng.normal(size=(m, 1))  # an early stop starts with columns, and sees the rows' scale
    assert_allclose(sinkhorn(shifted, **options), sinkhorn(X, **options), rtol=1e-6, atol=1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_transposing_square_logits_transposes_the_plan(problem):
    _, X, options = problem
    X = X[: min(X.shape), : min(X.shape)]
    options = {"tau": options["tau"], "tol": 1e-10}
    assert_allclose(sinkhorn(X.T, **options), sinkhorn(X, **options).T, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"num_iters": 4}, {"tol": 1e-10}])
def test_batches_are_stacks_of_single_problems(options):
    rng = np.random.default_rng(1)
    X, G = rng.normal(size=(2, 2, 3, 5, 5))
    plan, error = sinkhorn(X, 0.2, **options, return_error=True)
    gradient = autograd.grad(lambda X: anp.sum(sinkhorn(X, 0.2, **options) * G))(X)
    assert plan.shape == X.shape
    assert error.shape == (2, 3)
    for i in np.ndindex(2, 3):
        assert_allclose(plan[i], sinkhorn(X[i], 0.2, **options), rtol=1e-8, atol=1e-12)
        single = autograd.grad(lambda x, G=G[i]: anp.sum(sinkhorn(x, 0.2, **options) * G))(X[i])
        assert_allclose(gradient[i], single, rtol=1e-6, atol=1e-9)


def test_temperature_tends_to_the_best_permutation():
    perm = np.random.default_rng(2).permutation(20)
    X = np.eye(20)[perm] + 0.1 * np.random.default_rng(3).normal(size=(20, 20))
    assert_allclose(sinkhorn(X, 1e-3, tol=1e-8), np.eye(20)[perm], atol=1e-8)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"tol": 1e-4}])
def test_dtype_is_kept(dtype, options):
    plan = sinkhorn(X33.astype(dtype), 0.5, **options)
    assert plan.dtype == dtype
    assert_allclose(plan, sinkhorn(X33, 0.5, tol=1e-12), atol=3 * np.finfo(dtype).eps + 1e-5)


def test_temperature_may_be_any_scalar():
    expected = sinkhorn(X33, 0.5)
    for tau in (np.float32(0.5), np.array(0.5), np.float64(0.5)):
        assert_allclose(sinkhorn(X33, tau), expected, rtol=1e-14)
    assert_allclose(sinkhorn(X33, 1), sinkhorn(X33), rtol=1e-14)


# --- marginals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mass", [1e-6, 1.0, 1e6])
def test_marginals_are_met_whatever_their_scale(mass):
    rng = np.random.default_rng(4)
    row, col = rng.uniform(0.1, 2.0, size=4), rng.uniform(0.1, 2.0, size=6)
    row, col = mass * row / row.sum(), mass * col / col.sum()
    X = rng.normal(size=(3, 4, 6))
    plan, error = sinkhorn(X, 0.1, tol=1e-10, marginals=(row, col), return_error=True)
    assert_allclose(plan.sum(axis=-1), np.broadcast_to(row, (3, 4)), rtol=1e-8)
    assert_allclose(plan.sum(axis=-2), np.broadcast_to(col, (3, 6)), rtol=1e-8)
    assert_allclose(error, marginal_error(plan, (row, col)), atol=1e-13)
    assert np.all(error <= 1e-10)


def test_marginals_may_differ_over_the_batch():
    rng = np.random.default_rng(5)
    row = rng.uniform(0.5, 1.5, size=(2, 4))
    col = rng.uniform(0.5, 1.5, size=(2, 4))
    col *= row.sum(-1, keepdims=True) / col.sum(-1, keepdims=True)
    X = rng.normal(size=(2, 4, 4))
    plan = sinkhorn(X, tol=1e-11, marginals=(row, col))
    assert_allclose(plan.sum(-1), row, rtol=1e-9)
    assert_allclose(plan.sum(-2), col, rtol=1e-9)


def test_iterations_with_marginals_are_those_of_the_log_domain(reference):
    rng = np.random.default_rng(6)
    row, col = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(6))
    X = rng.normal(size=(4, 6))
    plan = sinkhorn(X, 0.1, 7, marginals=(row, col))
    assert_allclose(plan, reference.log_domain(X, 0.1, 7, row, col), rtol=1e-10)


def test_equal_marginals_are_the_default():
    expected = sinkhorn(X33, 0.3, tol=1e-10)
    assert_allclose(sinkhorn(X33, 0.3, tol=1e-10, marginals=(np.ones(3), [1.0, 1.0, 1.0])), expected, rtol=1e-12)


# --- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "tau.*positive"),
        ({"tau": -1.0}, "tau.*positive"),
        ({"tau": np.inf}, "tau as a positive number"),
        ({"tau": np.nan}, "tau as a positive number"),
        ({"tau": np.array(-0.5)}, "tau.*positive"),
        ({"tau": True}, "tau.*positive"),
        ({"num_iters": 0}, "num_iters.*at least 1, got 0"),
        ({"num_iters": 2.5}, "num_iters.*got 2.5"),
        ({"num_iters": True}, "num_iters.*got True"),
        ({"tol": 0.0}, "tol.*positive"),
        ({"tol": -1e-3}, "tol.*positive"),
        ({"tol": np.nan}, "tol.*positive"),
        ({"tol": "small"}, "tol.*positive"),
        ({"num_iters": 5, "tol": 1e-3}, "num_iters or tol, got both"),
        ({"marginals": (np.ones(3), np.array([1.0, 2.0, 0.0]))}, "positive, finite column sums"),
        ({"marginals": (np.array([1.0, np.nan, 1.0]), np.ones(3))}, "positive, finite row sums"),
        ({"marginals": (np.ones(3), 2 * np.ones(3))}, "equal mass, got"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        sinkhorn(X33, **options)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (np.zeros((2, 2), dtype=int), UnsupportedArrayError, "floating dtype, got int64"),
        (np.zeros((2, 2), dtype=bool), UnsupportedArrayError, "floating dtype, got bool"),
        (np.zeros((2, 2), dtype=complex), UnsupportedArrayError, "floating dtype, got complex128"),
        ([[1.0, 2.0]], UnsupportedArrayError, "np.asarray"),
        (3.0, UnsupportedArrayError, "np.asarray"),
        (np.array([[0.0, np.nan]]), NonFiniteError, "finite logits"),
        (np.array([[0.0, np.inf]]), NonFiniteError, "finite logits"),
        (np.zeros(3), ShapeError, r"got \(3,\)"),
        (np.zeros((0, 3)), ShapeError, "empty axis"),
        (np.zeros((0, 3, 3)), ShapeError, "empty axis"),
    ],
)
def test_bad_logits_are_refused(logits, error, message):
    with pytest.raises(error, match=message):
        sinkhorn(logits)


@pytest.mark.parametrize("marginals", [(np.ones(4), np.ones(3)), (np.ones(3), np.ones((2, 3))), np.ones(3), 1.0])
def test_marginals_that_do_not_fit_are_refused(marginals):
    with pytest.raises(ShapeError, match="expected"):
        sinkhorn(X33, marginals=marginals)


def test_temperature_must_be_a_scalar():
    with pytest.raises(ShapeError, match="scalar tau"):
        sinkhorn(X33, np.ones(3))
    with pytest.raises(UnsupportedArrayError):
        sinkhorn(X33, [1.0])


def test_refusal_comes_before_any_work(monkeypatch):
    def refuse(*args):
        raise AssertionError("computed")

    monkeypatch.setattr(type(get_backend(X33)), "exp", refuse)
    for options in ({"tau": -1.0}, {"tol": -1.0}, {"marginals": (np.ones(3), 2 * np.ones(3))}):
        with pytest.raises(SettingError):
            sinkhorn(X33, **options)


def test_unknown_values_are_not_read(monkeypatch):
    """Under a compiler, values cannot be read: checks of values are skipped, and so is the warning."""
    monkeypatch.setattr(type(get_backend(X33)), "is_concrete", lambda self, x: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_allclose(
            sinkhorn(X33, np.array(0.5), tol=1e-9, marginals=(np.ones(3), np.ones(3))), sinkhorn(X33, 0.5, tol=1e-9)
        )
