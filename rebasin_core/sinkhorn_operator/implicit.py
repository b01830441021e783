"""The derivative of the operator by implicit differentiation, and the derivative of that derivative.

Let ``P = exp(X / tau + f 1^T + 1 g^T)`` with row sums a and column sums b (Eq. 4, 5 of "Re-basin via implicit Sinkhorn
differentiation", Pena et al. 2023). Differentiating, with the marginals held fixed,

    dP = P * (dX / tau + df 1^T + 1 dg^T),    dP 1 = 0,    dP^T 1 = 0.

Hence ``dP = P * R[dX] / tau``, where ``R[Z] = Z - u 1^T - 1 v^T`` is the residual of the least-squares fit of Z,
weighted by P, by a matrix of the form ``u 1^T + 1 v^T``. R is a projection, orthogonal in the inner product weighted
by P, so the map ``J[Z] = P * R[Z] / tau`` is self-adjoint: the pullback of a cotangent G is J[G] itself (Eisenberger
et al. 2022, "A unified framework for implicit Sinkhorn differentiation"). The normal equations of the fit, with
``Q = P * Z``, are

    a * u + P v = Q 1,    P^T u + b * v = Q^T 1,

and eliminating u leaves ``S v = Q^T 1 - P^T (Q 1 / a)`` with the Laplacian S of ``laplacian.py``. Where the iterations
stopped early, a and b are the sums the plan really has, not those it was meant to have: S is then still a Laplacian,
and J the exact derivative of the operator whose marginals are a and b.

Second derivative. ``F = <H, J[G]> = <R[H], P * R[G]> / tau`` is bilinear and symmetric in H and G, so ``dF/dG = J[H]``.
As R is the minimiser of a quadratic form, its own change does not count to first order (envelope theorem), and only P
moves: ``dF = <R[H] * R[G], dP> / tau``, that is ``dF/dX = J[R[G] * R[H]] / tau``. Last, F depends on tau as the factor
1 / tau and through ``X / tau``: ``dF/dtau = -(F + <X, dF/dX>) / tau``.
"""

from functools import lru_cache
from typing import NamedTuple

from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.sinkhorn_operator.kernel import apply, apply_transpose, limits_of
from rebasin_core.sinkhorn_operator.laplacian import SoftLaplacian, conjugate_gradients, series, solve

__all__ = ["Pullback", "pullback_of", "residual", "temperature_cotangent"]

_MAX_ITERATIONS = 200
_MAX_SOFT_ITERATIONS = 50
_SOFT = 0.5
"""Share of its row that the largest entry of a soft plan has at most."""
_SMALL = 64
"""Number of columns below which a factorisation is faster than the iteration that soft plans allow."""


def residual(backend: Backend, P: Array, Z: Array) -> Array:
    """``R[Z] = Z - u 1^T - 1 v^T``: what the rows and columns of Z, weighted by P, do not explain."""
    if backend.shape(P)[-1] < _SMALL:
        return _residual_of_any(backend, P, Z)
    a = _row_sums(backend, P)
    is_hard = backend.any(backend.max(P, axis=-1, keepdims=True) > _SOFT * backend.matrix_transpose(a))

    def of_soft(Z: Array) -> Array:
        R, unfinished = _residual_of_soft(backend, P, Z, a)
        return backend.cond(unfinished, lambda R: _residual_of_any(backend, P, Z), lambda R: R, R)

    return backend.cond(is_hard, lambda Z: _residual_of_any(backend, P, Z), of_soft, Z)


def _residual_of_soft(backend: Backend, P: Array, Z: Array, a: Array) -> tuple[Array, Array]:
    """The residual where no entry of the plan dominates its row, and whether the iteration did not converge."""
    Q_rows, rhs = _normal_equations(backend, P, Z, a)
    b = backend.sum(P, axis=-2, keepdims=True)
    size = _size(backend, rhs)
    tolerance = 10.0 * limits_of(backend, P).eps
    S = SoftLaplacian(P, a, b)
    x, slow = series(backend, S, rhs / size, tolerance)
    x, unfinished = backend.cond(
        backend.any(slow),
        lambda x: conjugate_gradients(backend, S, rhs / size, tolerance, _MAX_SOFT_ITERATIONS),
        lambda x: (x, slow),
        x,
    )
    return _left_over(backend, P, Z, a, Q_rows, size * x), backend.any(unfinished)


