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
As R is the minimizer of a quadratic form, its own change does not count to first order (envelope theorem), and only P
moves: ``dF = <R[H] * R[G], dP> / tau``, that is ``dF/dX = J[R[G] * R[H]] / tau``. Last, F depends on tau as the factor
1 / tau and through ``X / tau``: ``dF/dtau = -(F + <X, dF/dX>) / tau``.

Temperature. P depends on ``X / tau`` alone, so that ``dL/dtau = -<X, dL/dX> / tau``. As the rows and columns of dL/dX
sum to zero, and ``X / tau = log P - f 1^T - 1 g^T``, that is ``-<log P, dL/dX>``: a sum without large terms that
cancel, or overflow, whatever the size of the logits.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rebasin_core.backends.dtypes import all_finite
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import NonFiniteError
from rebasin_core.sinkhorn_operator.kernel import apply, apply_transpose, limits_of, row_sums
from rebasin_core.sinkhorn_operator.laplacian import SoftLaplacian, conjugate_gradients, series, solve

__all__ = ["Pullback", "Temperature", "pullback_of", "residual", "temperature_cotangent"]

_MAX_ITERATIONS = 200
_MAX_SOFT_ITERATIONS = 50
_SOFT = 0.5
"""A plan is soft while no entry is more than this part of its row."""
_SMALL = 64
"""With fewer columns a factorization is faster than what soft plans allow; see the table of `laplacian`."""


class Temperature(NamedTuple):
    """What is known of a temperature when the operator is called."""

    is_constant: bool
    """Whether it is a plain number, without a derivative."""
    is_one: bool
    """A division by one is a pass over n^2 numbers, and memory for them, for nothing."""
    is_steep: bool
    """Whether derivatives may overflow at it, so that they are checked."""


def residual(backend: Backend, P: Array, Z: Array) -> Array:
    """``R[Z] = Z - u 1^T - 1 v^T``: what the rows and columns of Z, weighted by P, do not explain."""
    if backend.shape(P)[-1] < _SMALL:
        return _residual_of_any(backend, P, Z)
    a = row_sums(backend, P)
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
    S = SoftLaplacian(P, a, backend.maximum(b, limits_of(backend, P).tiny))
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
    a = row_sums(backend, P)
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
    Q_rows = row_sums(backend, Q)
    return Q_rows, backend.sum(Q, axis=-2, keepdims=True) - apply_transpose(backend, P, Q_rows / a)


def _size(backend: Backend, rhs: Array) -> Array:
    """Largest entry: squares in the solver must not overflow for large cotangents nor vanish for small ones."""
    size = backend.max(backend.abs(rhs), axis=-1, keepdims=True)
    return backend.where(size > 0.0, size, 1.0)


def temperature_cotangent(backend: Backend, P: Array, X_cotangent: Array) -> Array:
    """``-<log P, dX>``; where P is zero, so is dX."""
    log_P = backend.log(backend.maximum(P, limits_of(backend, P).tiny))
    return _checked(backend, -backend.sum(log_P * X_cotangent), X_cotangent)


def _checked(backend: Backend, x: Array, cotangent: Array | None = None) -> Array:
    """Refuse a derivative that overflowed; one of a cotangent that was not finite itself goes on as it is."""
    if backend.is_concrete(x) and not all_finite(backend, x) and (cotangent is None or all_finite(backend, cotangent)):
        raise NonFiniteError(
            f"expected a derivative of the Sinkhorn operator within the range of {backend.dtype(x)}, got infinity or "
            "NaN, as derivatives grow with 1 / tau; raise tau, or pass float64 logits"
        )
    return x


class Pullback(NamedTuple):
    """The cotangent of the logits as a function of ``(X, tau, G, P)`` with derivatives with respect to X, tau and G.

    P stands for the value of the operator at X and tau; its dependence on them is accounted to X and tau.
    """

    backend: Backend
    temperature: Temperature

    def primal(self, X: Array, tau: Array, G: Array, P: Array) -> Array:
        """``J[G] = P * R[G] / tau``."""
        with np.errstate(over="ignore", invalid="ignore"):
            R = residual(self.backend, P, G)
            R *= P
            if not self.temperature.is_one:
                R /= tau
        return _checked(self.backend, R, G) if self.temperature.is_steep else R

    def vjp(
        self, H: Array, output: Array, X: Array, tau: Array, G: Array, P: Array
    ) -> tuple[Array, Array | None, Array, None]:
        """Cotangents of X, tau and G for the cotangent H of the pullback."""
        backend = self.backend
        X_cotangent = _curvature_of(backend, self.temperature.is_steep)(X, tau, G, H, P)
        tau_cotangent = None
        if not self.temperature.is_constant:
            tau_cotangent = temperature_cotangent(backend, P, X_cotangent) - backend.sum(H * output) / tau
        return X_cotangent, tau_cotangent, pullback_of(backend, self.temperature)(X, tau, H, P), None


@lru_cache(maxsize=32)
def pullback_of(backend: Backend, temperature: Temperature) -> Array:
    """The pullback, registered with the framework once; called as ``pullback(X, tau, G, P)``."""
    pullback = Pullback(backend, temperature)
    return backend.custom_vjp(pullback.primal, pullback.vjp)


@lru_cache(maxsize=32)
def _curvature_of(backend: Backend, is_steep: bool) -> Array:
    """``J[R[G] * R[H]] / tau`` as a function of ``(X, tau, G, H, P)``."""

    def primal(X: Array, tau: Array, G: Array, H: Array, P: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            product = residual(backend, P, G)
            product *= residual(backend, P, H)
            R = residual(backend, P, product)
            R *= P
            # One after the other: the square of a small tau is zero.
            R /= tau
            R /= tau
        return _checked(backend, R) if is_steep else R

    def vjp(cotangent: Array, output: Array, *args: Array) -> tuple[None, ...]:
        raise NotImplementedError(
            "the Sinkhorn operator has a first and a second derivative; a third was asked for. Differentiate at most "
            "twice, or unroll the iterations in the log domain yourself"
        )

    return backend.custom_vjp(primal, vjp)
