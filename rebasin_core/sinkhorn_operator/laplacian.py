"""Linear systems with the graph Laplacian of a transport plan.

Eliminating the row potential from the Hessian of the dual leaves the Schur complement

    S = diag(b) - P^T diag(1 / a) P,    a = P 1,    b = P^T 1,

the Laplacian of the weighted graph on the columns with weights ``W = P^T diag(1 / a) P``. Its null space holds the
constants, and when the plan is nearly hard ``diag(b)`` cancels ``W`` almost entirely: computed as written, S is noise.
`SplitLaplacian` and the factorization therefore never subtract the two; `SoftLaplacian` does, in two thirds of the
time, and is for plans in which no entry is most of its row. All vectors are rows, of shape (batch, 1, n).

Which method when:

| system                         | columns n   | first                | where that fails                              |
| ------------------------------ | ----------- | -------------------- | --------------------------------------------- |
| of any plan: `solve`           | up to 256   | factorization        | conjugate gradients on the split Laplacian    |
|                                | up to 2048  | conjugate gradients  | factorization: n^2 memory, n^3 time           |
|                                | above       | conjugate gradients  | what they have reached                        |
| gradient of a soft plan        | from 64     | `series`             | conjugate gradients on S as written; `solve`  |

A plan is soft while no entry is more than half of its row; below 64 columns the factorization is faster anyway
(`implicit.py` decides). A factorization fails with NaN, an iteration by reaching its cap.
"""

from typing import NamedTuple

from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.sinkhorn_operator.kernel import apply, apply_transpose, limits_of, row_sums

__all__ = [
    "CHOLESKY_ALWAYS",
    "CHOLESKY_AT_MOST",
    "SoftLaplacian",
    "SplitLaplacian",
    "conjugate_gradients",
    "series",
    "solve",
    "split_laplacian",
]

CHOLESKY_ALWAYS = 256
CHOLESKY_AT_MOST = 2048

_ENOUGH = 16
_FAST = 0.05
"""A series goes on while each term is smaller than this part of the one before, in squared size."""


class SoftLaplacian(NamedTuple):
    """S as it is written. Without large entries the diagonal of S is between b / 2 and b: b preconditions as well."""

    P: Array
    a: Array
    diagonal: Array
    """``b = P^T 1``."""

    def times(self, backend: Backend, x: Array) -> Array:
        """``S x`` in two products with n^2 entries."""
        return self.diagonal * x - apply_transpose(backend, self.P, apply(backend, self.P, x) / self.a)


class SplitLaplacian(NamedTuple):
    """S split as ``E`` (the plan without its largest entry per row) and the place of that entry.

    Within row i take differences to the largest entry's column s_i: ``x_j - (P x)_i / a_i = (x_j - x_s) - d_i`` with
    ``d = (E x - e x_s) / a``. Every term then carries a factor E, which is small exactly when S is.
    """

    P: Array
    E: Array
    a: Array
    largest: Array
    """Column of the largest entry of each row, shape (batch, 1, m)."""
    row_rest: Array
    """``e = E 1``."""
    col_rest: Array
    """``E^T 1``."""
    diagonal: Array

    def times(self, backend: Backend, x: Array) -> Array:
        """``S x`` in three products with n^2 entries."""
        x_largest = backend.take_along_axis(x, self.largest, axis=-1)
        deviation = (apply(backend, self.E, x) - self.row_rest * x_largest) / self.a
        return (
            self.col_rest * x
            - apply_transpose(backend, self.E, x_largest)
            - apply_transpose(backend, self.P, deviation)
        )


def split_laplacian(backend: Backend, P: Array) -> SplitLaplacian:
    """Split the plan, and compute ``S_jj = sum_i P_ij (a_i - P_ij) / a_i`` from the parts."""
    largest, E = _without_largest(backend, P)
    a = row_sums(backend, P)
    row_rest = row_sums(backend, E)
    col_rest = backend.sum(E, axis=-2, keepdims=True)
    ratio = row_rest / a
    # E contributes E (a - E) / a; the largest entries P - E contribute (P - E) e / a.
    diagonal = (
        col_rest
        - apply_transpose(backend, E * E, 1.0 / a)
        + apply_transpose(backend, P, ratio)
        - apply_transpose(backend, E, ratio)
    )
    return SplitLaplacian(P, E, a, largest, row_rest, col_rest, backend.maximum(diagonal, 0.0))


