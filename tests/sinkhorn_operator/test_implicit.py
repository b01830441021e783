"""The derivative: the unrolled one, the differences; accurate in float32, linear, and differentiable again."""

import tracemalloc

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.sinkhorn_operator import marginal_error, sinkhorn


def pullback(X, G, **settings):
    """Gradient of ``<G, S(X)>``."""
    return autograd.grad(lambda X: anp.sum(sinkhorn(X, **settings) * G))(X)


def relative(actual, expected):
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-12)


# --- the three ways to the gradient -----------------------------------------------------------------------------------
@pytest.mark.parametrize("tau", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (7, 7), (64, 64), (3, 1, 1), (3, 7, 7), (2, 64, 64)])
def test_implicit_is_unrolled_is_differences(reference, shape, tau):
    rng = np.random.default_rng(0)
    # Half a unit of scale: at tau = 0.1 plain iterations then converge soon enough to be unrolled.
    X, G = 0.5 * rng.normal(size=shape), rng.normal(size=shape)

    implicit = pullback(X, G, tau=tau, tol=1e-13)

    num_iters = 50 if tau == 1.0 else 800
    unrolled = autograd.grad(lambda X: anp.sum(reference.unrolled(X, tau, num_iters) * G))(X)
    assert relative(implicit, unrolled) <= 1e-6 or np.abs(implicit - unrolled).max() < 1e-12

    def loss(X):
        return np.sum(sinkhorn(X, tau=tau, tol=1e-13) * G)

    step = 1e-4 * tau
    for _ in range(4):
        direction = rng.normal(size=shape)
        difference = (loss(X + step * direction) - loss(X - step * direction)) / (2 * step)
        assert_allclose(np.sum(implicit * direction), difference, rtol=1e-6, atol=1e-6 * np.linalg.norm(implicit))


@pytest.mark.parametrize("tau", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("n", [2, 7])
def test_every_entry_is_the_central_difference(reference, n, tau):
    rng = np.random.default_rng(1)
    X, G = 0.5 * rng.normal(size=(n, n)), rng.normal(size=(n, n))
    differences = reference.finite_differences(lambda X: np.sum(sinkhorn(X, tau=tau, tol=1e-13) * G), X, 1e-4 * tau)
    assert relative(pullback(X, G, tau=tau, tol=1e-13), differences) <= 1e-6


def test_early_stop_uses_the_sums_the_plan_has(reference):
    rng = np.random.default_rng(2)
    X, G = rng.normal(size=(8, 8)), rng.normal(size=(8, 8))
    P = sinkhorn(X, tau=0.1, num_iters=5)
    assert marginal_error(P) > 1e-3
    assert_allclose(0.1 * pullback(X, G, tau=0.1, num_iters=5), reference.gradient(P, G), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4), (4, 1), (2, 3, 6)])
def test_rectangular_gradient_is_the_central_difference(reference, shape):
    rng = np.random.default_rng(3)
    X, G = rng.normal(size=shape), rng.normal(size=shape)
    differences = reference.finite_differences(lambda X: np.sum(sinkhorn(X, tau=0.5, tol=1e-13) * G), X, 1e-5)
    assert_allclose(pullback(X, G, tau=0.5, tol=1e-13), differences, rtol=1e-6, atol=1e-8)


def test_gradient_with_marginals_is_the_central_difference(reference):
    rng = np.random.default_rng(4)
    X, G = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    row, col = rng.uniform(0.1, 1.0, size=(2, 3)), rng.uniform(0.1, 1.0, size=5)
    row *= col.sum() / row.sum(axis=-1, keepdims=True)
    settings = {"tau": 0.3, "tol": 1e-13, "marginals": (row, col)}
    differences = reference.finite_differences(lambda X: np.sum(sinkhorn(X, **settings) * G), X, 1e-5)
    assert_allclose(pullback(X, G, **settings), differences, rtol=1e-6, atol=1e-8)


# --- float32 ----------------------------------------------------------------------------------------------------------
def gaussian(rng, n):
    return rng.normal(size=(n, n))


def permutation_plus_noise(rng, n):
    return 3.0 * np.eye(n)[rng.permutation(n)] + 0.3 * rng.normal(size=(n, n))


def ties(rng, n):
    return np.round(rng.normal(size=(n, n)))


