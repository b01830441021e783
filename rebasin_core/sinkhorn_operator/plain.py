"""A fixed number of Sinkhorn's iterations, in scaling form with the log domain as the fallback.

With ``K = exp((X - max_i X) / tau)`` the plan is ``diag(u) K diag(v)``, and an iteration is two matrix-vector products,
``v = col / K^T u`` and ``u = row / K v`` (Sinkhorn 1967; Cuturi 2013): the same numbers as alternating normalisation of
columns and rows of ``exp(X / tau)``, without an n^2 temporary.
"""

from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.sinkhorn_operator.kernel import limits_of

__all__ = ["iterate", "iterate_log_domain", "iterate_mild", "iterate_scaling"]

# Iterations between two looks at whether they still change anything: a look costs as much as one of them or two.
ROUND = 3

# Units of rounding by which v may change in an iteration that changes nothing any more; two to three were seen.
SETTLED = 4.0


def iterate(backend: Backend, X: Array, tau: Array | None, row: Array, col: Array, num_iters: int) -> Array:
    """Normalise columns, then rows, `num_iters` times, starting from ``exp(X / tau)``.

    `X` has shape (batch, m, n), `tau` is a scalar, or None for 1, `row` and `col` are row vectors.
    """
    largest = _over(backend.maximum(backend.max(X), -backend.min(X)), tau)
    return backend.cond(
        largest > limits_of(backend, X).mild,
        lambda X: _iterate_guarded(backend, X, tau, row, col, num_iters),
        lambda X: iterate_mild(backend, X, tau, row, col, num_iters),
        X,
    )


def _iterate_guarded(backend: Backend, X: Array, tau: Array | None, row: Array, col: Array, num_iters: int) -> Array:
    P, failed = iterate_scaling(backend, X, tau, row, col, num_iters)
    return backend.cond(
        backend.any(failed),
        lambda operand: iterate_log_domain(backend, X, tau, row, col, num_iters),
        lambda operand: operand,
        P,
    )


def iterate_mild(backend: Backend, X: Array, tau: Array | None, row: Array, col: Array, num_iters: int) -> Array:
    """Scaling form for logits that are small over tau, where nothing can overflow.

    It ends early where an iteration changes v by no more than rounding does: soft plans are there after some five
    iterations. In Hilbert's projective metric no iteration changes more than the one before, so that what is left out
    is at most `SETTLED` units of rounding for each.
    """
    K = backend.exp(_over(X, tau))
    by_K, by_K_transposed = backend.row_products(K)
    batch, m, _ = backend.shape(X)
    tolerance = SETTLED * limits_of(backend, X).eps

    def iterations(count: int, u: Array) -> tuple[Array, Array, Array]:
        """Several iterations: u, v, and the v before the last one."""
        v = last = u
        for _ in range(count):
            last, v = v, col / by_K(u)
            u = row / by_K_transposed(v)
        return u, v, last

    def has_changed(state: tuple[int, Array, Array, Array]) -> Array:
        rounds, _, v, last = state
        return (rounds > 0) & backend.any(backend.abs(v - last) > tolerance * v)

    def one_round(state: tuple[int, Array, Array, Array]) -> tuple[int, Array, Array, Array]:
        rounds, u, _, _ = state
        return rounds - 1, *iterations(ROUND, u)

    first = min(num_iters, ROUND + num_iters % ROUND)
    u, v, last = iterations(first, backend.full((batch, 1, m), 1.0, X))
    if first < num_iters:
        _, u, v, _ = backend.while_loop(has_changed, one_round, ((num_iters - first) // ROUND, u, v, last))
    return _scaled(backend, K, u, v)


def iterate_scaling(
    backend: Backend, X: Array, tau: Array | None, row: Array, col: Array, num_iters: int
) -> tuple[Array, Array]:
    """Scaling form, and whether it cannot be trusted, of shape (batch, 1, 1).

    Entries of K below ``exp(-floor)`` are raised to it. They matter once the scalings have grown so much that
    ``u_i exp(-floor) v_j`` is no longer negligible; the guard bounds that product by the largest u and v of all
    iterations, because an early excursion leaves its mark on the later ones.
    """
    limits = limits_of(backend, X)
    K = backend.exp(backend.maximum(_over(X - backend.max(X, axis=-2, keepdims=True), tau), -limits.floor))
    by_K, by_K_transposed = backend.row_products(K)
    batch, m, n = backend.shape(X)

    def iteration(state: tuple[int, Array, Array, Array, Array]) -> tuple[int, Array, Array, Array, Array]:
        count, u, v, largest_u, largest_v = state
        v = col / backend.maximum(by_K(u), limits.tiny)
        u = row / backend.maximum(by_K_transposed(v), limits.tiny)
        return count + 1, u, v, backend.maximum(largest_u, u), backend.maximum(largest_v, v)

    u, v = backend.full((batch, 1, m), 1.0, X), backend.full((batch, 1, n), 1.0, X)
    start = (0, u, v, u, v)
    _, u, v, largest_u, largest_v = backend.while_loop(lambda state: state[0] < num_iters, iteration, start)
    log_u = backend.log(backend.max(largest_u, axis=-1, keepdims=True))
    log_v = backend.log(backend.max(largest_v, axis=-1, keepdims=True))
    failed = (log_u + log_v > limits.growth) | (log_u > limits.growth) | (log_v > limits.growth)
    return _scaled(backend, K, u, v), failed


def iterate_log_domain(backend: Backend, X: Array, tau: Array | None, row: Array, col: Array, num_iters: int) -> Array:
    """Log-domain form: slower by an order of magnitude, exact at any temperature."""
    L = _over(X - backend.max(X, axis=-2, keepdims=True), tau)
    log_row, log_col = backend.matrix_transpose(backend.log(row)), backend.log(col)
    batch, m, n = backend.shape(X)

    def iteration(state: tuple[int, Array, Array]) -> tuple[int, Array, Array]:
        count, f, g = state
        g = log_col - backend.logsumexp(L + f, axis=-2, keepdims=True)
        f = log_row - backend.logsumexp(L + g, axis=-1, keepdims=True)
        return count + 1, f, g

    start = (0, backend.full((batch, m, 1), 0.0, X), backend.full((batch, 1, n), 0.0, X))
    _, _, g = backend.while_loop(lambda state: state[0] < num_iters, iteration, start)
    # Repeat the last normalisation as a product: rows are then exact even where L + f + g would lose all digits.
    L = L + g
    P = backend.exp(L - backend.max(L, axis=-1, keepdims=True))
    return P * (backend.matrix_transpose(row) / backend.sum(P, axis=-1, keepdims=True))


def _scaled(backend: Backend, K: Array, u: Array, v: Array) -> Array:
    """``diag(u) K diag(v)`` in the memory of K, which nobody reads again."""
    K *= backend.matrix_transpose(u)
    K *= v
    return K


def _over(X: Array, tau: Array | None) -> Array:
    return X if tau is None else X / tau
