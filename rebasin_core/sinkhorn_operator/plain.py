"""A fixed number of Sinkhorn's iterations, in scaling form with the log domain as the fallback.

With ``K = exp((X - max_i X) / tau)`` the plan is ``diag(u) K diag(v)``, and an iteration is two matrix-vector products,
``v = col / K^T u`` and ``u = row / K v`` (Sinkhorn 1967; Cuturi 2013): the same numbers as alternating normalization of
columns and rows of ``exp(X / tau)``, without an n^2 temporary.
"""

from typing import NamedTuple, cast

from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.sinkhorn_operator.kernel import Solved, limits_of

__all__ = ["Iterations", "iterate", "iterate_log_domain", "iterate_mild", "iterate_scaling"]

# Iterations between two looks at whether they still change anything: a look costs as much as one of them or two.
ROUND = 3

# Units of rounding by which v may change in an iteration that changes nothing any more; two to three were seen.
SETTLED = 4.0


class Iterations(NamedTuple):
    """What to iterate, beside the logits."""

    backend: Backend
    tau: Array | None
    """A scalar; None stands for 1."""
    row: Array
    col: Array
    num_iters: int
    start: Array | None = None
    """A row u: the iterations start from ``exp(X / tau + u)``, or from ``exp(X / tau)`` without it."""
    with_potentials: bool = False


def iterate(problem: Iterations, X: Array) -> Solved:
    """Normalize columns, then rows, as often as asked for; `X` has shape (batch, m, n)."""
    backend, tau = problem.backend, problem.tau
    # Neither side of this comparison overflows, whatever the logits and the temperature are.
    largest = backend.maximum(backend.max(X), -backend.min(X)) / limits_of(backend, X).mild
    wide = largest > (1.0 if tau is None else tau)
    solved = backend.cond(wide, lambda X: _iterate_guarded(problem, X), lambda X: iterate_mild(problem, X), X)
    return cast(Solved, solved)


def _iterate_guarded(problem: Iterations, X: Array) -> Solved:
    backend = problem.backend
    solved, failed = iterate_scaling(problem, X)
    solved = backend.cond(backend.any(failed), lambda _: iterate_log_domain(problem, X), lambda done: done, solved)
    return cast(Solved, solved)


def iterate_mild(problem: Iterations, X: Array) -> Solved:
    """Scaling form for logits that are small over tau, where nothing can overflow.

    It ends early where an iteration changes v by no more than rounding does: soft plans are there after some five
    iterations. In Hilbert's projective metric no iteration changes more than the one before, so that what is left out
    is at most `SETTLED` units of rounding for each.
    """
    backend, tau, row, col, num_iters, start, with_potentials = problem
    K = backend.exp(_over(X, tau))
    by_K, by_K_transposed = backend.row_products(K)
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
    u, v, last = iterations(first, _scalings(backend, X, start))
    rounds = (num_iters - first) // ROUND
    if first < num_iters:
        rounds, u, v, _ = backend.while_loop(has_changed, one_round, (rounds, u, v, last))
    plan = _scaled(backend, K, u, v)
    if not with_potentials:
        return Solved(plan)
    return _recorded(backend, plan, backend.log(u), backend.log(v), num_iters - ROUND * rounds)


