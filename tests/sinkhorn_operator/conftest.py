"""Independent references: slow, simple, NumPy in float64."""

from types import SimpleNamespace

import autograd.numpy as anp
import numpy as np
import pytest
from scipy.special import logsumexp


def log_domain(X, tau, num_iters, row=None, col=None):
    """Alternating normalization in the log domain with SciPy: columns first, then rows."""
    X = np.asarray(X, dtype=np.float64)
    m, n = X.shape
    log_row = np.log(np.ones(m) if row is None else row)[:, None]
    log_col = np.log(np.full(n, m / n) if col is None else col)[None, :]
    L = X / tau
    f, g = np.zeros((m, 1)), np.zeros((1, n))
    for _ in range(num_iters):
        g = log_col - logsumexp(L + f, axis=0, keepdims=True)
        f = log_row - logsumexp(L + g, axis=1, keepdims=True)
    return np.exp(L + f + g)


def unrolled(X, tau, num_iters, ratio=1.0):
    """The same over the last two axes with autograd, to be differentiated through its iterations."""
    L = X / tau

    def normalize(L, axis):
        L = L - anp.max(L, axis=axis, keepdims=True)
        return L - anp.log(anp.sum(anp.exp(L), axis=axis, keepdims=True))

    for _ in range(num_iters):
        L = normalize(L, -2) + np.log(ratio)
        L = normalize(L, -1)
    return anp.exp(L)


def solve_laplacian(W, rhs):
    """Solve ``(diag(W 1) - W) x = rhs``, x_last = 0, by elimination that only ever adds positive weights (GTH).

    No subtraction, hence entrywise accurate even where the weights span hundreds of orders of magnitude. Once a whole
    cluster is eliminated but for one node, its right-hand side is a sum that vanishes: below 1e-14 it is all rounding.
    """
    W, rhs = W.copy(), rhs.copy()
    n = len(rhs)
    np.fill_diagonal(W, 0.0)
    degree = np.ones(n)
    for k in range(n - 1):
        degree[k] = max(W[k, k + 1 :].sum(), 1e-290)
        if degree[k] < 1e-14:
            rhs[k] = 0.0
        share = W[k + 1 :, k] / degree[k]
        W[k + 1 :, k + 1 :] += np.outer(share, W[k, k + 1 :])
        rhs[k + 1 :] += share * rhs[k]
    x = np.zeros(n)
    for k in range(n - 2, -1, -1):
        x[k] = (rhs[k] + W[k, k + 1 :] @ x[k + 1 :]) / degree[k]
    return x


def gradient(P, G):
    """``tau dX``: the pullback of G at the plan P, by the elimination above."""
    G = G - G[np.arange(len(G)), P.argmax(1)][:, None]
    a, Q = P.sum(1), P * G
    v = solve_laplacian(P.T @ (P / a[:, None]), Q.sum(0) - P.T @ (Q.sum(1) / a))
    u = (Q.sum(1) - P @ v) / a
    return P * (G - u[:, None] - v)


def finite_differences(fun, x, step=1e-6):
    """Central differences of a scalar function."""
    x = np.asarray(x, dtype=np.float64)
    result = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        shift = np.zeros(x.shape)
        shift[index] = step
        result[index] = (fun(x + shift) - fun(x - shift)) / (2 * step)
    return result


@pytest.fixture(scope="session")
def reference():
    return SimpleNamespace(
        log_domain=log_domain,
        unrolled=unrolled,
        gradient=gradient,
        finite_differences=finite_differences,
    )
