"""The linear systems, against the dense Laplacian where it can be trusted and against elimination where it cannot."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rebasin_core.backends import get_backend
from rebasin_core.sinkhorn_operator import sinkhorn
from rebasin_core.sinkhorn_operator.laplacian import (
    SoftLaplacian,
    cholesky,
    conjugate_gradients,
    series,
    solve,
    split_laplacian,
)

BACKEND = get_backend(np.zeros(1))


def dense(P):
    return np.diag(P.sum(0)) - P.T @ (P / P.sum(1, keepdims=True))


def system(shape, tau, seed=0):
    rng = np.random.default_rng(seed)
    P = sinkhorn(rng.normal(size=shape), tau, tol=1e-12)
    rhs = rng.normal(size=(shape[0], 1, shape[-1]))
    return P, rhs - rhs.mean(axis=-1, keepdims=True)


def soft(P):
    return SoftLaplacian(P, P.sum(axis=-1)[:, None], P.sum(axis=-2, keepdims=True))


def centered(x):
    return x - x.mean(axis=-1, keepdims=True)


@pytest.mark.parametrize("shape", [(2, 6, 6), (1, 3, 5), (1, 5, 3), (1, 4, 1)])
def test_product_and_diagonal_are_those_of_the_dense_laplacian(shape):
    P, _ = system(shape, 0.5)
    x = np.random.default_rng(1).normal(size=(shape[0], 1, shape[-1]))
    S = split_laplacian(BACKEND, P)
    for i in range(shape[0]):
        for kind in (S, soft(P)):
            assert_allclose(kind.times(BACKEND, x)[i, 0], dense(P[i]) @ x[i, 0], atol=1e-13)
        assert_allclose(S.diagonal[i, 0], np.diag(dense(P[i])), atol=1e-14)


def test_constants_are_in_the_null_space():
    P, _ = system((1, 9, 9), 0.02)
    assert_allclose(split_laplacian(BACKEND, P).times(BACKEND, np.full((1, 1, 9), 3.0)), 0.0, atol=1e-15)


def test_nothing_cancels_when_the_plan_is_nearly_hard():
    rest = 1e-12
    P = np.array([[[1 - rest, rest], [rest, 1 - rest]]])
    S = split_laplacian(BACKEND, P.astype(np.float32))
    exact = 2 * rest * (1 - rest)
    assert_allclose(S.diagonal[0, 0], exact, rtol=1e-6)
    product = S.times(BACKEND, np.array([[[1.0, -1.0]]], dtype=np.float32))
    assert_allclose(product[0, 0], [2 * exact, -2 * exact], rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 7), (1, 7, 4)])
@pytest.mark.parametrize("tau", [1.0, 0.2])
def test_both_solvers_solve(shape, tau):
    P, rhs = system(shape, tau)
    solutions = [cholesky(BACKEND, P, rhs, True, 0.0)]
    for S in (split_laplacian(BACKEND, P), soft(P)):
        x, unfinished = conjugate_gradients(BACKEND, S, rhs, 1e-14, 200)
        assert not unfinished.any()
        solutions.append(x)
    for x in solutions:
        for i in range(shape[0]):
            exact = np.linalg.lstsq(dense(P[i]), rhs[i, 0], rcond=1e-12)[0]
            assert_allclose(centered(x[i, 0]), exact, rtol=1e-8, atol=1e-9 * np.abs(exact).max())


def test_ridge_is_added_to_the_diagonal():
    P, rhs = system((1, 8, 8), 1.0)
    exact = np.linalg.solve(dense(P[0]) + 0.1 * np.eye(8), rhs[0, 0])
    assert_allclose(
        conjugate_gradients(BACKEND, split_laplacian(BACKEND, P), rhs, 1e-14, 200, 0.1)[0][0, 0], exact, rtol=1e-9
    )
    assert_allclose(cholesky(BACKEND, P, rhs, False, 0.1)[0, 0], exact, rtol=1e-9)


def test_items_of_a_batch_are_solved_as_if_alone():
    P, rhs = system((4, 300, 300), 0.3)
    together = solve(BACKEND, P, rhs, 1e-12, 200)
    for i in range(4):
        assert_allclose(together[i], solve(BACKEND, P[i : i + 1], rhs[i : i + 1], 1e-12, 200)[0], rtol=1e-9, atol=1e-10)


def test_factorization_replaces_iterations_that_do_not_converge():
    P, rhs = system((1, 300, 300), 0.1)
    _, unfinished = conjugate_gradients(BACKEND, split_laplacian(BACKEND, P), rhs, 1e-12, 3)
    assert unfinished.all()
    x = solve(BACKEND, P, rhs, 1e-12, 3, refine=True)
    assert_allclose(dense(P[0]) @ x[0, 0], rhs[0, 0], atol=1e-8)


def test_iterations_replace_a_factorization_that_fails(monkeypatch):
    P, rhs = system((2, 8, 8), 1.0)
    expected = solve(BACKEND, P, rhs, 1e-14, 200)
    monkeypatch.setattr(type(BACKEND), "cholesky_solve", lambda self, A, rhs: np.full_like(rhs, np.nan))
    assert_allclose(centered(solve(BACKEND, P, rhs, 1e-14, 200)), centered(expected), atol=1e-9)


def test_zero_right_hand_side_gives_zero():
    P, rhs = system((2, 300, 300), 1.0)
    assert not solve(BACKEND, P, 0.0 * rhs, 1e-12, 200).any()


@pytest.mark.parametrize("shape", [(2, 128, 128), (1, 96, 128)])
def test_the_series_solves_for_soft_plans(shape):
    P, rhs = system(shape, 1.0)
    x, unfinished = series(BACKEND, soft(P), rhs, 1e-10)
    assert not unfinished.any()
    exact, _ = conjugate_gradients(BACKEND, soft(P), rhs, 1e-13, 200)
    assert_allclose(centered(x), centered(exact), rtol=1e-8, atol=1e-9)


def test_the_series_gives_up_at_once_where_its_terms_fall_slowly():
    """Two clusters of units that hardly anything joins: the second eigenvalue is close to 1."""
    n, terms = 64, []
    X = 6.0 * (np.arange(n)[:, None] // 32 == np.arange(n) // 32)
    P = sinkhorn(X[None], tol=1e-12)
    rhs = np.where(np.arange(n) < 32, 1.0, -1.0)[None, None]

    class Counted(SoftLaplacian):
        def __getattribute__(self, name):
            if name == "a":
                terms.append(name)
            return super().__getattribute__(name)

    _, unfinished = series(BACKEND, Counted(*soft(P)), rhs, 1e-6)
    assert unfinished.all()
    assert len(terms) == 1  # every term divides by the row sums


def test_the_series_of_nothing_is_nothing():
    x, unfinished = series(BACKEND, soft(system((1, 8, 8), 1.0)[0]), np.zeros((1, 1, 8)), 1e-6)
    assert_allclose(x, 0.0)
    assert not unfinished.any()