def iterate_scaling(problem: Iterations, X: Array) -> tuple[Solved, Array]:
    """Scaling form, and whether it cannot be trusted, of shape (batch, 1, 1).

    Entries of K below ``exp(-floor)`` are raised to it. They matter once the scalings have grown so much that
    ``u_i exp(-floor) v_j`` is no longer negligible; the guard bounds that product by the largest u and v of all
    iterations, because an early excursion leaves its mark on the later ones.
    """
    backend, tau, row, col, num_iters, start, with_potentials = problem
    limits = limits_of(backend, X)
    highest = backend.max(X, axis=-2, keepdims=True)
    K = backend.exp(backend.maximum(_over(X - highest, tau), -limits.floor))
    by_K, by_K_transposed = backend.row_products(K)
    batch, _, n = backend.shape(X)

    def iteration(state: tuple[int, Array, Array, Array, Array]) -> tuple[int, Array, Array, Array, Array]:
        count, u, v, largest_u, largest_v = state
        v = col / backend.maximum(by_K(u), limits.tiny)
        u = row / backend.maximum(by_K_transposed(v), limits.tiny)
        return count + 1, u, v, backend.maximum(largest_u, u), backend.maximum(largest_v, v)

    u, v = _scalings(backend, X, start), backend.full((batch, 1, n), 1.0, X)
    _, u, v, largest_u, largest_v = backend.while_loop(lambda state: state[0] < num_iters, iteration, (0, u, v, u, v))
    log_u = backend.log(backend.max(largest_u, axis=-1, keepdims=True))
    log_v = backend.log(backend.max(largest_v, axis=-1, keepdims=True))
    failed = ~((log_u + log_v <= limits.growth) & (log_u <= limits.growth) & (log_v <= limits.growth))
    plan = _scaled(backend, K, u, v)
    if not with_potentials:
        return Solved(plan), failed
    g = backend.log(backend.maximum(v, limits.smallest)) - _over(highest, tau)
    return _recorded(backend, plan, backend.log(backend.maximum(u, limits.smallest)), g, num_iters), failed


def iterate_log_domain(problem: Iterations, X: Array) -> Solved:
    """Log-domain form: slower by an order of magnitude, exact at any temperature."""
    backend, tau, row, col, num_iters, start, with_potentials = problem
    highest = backend.max(X, axis=-2, keepdims=True)
    # Where a difference or the division overflows, its place is below everything that counts, and sums stay finite.
    L = backend.maximum(_over(X - highest, tau), -limits_of(backend, X).large)
    log_row, log_col = backend.matrix_transpose(backend.log(row)), backend.log(col)
    batch, m, n = backend.shape(X)

    def iteration(state: tuple[int, Array, Array]) -> tuple[int, Array, Array]:
        count, f, g = state
        g = log_col - backend.logsumexp(L + f, axis=-2, keepdims=True)
        f = log_row - backend.logsumexp(L + g, axis=-1, keepdims=True)
        return count + 1, f, g

    f = backend.full((batch, m, 1), 0.0, X) if start is None else backend.matrix_transpose(_below_zero(backend, start))
    first = (0, f, backend.full((batch, 1, n), 0.0, X))
    _, f, g = backend.while_loop(lambda state: state[0] < num_iters, iteration, first)
    # Repeat the last normalization as a product: rows are then exact even where L + f + g would lose all digits.
    L = L + g
    P = backend.exp(L - backend.max(L, axis=-1, keepdims=True))
    plan = P * (backend.matrix_transpose(row) / backend.sum(P, axis=-1, keepdims=True))
    if not with_potentials:
        return Solved(plan)
    return _recorded(backend, plan, backend.matrix_transpose(f), g - _over(highest, tau), num_iters)


def _scaled(backend: Backend, K: Array, u: Array, v: Array) -> Array:
    """``diag(u) K diag(v)`` in the memory of K, which nobody reads again."""
    K *= backend.matrix_transpose(u)
    K *= v
    return K


def _scalings(backend: Backend, X: Array, start: Array | None) -> Array:
    """The first u: ones, or what an earlier call ended with."""
    batch, m, _ = backend.shape(X)
    return backend.full((batch, 1, m), 1.0, X) if start is None else backend.exp(_below_zero(backend, start))


def _below_zero(backend: Backend, start: Array) -> Array:
    """Add the constant that makes zero the largest; the first normalization takes any constant out again."""
    return backend.maximum(start - backend.max(start, axis=-1, keepdims=True), -limits_of(backend, start).large)


def _recorded(backend: Backend, plan: Array, u: Array, v: Array, count: Array | int) -> Solved:
    return Solved(plan, (u, v), (backend.asarray(count, like=plan),))


def _over(X: Array, tau: Array | None) -> Array:
    return X if tau is None else X / tau
