"""A fixed number of iterations is exactly that, up to rounding, at any temperature."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rebasin_core.backends import get_backend
from rebasin_core.sinkhorn_operator import sinkhorn
from rebasin_core.sinkhorn_operator.kernel import limits_of
from rebasin_core.sinkhorn_operator.plain import Iterations, iterate_log_domain, iterate_mild, iterate_scaling


def normalize(X, tau, num_iters):
    """Explicitly alternating normalization, columns first."""
    P = np.exp((X - X.max()) / tau)
    ratio = X.shape[0] / X.shape[1]
    for _ in range(num_iters):
        P = P * (ratio / P.sum(axis=0, keepdims=True))
        P = P / P.sum(axis=1, keepdims=True)
    return P


@pytest.mark.parametrize("num_iters", [1, 2, 20])
@pytest.mark.parametrize("shape", [(6, 6), (3, 5), (5, 3)])
def test_num_iters_counts_explicit_normalizations(shape, num_iters):
    X = np.random.default_rng(0).normal(size=shape)
    assert_allclose(sinkhorn(X, 0.2, num_iters), normalize(X, 0.2, num_iters), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tau", [1.0, 0.1, 0.03, 0.01, 0.003, 0.001])
@pytest.mark.parametrize("n", [3, 32])
def test_scaling_and_log_domain_are_the_same_operator(reference, n, tau, dtype):
    X = np.random.default_rng(1).normal(size=(n, n)).astype(dtype)
    # Below 0.1, rounding of the logits themselves dominates: an error of eps * max|X| / tau in the exponent.
    exponent_error = 8 * np.finfo(dtype).eps * max(1.0, np.abs(X).max() / tau)
    plan = sinkhorn(X, tau, num_iters=20)
    assert_allclose(
        plan, reference.log_domain(X, tau, 20), rtol=0, atol=max(20 * exponent_error, 1e-6 * (dtype == np.float32))
    )
    assert_allclose(plan.sum(axis=1), 1.0, rtol=0, atol=20 * np.finfo(dtype).eps)


class Counting:
    """NumPy's backend, which counts products with the kernel."""

    def __init__(self):
        self.backend, self.count = get_backend(np.zeros(1)), 0

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def row_products(self, A):
        def counted(product):
            def call(x):
                self.count += 1
                return product(x)

            return call

        return tuple(map(counted, self.backend.row_products(A)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_iters", [1, 2, 4, 5, 7, 8, 9, 20, 21, 200])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_iterations_that_change_nothing_are_left_out(spread, num_iters, dtype):
    """Whatever is left out is below rounding; and where every iteration counts, all are made."""
    backend, X = Counting(), (spread * np.random.default_rng(0).normal(size=(1, 64, 64))).astype(dtype)
    ones = np.ones((1, 1, 64), dtype)
    P = iterate_mild(Iterations(backend, None, ones, ones, num_iters), X).plan
    tolerance = 16 * (num_iters + 64) * np.finfo(dtype).eps
    assert_allclose(P[0], normalize(X[0].astype(np.float64), 1.0, num_iters), rtol=tolerance)
    if spread == 4.0 and num_iters <= 21:
        assert backend.count == 2 * num_iters
    if spread == 0.1 and num_iters >= 20:
        assert backend.count <= 2 * 9
    assert backend.count <= 2 * num_iters


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_iters", [1, 3, 50])
def test_logits_of_a_mild_range_need_no_guard(reference, dtype, num_iters):
    """At the edge of the range, on plans that are as far from the start as they can be, for uneven marginals, too."""
    backend = get_backend(np.zeros(1))
    edge = limits_of(backend, np.zeros(1, dtype)).mild
    X = edge * (np.add.outer(np.arange(12), -np.arange(12)) % 12 / 5.5 - 1.0)
    row = np.ones((1, 1, 12), dtype)
    P = iterate_mild(Iterations(backend, dtype(1.0), row, row, num_iters), X[None].astype(dtype)).plan
    assert_allclose(P[0], reference.log_domain(X, 1.0, num_iters), rtol=0, atol=20 * edge * np.finfo(dtype).eps)
    uneven = np.geomspace(1e-6, 1.0, 12)[None, None]
    uneven = 12 * uneven / uneven.sum()
    P = iterate_mild(Iterations(backend, dtype(1.0), uneven.astype(dtype), row, num_iters), X[None].astype(dtype)).plan
    assert np.isfinite(P).all()
    assert_allclose(P.sum(axis=-1), uneven[0], rtol=20 * np.finfo(dtype).eps)


def test_guard_rejects_the_scaling_form_before_it_is_wrong(reference):
    """float64 data on which float32's floor matters: rounding of the logits does not hide the floor's error."""
    backend = get_backend(np.zeros(1))
    rejected = accepted = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # Multiples of 2^-6 over a power of two are exact, also after the subtraction of the maximum.
        X = np.round(rng.normal(size=(1, 32, 32)) * 64) / 64
        tau = 2.0 ** -rng.integers(4, 8)
        row = np.ones((1, 1, 32), dtype=np.float32)
        problem = Iterations(backend, np.float32(tau), row, row, 20)
        (P, *_), failed = iterate_scaling(problem, X.astype(np.float32))
        exact = reference.log_domain(X[0], tau, 20)
        if failed.item():
            rejected += 1
            P = iterate_log_domain(problem, X.astype(np.float32)).plan
        else:
            accepted += 1
        assert np.abs(P[0] - exact).max() < 1e-4
    assert min(rejected, accepted) > 5


def test_extreme_logits_stay_finite():
    X = np.random.default_rng(3).standard_cauchy(size=(4, 40, 40)).astype(np.float32)
    plan = sinkhorn(X * np.float32(1e4), tau=1e-3, num_iters=5)
    assert np.all(np.isfinite(plan))
    assert_allclose(plan.sum(axis=-1), 1.0, rtol=1e-6)


def test_default_is_twenty_iterations():
    X = np.random.default_rng(4).normal(size=(5, 5))
    assert np.array_equal(sinkhorn(X, 0.1), sinkhorn(X, 0.1, num_iters=20))
