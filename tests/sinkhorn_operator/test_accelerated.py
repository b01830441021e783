"""The solver to a tolerance: the same operator as ever more plain iterations, at any temperature."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp

from rebasin_core.backends import get_backend
from rebasin_core.errors import ConvergenceWarning
from rebasin_core.sinkhorn_operator import accelerated, marginal_error, sinkhorn


@pytest.mark.parametrize(("n", "tau", "seed"), [(12, 0.1, 0), (6, 0.05, 18), (5, 0.02, 48), (4, 0.01, 44)])
def test_low_temperature_plan_is_that_of_many_log_domain_iterations(reference, n, tau, seed):
    """Logits of soft plans for which plain iterations still converge; the next test covers the others."""
    X = np.random.default_rng(seed).normal(size=(n, n))
    expected = reference.log_domain(X, tau, 2000)
    assert marginal_error(expected) < 1e-9
    assert_allclose(sinkhorn(X, tau, tol=1e-12), expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("shape", [(40, 40), (20, 30), (30, 20), (300, 300)])
def test_plan_is_the_scaled_kernel_with_these_marginals(shape, tau):
    """The two properties that determine the plan: its marginals, and ``log P - X / tau = f_i + g_j``."""
    X = np.random.default_rng(1).normal(size=shape)
    plan, error = sinkhorn(X, tau, tol=1e-10, return_error=True)
    assert error <= 1e-10
    assert_allclose(plan.sum(axis=0), shape[0] / shape[1], atol=1e-9)
    assert_allclose(plan.sum(axis=1), 1.0, atol=1e-9)
    # Entries that small are out of reach of the kernel's floor, which is lower still.
    exponents = np.where(plan > 1e-100, np.log(np.maximum(plan, 1e-100)) - X / tau, np.nan)
    f, g = potentials(exponents)
    assert np.nanmax(np.abs(exponents - f - g)) < 1e-7


def potentials(exponents):
    """Read f and g off the finite entries of ``f_i + g_j``, spreading from one row per connected component."""
    f, g = np.full((exponents.shape[0], 1), np.nan), np.full((1, exponents.shape[1]), np.nan)
    while np.isnan(f).any():
        f[np.argmax(np.isnan(f[:, 0])), 0] = 0.0
        known = 0
        while known < np.isfinite(f).sum():
            known = np.isfinite(f).sum()
            g = np.where(np.isnan(g), np.fmax.reduce(exponents - f, axis=0, keepdims=True), g)
            f = np.where(np.isnan(f), np.fmax.reduce(exponents - g, axis=1, keepdims=True), f)
    return f, g


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("family", ["gaussian", "cauchy", "duplicates", "rank one", "distances"])
def test_tolerance_is_met_on_hard_families(family, dtype):
    rng = np.random.default_rng(2)
    n = 48
    X = {
        "gaussian": rng.normal(size=(n, n)),
        "cauchy": rng.standard_cauchy(size=(n, n)),
        "duplicates": rng.normal(size=(n, n))[rng.integers(0, n // 2, n)],
        "rank one": np.outer(rng.normal(size=n), rng.normal(size=n)),
        "distances": -np.sum((rng.normal(size=(n, 1, 2)) - rng.normal(size=(1, n, 2))) ** 2, axis=-1),
    }[family].astype(dtype)
    tol = 1e-4 if dtype == np.float32 else 1e-9
    for tau in (1.0, 0.1, 0.01, 0.001):
        _, error = sinkhorn(X, tau, tol=tol, return_error=True)
        assert error <= tol


def test_mixed_batch_is_solved_as_each_item_alone():
    rng = np.random.default_rng(4)
    X = np.stack([rng.normal(size=(9, 9)), 100.0 * rng.normal(size=(9, 9)), np.zeros((9, 9)), 30.0 * np.eye(9)])
    together, errors = sinkhorn(X, 0.1, tol=1e-10, return_error=True)
    assert errors.shape == (4,)
    for i in range(4):
        assert_allclose(together[i], sinkhorn(X[i], 0.1, tol=1e-10), rtol=1e-7, atol=1e-11)


def test_tolerance_below_rounding_is_met_at_the_floor():
    X = np.random.default_rng(5).normal(size=(64, 64)).astype(np.float32)
    plan, error = sinkhorn(X, 0.1, tol=1e-12, return_error=True)
    assert error < 1e-5
    assert np.abs(plan.astype(np.float64).sum(axis=0) - 1.0).mean() < 4 * np.finfo(np.float32).eps


def test_missed_tolerance_warns_and_stays_finite(monkeypatch):
    monkeypatch.setattr(accelerated, "_MAX_NEWTON_STEPS", 1)
    X = np.random.default_rng(6).normal(size=(40, 40))
    with pytest.warns(ConvergenceWarning, match=r"tol=1.0e-10"):
        plan, error = sinkhorn(X, 0.01, tol=1e-10, return_error=True)
    assert error > 1e-10
    assert np.all(np.isfinite(plan))


def test_easy_problems_take_no_newton_step(monkeypatch):
    def refuse(*args):
        raise AssertionError("a Newton step at tau = 1")

    monkeypatch.setattr(accelerated, "_newton", refuse)
    X = np.random.default_rng(7).normal(size=(64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert marginal_error(sinkhorn(X, 1.0, tol=1e-8)) <= 1e-8


# --- the safeguards, one by one ---------------------------------------------------------------------------------------
def problem_at(X, tau):
    """One stage at temperature tau with uniform marginals, float64."""
    backend = get_backend(X)
    batch, m, n = X.shape
    t = np.full((batch, 1, 1), tau)
    return accelerated._Problem(backend, X, np.ones((1, 1, m)), np.ones((1, 1, n)), t, np.full_like(t, 1e-12), 1e-10)


def semi_dual(X, tau, plan):
    """phi / tau at the plan's potential, in the log domain."""
    g = plan.g / tau + np.log(plan.v)
    return logsumexp(X / tau + g, axis=-1).sum() - g.sum()