def _residual_of_any(backend: Backend, P: Array, Z: Array) -> Array:
    eps = limits_of(backend, P).eps
    batch, m, _ = backend.shape(P)
    # Measure each row of Z from the entry where the plan is largest. R does not change, and where the plan is nearly
    # hard, Q becomes as small as the Laplacian instead of cancelling later.
    largest = backend.reshape(backend.argmax(P, axis=-1), (batch, m, 1))
    Z = Z - backend.take_along_axis(Z, largest, axis=-1)
    a = _row_sums(backend, P)
    Q_rows, rhs = _normal_equations(backend, P, Z, a)
    size = _size(backend, rhs)
    v = size * solve(backend, P, rhs / size, 10.0 * eps, _MAX_ITERATIONS, refine=True)
    return _left_over(backend, P, Z, a, Q_rows, v)


def _left_over(backend: Backend, P: Array, Z: Array, a: Array, Q_rows: Array, v: Array) -> Array:
    """``Z - u 1^T - 1 v^T``, with the u that follows from v."""
    R = Z - backend.matrix_transpose((Q_rows - apply(backend, P, v)) / a)
    R -= v
    return R


def _normal_equations(backend: Backend, P: Array, Z: Array, a: Array) -> tuple[Array, Array]:
    """Row sums of ``Q = P * Z``, and the right-hand side ``Q^T 1 - P^T (Q 1 / a)``."""
    Q = P * Z
    Q_rows = _row_sums(backend, Q)
    return Q_rows, backend.sum(Q, axis=-2, keepdims=True) - apply_transpose(backend, P, Q_rows / a)


def _row_sums(backend: Backend, x: Array) -> Array:
    return backend.matrix_transpose(backend.sum(x, axis=-1, keepdims=True))


def _size(backend: Backend, rhs: Array) -> Array:
    """Largest entry: squares in the solver must not overflow for large cotangents nor vanish for small ones."""
    size = backend.max(backend.abs(rhs), axis=-1, keepdims=True)
    return backend.where(size > 0.0, size, 1.0)


def temperature_cotangent(backend: Backend, X: Array, tau: Array, X_cotangent: Array) -> Array:
    """``-<X, dX> / tau``: the operator depends on its arguments through ``X / tau`` only."""
    # Rows of dX sum to zero, so the shift changes nothing but the rounding, if logits are large.
    shift = backend.stop_gradient(backend.max(X, axis=-1, keepdims=True))
    return -backend.sum((X - shift) * X_cotangent) / tau


class Pullback(NamedTuple):
    """The cotangent of the logits as a function of ``(X, tau, G, P)`` with derivatives with respect to X, tau and G.

    P stands for the value of the operator at X and tau; its dependence on them is accounted to X and tau.
    """

    backend: Backend
    tau_is_constant: bool
    tau_is_one: bool
    """A division by one is a pass over n^2 numbers, and memory for them, for nothing."""

    def primal(self, X: Array, tau: Array, G: Array, P: Array) -> Array:
        """``J[G] = P * R[G] / tau``."""
        R = residual(self.backend, P, G)
        R *= P
        if not self.tau_is_one:
            R /= tau
        return R

    def vjp(
        self, H: Array, output: Array, X: Array, tau: Array, G: Array, P: Array
    ) -> tuple[Array, Array | None, Array, None]:
        """Cotangents of X, tau and G for the cotangent H of the pullback."""
        backend = self.backend
        X_cotangent = _curvature_of(backend)(X, tau, G, H, P)
        tau_cotangent = None
        if not self.tau_is_constant:
            F = backend.sum(H * output)
            tau_cotangent = temperature_cotangent(backend, X, tau, X_cotangent) - F / tau
        return (
            X_cotangent,
            tau_cotangent,
            pullback_of(backend, self.tau_is_constant, self.tau_is_one)(X, tau, H, P),
            None,
        )


@lru_cache(maxsize=32)
def pullback_of(backend: Backend, tau_is_constant: bool, tau_is_one: bool) -> Array:
    """The pullback, registered with the framework once; called as ``pullback(X, tau, G, P)``."""
    pullback = Pullback(backend, tau_is_constant, tau_is_one)
    return backend.custom_vjp(pullback.primal, pullback.vjp)


@lru_cache(maxsize=32)
def _curvature_of(backend: Backend) -> Array:
    """``J[R[G] * R[H]] / tau`` as a function of ``(X, tau, G, H, P)``."""

    def primal(X: Array, tau: Array, G: Array, H: Array, P: Array) -> Array:
        product = residual(backend, P, G)
        product *= residual(backend, P, H)
        R = residual(backend, P, product)
        R *= P
        R /= tau * tau
        return R

    def vjp(cotangent: Array, output: Array, *args: Array) -> tuple[None, ...]:
        raise NotImplementedError(
            "The Sinkhorn operator has a first and a second derivative; a third was asked for. Differentiate at most "
            "twice, or unroll the iterations in the log domain yourself."
        )

    return backend.custom_vjp(primal, vjp)
