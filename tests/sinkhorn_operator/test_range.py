"""Any finite logits at any temperature: finite numbers, or a refusal, after a bounded number of iterations."""

import warnings

import autograd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from rebasin_core.errors import ConvergenceWarning, RebasinError, SettingError
from rebasin_core.sinkhorn_operator import sinkhorn

DTYPES = [np.float16, np.float32, np.float64]
MOST_ITERATIONS = 3000


def numbers(dtype):
    """Of any exponent, uniformly, subnormal ones and the largest among them."""
    kind = np.finfo(dtype)
    lowest, highest = int(np.log2(float(kind.smallest_subnormal))), kind.maxexp
    sizes = st.builds(lambda e, f: float(np.ldexp(f, e)), st.integers(lowest, highest - 1), st.floats(1.0, 1.99))
    return st.one_of(
        st.builds(lambda sign, size: sign * size, st.sampled_from([-1.0, 1.0]), sizes),
        st.sampled_from([0.0, 1.0, -1.0, float(kind.max), -float(kind.max), float(kind.tiny)]),
    )


@st.composite
def extremes(draw):
    """Draw logits, entries of any size beside ordinary ones; a temperature of any size; how to stop."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = (*draw(st.sampled_from([(), (2,)])), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ordinary = rng.normal(size=shape)
    scale = draw(st.sampled_from([0.0, 1.0]))
    count = int(np.prod(shape))
    wild = np.reshape(draw(st.lists(numbers(dtype), min_size=count, max_size=count)), shape)
    X = np.where(rng.random(shape) < draw(st.sampled_from([0.2, 0.8, 1.0])), wild, scale * ordinary)
    working = np.float64 if dtype == np.float64 else np.float32
    smallest = float(np.finfo(working).tiny)
    tau = draw(st.one_of(st.just(1.0), numbers(working).map(abs).filter(lambda t: t >= smallest)))
    stop = draw(st.sampled_from([{"num_iters": 1}, {"num_iters": 20}, {"tol": 1e-3}, {"tol": 1e-12}, {"tol": 1e200}]))
    return X.astype(dtype), float(tau), stop


@settings(max_examples=60, deadline=None, derandomize=True)
@given(extremes())
def test_any_finite_logits_give_a_finite_plan_with_exact_rows_in_bounded_time(problem):
    X, tau, stop = problem
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plan, info = sinkhorn(X, tau, **stop, info=True)
        again = sinkhorn(X, tau, **stop, start=info.potentials)
    for found in (plan, again):
        assert np.isfinite(found).all()
        assert (found >= 0.0).all()
        assert_allclose(found.astype(float).sum(axis=-1), 1.0, rtol=1e-5 if X.dtype != np.float16 else 1e-2)
    assert all(np.isfinite(values).all() for values in (*info.potentials, info.error))
    assert info.iterations <= MOST_ITERATIONS


@settings(max_examples=60, deadline=None, derandomize=True)
@given(extremes(), st.booleans())
def test_derivatives_at_any_temperature_are_finite_or_refused(problem, by_temperature):
    X, tau, stop = problem
    G = np.random.default_rng(0).normal(size=X.shape).astype(X.dtype)
    with warnings.catch_warnings(), np.errstate(over="ignore"):  # the cast back to half precision may overflow
        warnings.simplefilter("ignore", ConvergenceWarning)
        if by_temperature:
            vjp, _ = autograd.make_vjp(lambda tau: sinkhorn(X, tau, **stop))(tau)
        else:
            vjp, _ = autograd.make_vjp(lambda X: sinkhorn(X, tau, **stop))(X)
        try:
            found = vjp(G)
        except RebasinError as error:
            assert "derivative" in str(error)  # noqa: PT017, both outcomes are right
            assert tau < 1e-10
            return
    assert not np.isnan(found).any()
    assert np.isfinite(found).all() or X.dtype == np.float16


@pytest.mark.parametrize("stop", [{}, {"tol": 1e-6}], ids=["iterations", "tolerance"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dividing_logits_and_temperature_by_a_power_of_two_changes_nothing(dtype, stop):
    X = np.random.default_rng(1).normal(size=(6, 6)).astype(dtype)
    highest = np.finfo(dtype).maxexp - 4
    for power in (-8, highest):
        scaled = np.ldexp(X, power)
        expected = sinkhorn(X.astype(np.float64), 0.5, **stop)
        assert_allclose(sinkhorn(scaled, float(np.ldexp(0.5, power)), **stop), expected, atol=2e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("stop", [{}, {"tol": 1e-6}], ids=["iterations", "tolerance"])
@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_an_entry_of_the_lowest_number_is_forbidden_and_the_others_do_not_feel_it(dtype, stop, tau):
    X = np.random.default_rng(2).normal(size=(5, 5))
    forbidden = np.arange(5)[:, None] == (np.arange(5) + 2) % 5
    expected = sinkhorn(np.where(forbidden, -50.0, X), tau, **stop)
    lowest = float(np.finfo(dtype).min)
    found = sinkhorn(np.where(forbidden, lowest, X).astype(dtype), tau, **stop)
    assert (found[forbidden] < 1e-30).all()
    assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrap", [float, np.float64, np.array])
@pytest.mark.parametrize("out_of_range", [0.5, 2.0])
def test_temperatures_are_checked_as_they_are_computed_with(dtype, wrap, out_of_range):
    working = np.finfo(np.float64 if dtype == np.float64 else np.float32)
    X = np.eye(2).astype(dtype)
    edge = float(working.tiny) if out_of_range < 1.0 else float(working.max)
    assert np.isfinite(sinkhorn(X, wrap(edge))).all()
    with np.errstate(over="ignore"):
        outside = wrap(out_of_range * edge)
    with pytest.raises(SettingError, match="tau"):
        sinkhorn(X, outside)


@pytest.mark.parametrize(
    "marginals",
    [
        ([3e38, 3e38], [3e38, 3e38]),  # their sum overflows in float32
        ([1e-35, 1e5], [5e4, 5e4]),
        ([1e39, 1e39], [1e39, 1e39]),
    ],
)
def test_marginals_out_of_range_are_refused(marginals):
    with pytest.raises(SettingError, match="sums"):
        sinkhorn(np.eye(2, dtype=np.float32), marginals=marginals)


def test_marginals_that_half_precision_cannot_hold_are_refused():
    with pytest.raises(SettingError, match="float16"):
        sinkhorn(np.eye(2, dtype=np.float16), marginals=([1e5, 1e5], [1e5, 1e5]))