@pytest.mark.parametrize("distance", [0.1, 1.0, 10.0, 100.0])
def test_newton_step_never_increases_the_semi_dual(distance):
    """From any start; far from the solution the undamped step does."""
    rng = np.random.default_rng(8)
    for _ in range(30):
        X, g = rng.normal(size=(1, 8, 8)), distance * rng.normal(size=(1, 1, 8))
        problem = problem_at(X, 0.1)
        plan = accelerated._build(problem, 0.1 * g)
        _, error, _ = accelerated._column_state(problem, plan)
        after = accelerated._newton(problem, plan, error, error > 0.0)
        assert semi_dual(X, 0.1, after) <= semi_dual(X, 0.1, plan) + 1e-10
        assert_allclose(after.u * (after.v @ np.swapaxes(after.K, -1, -2)), 1.0, rtol=1e-12)


def test_items_that_are_done_keep_their_plan():
    rng = np.random.default_rng(9)
    problem = problem_at(rng.normal(size=(2, 8, 8)), 0.1)
    plan = accelerated._build(problem, rng.normal(size=(2, 1, 8)))
    _, error, _ = accelerated._column_state(problem, plan)
    active = np.array([True, False])[:, None, None]
    for after in (
        accelerated._newton(problem, plan, error, active),
        accelerated._burst(problem, plan, active)[0],
    ):
        assert not np.array_equal(after.v[0], plan.v[0])
        assert np.array_equal(after.v[1], plan.v[1])
        assert np.array_equal(after.u[1], plan.u[1])


@pytest.mark.parametrize(("size", "rebuilt"), [(60.0, False), (200.0, True)])
def test_large_scalings_move_into_the_potential_and_leave_the_plan(size, rebuilt):
    rng = np.random.default_rng(10)
    problem = problem_at(rng.normal(size=(1, 6, 6)), 0.1)
    plan = accelerated._build(problem, np.zeros((1, 1, 6)))
    v = np.exp(np.linspace(0.0, size, 6)).reshape(1, 1, 6)
    plan = plan._replace(v=v, u=1.0 / (v @ np.swapaxes(plan.K, -1, -2)))
    absorbed = accelerated._absorb(problem, plan)
    assert (absorbed.v == 1.0).all() == rebuilt
    expected = np.swapaxes(plan.u, -1, -2) * plan.K * plan.v
    assert_allclose(np.swapaxes(absorbed.u, -1, -2) * absorbed.K * absorbed.v, expected, rtol=1e-10, atol=1e-250)


def test_sum_of_logits_and_potential_keeps_its_digits():
    """Logits of 1e4 at temperature 0.01: rounding their sum to float32 would be worth a factor of e^0.1."""
    rng = np.random.default_rng(11)
    X, g = rng.normal(size=(1, 5, 5)).astype(np.float32), rng.normal(size=(1, 1, 5)).astype(np.float32)
    X = X + np.float32(1e4)
    g = g - np.float32(3.0)
    problem = accelerated._Problem(get_backend(X), X, *np.ones((2, 1, 1, 5), np.float32), np.float32(0.01), None, 0.0)
    plan = accelerated._build(problem, g)
    L = (X.astype(np.float64) + g) / np.float64(np.float32(0.01))
    K = np.exp(np.maximum(L - L.max(axis=-1, keepdims=True), -80.0))
    assert_allclose(plan.K, K, rtol=1e-4)