def series(backend: Backend, S: SoftLaplacian, rhs: Array, relative_tolerance: float) -> tuple[Array, Array]:
    """Sum ``x = sum_k (D^-1 W)^k D^-1 rhs``, with ``S = D - W``, while its terms fall fast.

    Where the plan is far from hard, the second eigenvalue of ``D^-1 W`` is small: the series then takes as many
    products as conjugate gradients and far fewer small operations beside them, which is what counts for a few hundred
    units. The residual after a term is the next term times D, so that nothing is subtracted.

    Returns
    -------
    x, unfinished : array
        The sum so far, and per item, shape (batch, 1, 1), whether the tolerance was not reached.
    """
    by_P, by_P_transposed = backend.row_products(S.P)
    x = rhs / S.diagonal
    size = backend.sum(rhs * x, axis=-1, keepdims=True)
    target = relative_tolerance * relative_tolerance * size

    def term(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        x, z, size, _ = state
        r = by_P(by_P_transposed(z) / S.a)
        z = r / S.diagonal
        next_size = backend.sum(r * z, axis=-1, keepdims=True)
        return x + z, z, next_size, (next_size > target) & (next_size < _FAST * size)

    start = (x, x, size, size > target)
    x, _, size, _ = backend.while_loop(lambda state: backend.any(state[3]), term, start)
    return x, size > target


def conjugate_gradients(
    backend: Backend,
    S: SoftLaplacian | SplitLaplacian,
    rhs: Array,
    relative_tolerance: Array | float,
    max_iterations: int,
    ridge: Array | float = 0.0,
) -> tuple[Array, Array]:
    """Jacobi-preconditioned conjugate gradients for ``(S + diag(ridge)) x = rhs``, and which items did not converge.

    A further ridge of ``4 eps diag(S)`` keeps clusters of columns that only rounding noise joins from drifting apart;
    relative to the diagonal, it is harmless where the Laplacian itself is tiny.
    """
    eps = limits_of(backend, rhs).eps
    M = S.diagonal + (ridge + eps * eps)
    shift = ridge + 4.0 * eps * M
    z = rhs / M
    rz = backend.sum(rhs * z, axis=-1, keepdims=True)
    target = relative_tolerance * relative_tolerance * rz
    start = (0, backend.full(backend.shape(rhs), 0.0, rhs), rhs, z, rz, rz > 0.0)

    def iteration(
        state: tuple[int, Array, Array, Array, Array, Array],
    ) -> tuple[int, Array, Array, Array, Array, Array]:
        count, x, r, p, rz, active = state
        Sp = S.times(backend, p) + shift * p
        curvature = backend.sum(p * Sp, axis=-1, keepdims=True)
        # An item that is done, or whose curvature is lost in rounding, keeps its solution.
        active = active & (curvature > 0.0)
        step = backend.where(active, rz / backend.where(active, curvature, 1.0), 0.0)
        x, r = x + step * p, r - step * Sp
        z = r / M
        rz_next = backend.sum(r * z, axis=-1, keepdims=True)
        p = z + rz_next / backend.where(active, rz, 1.0) * p
        return count + 1, x, r, p, rz_next, active & (rz_next > target)

    _, x, _, _, _, active = backend.while_loop(
        lambda state: (state[0] < max_iterations) & backend.any(state[5]), iteration, start
    )
    return x, active


def cholesky(backend: Backend, P: Array, rhs: Array, refine: bool, ridge: Array | float) -> Array:
    """Solve ``(S + diag(ridge)) x = rhs`` by factorizing the n x n matrix, scaled to a unit diagonal.

    A slice of the batch whose factorization fails is NaN. The diagonal is the sum of the off-diagonal weights, all of
    one sign, so nothing cancels.
    """
    eps = limits_of(backend, P).eps
    n = backend.shape(P)[-1]
    on_diagonal = _columns(backend, n, P) == backend.matrix_transpose(_columns(backend, n, P))
    weights = backend.matmul(backend.matrix_transpose(P), P / backend.sum(P, axis=-1, keepdims=True))
    W = backend.where(on_diagonal, 0.0, weights)
    degree = backend.sum(W, axis=-2, keepdims=True) + ridge
    # The weakest columns get a floor of eps^2; a ridge of the size of the rounding errors keeps the factor definite.
    q = 1.0 / backend.sqrt(degree + eps * eps)
    relative_ridge = 8.0 * eps * n**0.5
    scaled = backend.where(on_diagonal, degree * q * q + relative_ridge, -W * q * backend.matrix_transpose(q))

    def solve_scaled(right: Array) -> Array:
        solution = backend.cholesky_solve(scaled, backend.matrix_transpose(q * right))
        return q * backend.matrix_transpose(solution)

    x = solve_scaled(rhs)
    if refine:
        x = x + solve_scaled(rhs - (degree * x - backend.matmul(x, W)))
    return x


def solve(
    backend: Backend,
    P: Array,
    rhs: Array,
    relative_tolerance: Array | float,
    max_iterations: int,
    refine: bool = False,
    ridge: Array | float = 0.0,
) -> Array:
    """Solve ``(S + diag(ridge)) x = rhs`` by the method that suits the size (see the table of the module).

    `rhs` is orthogonal to the constants; so is the solution, up to an arbitrary constant.
    """
    n = backend.shape(P)[-1]

    def iterate(operand: Array) -> tuple[Array, Array]:
        S = split_laplacian(backend, P)
        # Without rounding n iterations are enough; where many times as many are not, no number is.
        return conjugate_gradients(backend, S, rhs, relative_tolerance, min(max_iterations, _ENOUGH * n), ridge)

    def factorize(operand: Array) -> Array:
        return cholesky(backend, P, rhs, refine, ridge)

    if n <= CHOLESKY_ALWAYS:
        x = factorize(rhs)
        lost = ~backend.isfinite(x)
        return backend.cond(
            backend.any(lost), lambda operand: backend.where(lost, iterate(operand)[0], operand), lambda x: x, x
        )
    x, unfinished = iterate(rhs)
    if n > CHOLESKY_AT_MOST:
        return x

    def replace(operand: Array) -> Array:
        exact = factorize(operand)
        return backend.where(unfinished & backend.isfinite(exact), exact, operand)

    return backend.cond(backend.any(unfinished), replace, lambda operand: operand, x)


def _without_largest(backend: Backend, P: Array) -> tuple[Array, Array]:
    """Column of the largest entry of each row, and the plan with exactly that entry zeroed (ties stay)."""
    largest = backend.argmax(P, axis=-1)
    batch, m, n = backend.shape(P)
    column = backend.reshape(largest, (batch, m, 1))
    E = backend.where(backend.asarray(range(n), like=largest) == column, 0.0, P)
    return backend.reshape(largest, (batch, 1, m)), E


def _columns(backend: Backend, n: int, like: Array) -> Array:
    """0, 1, ..., n - 1 as a row; exact in float32 far beyond any n whose matrix fits in memory."""
    return backend.reshape(backend.asarray(range(n), like=like), (1, n))