def duplicate_rows(rng, n):
    return rng.normal(size=(n, n))[rng.integers(0, max(n // 2, 1), n)]


def one_hot(rng, n):
    return np.eye(n)[rng.integers(0, n, n)]


def constant(rng, n):
    return np.full((n, n), 2.5)


TEMPERATURES = [1.0, 0.3, 0.1, 0.03, 0.01, 0.001]


def check_single_precision(reference, family, n, tau):
    rng = np.random.default_rng([n, 5])
    X, G = family(rng, n).astype(np.float32), rng.normal(size=(n, n)).astype(np.float32)

    plan, error = sinkhorn(X, tau=tau, tol=1e-4, return_error=True)
    gradient = pullback(X, G, tau=tau, tol=1e-4)

    assert plan.dtype == gradient.dtype == np.float32
    assert error <= 1e-4
    assert marginal_error(plan.astype(np.float64)) <= 1e-4
    assert np.all(plan >= 0)
    assert np.all(np.isfinite(gradient))
    exact = sinkhorn(X.astype(np.float64), tau=tau, tol=1e-10)
    difference = tau * gradient.astype(np.float64) - reference.gradient(exact, G.astype(np.float64))
    assert np.linalg.norm(difference) <= (1e-4 if n < 512 else 1e-3)


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("n", [2, 16, 96, 256, 512])
@pytest.mark.parametrize("family", [gaussian, permutation_plus_noise])
def test_single_precision_is_accurate_at_every_temperature(reference, family, n, tau):
    check_single_precision(reference, family, n, tau)


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("n", [2, 16, 96])
@pytest.mark.parametrize("family", [ties, duplicate_rows, one_hot, constant])
def test_single_precision_is_accurate_on_degenerate_logits(reference, family, n, tau):
    check_single_precision(reference, family, n, tau)


@pytest.mark.slow
@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("n", [256, 512])
@pytest.mark.parametrize("family", [ties, duplicate_rows, one_hot, constant])
def test_single_precision_is_accurate_on_large_degenerate_logits(reference, family, n, tau):
    check_single_precision(reference, family, n, tau)


# --- the cotangent ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("height", [4.0, 8.0, 16.0])
@pytest.mark.parametrize("cluster", [1, 4, 32])
def test_large_soft_plans_have_an_accurate_gradient_in_float32(reference, cluster, height):
    """Clusters of columns that hardly anything joins are where a Laplacian that is subtracted loses its digits."""
    n, rng = 288, np.random.default_rng(9)
    groups = np.arange(n) // cluster
    X = height * (groups[:, None] == groups) * (cluster > 1) + 0.3 * rng.normal(size=(n, n))
    G = rng.normal(size=(n, n))
    X, G = X.astype(np.float32), G.astype(np.float32)
    P = sinkhorn(X.astype(np.float64), num_iters=200)
    assert P.max() < 0.5
    assert relative(pullback(X, G, num_iters=200), reference.gradient(P, G)) < 1e-5


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("settings", [{"num_iters": 5}, {"tol": 1e-3}])
def test_cotangent_is_not_edited_and_dtype_is_kept(dtype, settings):
    rng = np.random.default_rng(6)
    X, G = rng.normal(size=(2, 4, 4)).astype(dtype), rng.normal(size=(2, 4, 4)).astype(dtype)
    X_before, G_before = X.copy(), G.copy()
    vjp, plan = autograd.make_vjp(lambda X: sinkhorn(X, **settings))(X)
    gradient = vjp(G)
    assert plan.dtype == gradient.dtype == dtype
    assert_array_equal(X, X_before)
    assert_array_equal(G, G_before)


@pytest.mark.parametrize("n", [7, 300])
def test_pullback_is_linear_in_the_cotangent(n):
    rng = np.random.default_rng(7)
    X, G, H = rng.normal(size=(3, n, n))
    vjp, _ = autograd.make_vjp(lambda X: sinkhorn(X, tau=0.3, tol=1e-10))(X)
    assert_allclose(vjp(2.0 * G - 3.0 * H), 2.0 * vjp(G) - 3.0 * vjp(H), rtol=1e-7, atol=1e-10)
    assert_array_equal(vjp(np.zeros_like(G)), 0.0)
    for power in (2.0**-100, 2.0**100):
        assert_allclose(vjp(power * G), power * vjp(G), rtol=1e-12)


def test_single_precision_cotangents_may_be_large_or_small():
    rng = np.random.default_rng(8)
    X, G = rng.normal(size=(2, 300, 300)).astype(np.float32)
    vjp, _ = autograd.make_vjp(lambda X: sinkhorn(X, tau=0.3, tol=1e-4))(X)
    for power in (np.float32(2.0**-80), np.float32(2.0**80)):
        assert_allclose(vjp(power * G) / power, vjp(G), rtol=1e-3, atol=1e-7)


def test_gradient_has_no_gauge_freedom():
    rng = np.random.default_rng(9)
    X, G = rng.normal(size=(2, 9, 9))
    gradient = pullback(X, G, tau=0.1, tol=1e-12)
    assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-9)
    assert_allclose(gradient.sum(axis=1), 0.0, atol=1e-9)


# --- temperature, second and third derivative -------------------------------------------------------------------------
@pytest.mark.parametrize("tau", [1.0, 0.2])
def test_temperature_gradient_is_the_central_difference(reference, tau):
    rng = np.random.default_rng(10)
    X, G = rng.normal(size=(2, 6, 6)) + 30.0, rng.normal(size=(2, 6, 6))

    def loss(tau):
        return anp.sum(sinkhorn(X, tau, tol=1e-13) * G)

    difference = reference.finite_differences(loss, np.array(tau), 1e-5)
    assert_allclose(autograd.grad(loss)(tau), difference, rtol=1e-6)
    assert_allclose(autograd.grad(loss)(np.array(tau)), difference, rtol=1e-6)


def test_temperature_gradient_ignores_a_common_offset_of_large_logits():
    rng = np.random.default_rng(17)
    X, G = np.round(64 * rng.normal(size=(2, 20, 20))).astype(np.float32) / 64  # exact after the offset, too

    def by_tau(X):
        return autograd.grad(lambda tau: anp.sum(sinkhorn(X, tau, tol=1e-6) * G))(0.5)

    assert_allclose(by_tau(X + np.float32(2.0**14)), by_tau(X.astype(np.float64)), rtol=1e-4)


@pytest.mark.parametrize("shape", [(5, 5), (2, 3, 4)])
def test_second_derivative_is_the_difference_of_gradients(shape):
    rng = np.random.default_rng(11)
    X, G, direction = rng.normal(size=(3, *shape))

    def gradient(X, G):
        # A square, so that the cotangent depends on X as well.
        return autograd.grad(lambda X: anp.sum(sinkhorn(X, 0.4, tol=1e-14) ** 2 * G))(X)

    hessian_product = autograd.grad(lambda X: anp.sum(gradient(X, G) * direction))(X)
    step = 1e-5
    differences = (gradient(X + step * direction, G) - gradient(X - step * direction, G)) / (2 * step)
    assert_allclose(hessian_product, differences, rtol=1e-6, atol=1e-7)


def test_mixed_derivatives_in_temperature_agree_with_differences(reference):
    rng = np.random.default_rng(12)
    X, G = rng.normal(size=(2, 4, 4))

    def loss(X, tau):
        return anp.sum(sinkhorn(X, tau, tol=1e-14) * G)

    by_tau = autograd.grad(loss, 1)
    twice = autograd.grad(by_tau, 1)(X, 0.5)
    assert_allclose(twice, reference.finite_differences(lambda t: by_tau(X, float(t)), np.array(0.5), 1e-5), rtol=1e-6)
    mixed = autograd.grad(by_tau, 0)(X, 0.5)
    by_logits = autograd.grad(loss, 0)
    expected = (by_logits(X, 0.5 + 1e-5) - by_logits(X, 0.5 - 1e-5)) / 2e-5
    assert_allclose(mixed, expected, rtol=1e-6, atol=1e-8)
    # The other order goes through the derivative of the pullback with respect to tau.
    H = rng.normal(size=X.shape)
    other = autograd.grad(lambda tau: anp.sum(by_logits(X, tau) * H))(0.5)
    assert_allclose(other, np.sum(expected * H), rtol=1e-6)


def test_pullback_of_the_pullback_is_itself():
    rng = np.random.default_rng(13)
    X, G, H = rng.normal(size=(3, 6, 6))

    def pulled(G):
        return autograd.make_vjp(lambda X: sinkhorn(X, 0.5, tol=1e-13))(X)[0](G)

    assert_allclose(autograd.grad(lambda G: anp.sum(pulled(G) * H))(G), pulled(H), rtol=1e-9, atol=1e-12)


def test_third_derivative_is_refused():
    X = np.random.default_rng(14).normal(size=(3, 3))

    def derivative(fun):
        return autograd.grad(lambda X: anp.sum(fun(X) ** 2))

    second = derivative(derivative(lambda X: sinkhorn(X)))
    assert np.all(np.isfinite(second(X)))
    with pytest.raises(NotImplementedError, match="third"):
        derivative(second)(X)


# --- memory -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tau", [1.0, 0.01])
def test_memory_does_not_grow_with_the_number_of_iterations(tau):
    rng = np.random.default_rng(15)
    X, G = rng.normal(size=(2, 128, 128)).astype(np.float32)

    def peak(num_iters):
        tracemalloc.start()
        try:
            pullback(X, G, tau=tau, num_iters=num_iters)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    assert peak(200) < 1.05 * peak(20) + 2 * X.nbytes


def test_memory_is_a_handful_of_matrices():
    rng = np.random.default_rng(16)
    X, G = rng.normal(size=(2, 512, 512)).astype(np.float32)
    pullback(X, G)
    tracemalloc.start()
    try:
        pullback(X, G)
        assert tracemalloc.get_traced_memory()[1] < 6.0 * X.nbytes
    finally:
        tracemalloc.stop()
