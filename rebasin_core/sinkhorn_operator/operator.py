"""The public operator: reads its arguments, shapes them for the solvers, and wires the derivative."""

import warnings
from collections.abc import Callable
from functools import lru_cache
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeVar, overload

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import ConvergenceWarning, SettingError
from rebasin_core.sinkhorn_operator.accelerated import solve_to_tolerance
from rebasin_core.sinkhorn_operator.arguments import check_logits, check_stopping, read_start, read_temperature
from rebasin_core.sinkhorn_operator.implicit import Temperature, pullback_of, temperature_cotangent
from rebasin_core.sinkhorn_operator.kernel import Solved, clip, compute_dtype, limits_of
from rebasin_core.sinkhorn_operator.marginals import marginal_errors, read_marginals
from rebasin_core.sinkhorn_operator.plain import Iterations, iterate, iterate_mild

__all__ = ["SinkhornInfo", "sinkhorn"]

ArrayT = TypeVar("ArrayT")


class SinkhornInfo(NamedTuple):
    """How a plan came about: what ``sinkhorn(..., info=True)`` returns beside it.

    All of it is constant to every gradient.
    """

    potentials: tuple[Array, Array]
    """``(u, v)``, logarithms of the scalings of rows, shape (..., m), and of columns, shape (..., n):
    ``plan = exp(logits / tau + u[..., :, None] + v[..., None, :])``, up to rounding and to entries too small to count.
    Of the dtype that is computed with (float32 for half precision). A constant may move from u to v."""
    iterations: Any
    """How many there were, for all matrices of a batch together: plain ones, and with `tol` Newton steps, at all
    temperatures on the way. An int; under a compiler, an array."""
    error: Array
    """Marginal error, shape (...), as `return_error` gives it."""
    converged: Array
    """Shape (...): whether the error is at most `tol`, or else, and with `num_iters`, whether its mean over the rows
    and over the columns is that of rounding."""


@overload
def sinkhorn(
    logits: ArrayT,
    tau: Array | float = ...,
    num_iters: int | None = ...,
    tol: float | None = ...,
    *,
    marginals: tuple[Array, Array] | None = ...,
    return_error: Literal[False] = ...,
    info: Literal[False] = ...,
    start: tuple[Array, Array] | None = ...,
) -> ArrayT: ...


@overload
def sinkhorn(
    logits: ArrayT,
    tau: Array | float = ...,
    num_iters: int | None = ...,
    tol: float | None = ...,
    *,
    marginals: tuple[Array, Array] | None = ...,
    return_error: Literal[True],
    info: Literal[False] = ...,
    start: tuple[Array, Array] | None = ...,
) -> tuple[ArrayT, ArrayT]: ...


@overload
def sinkhorn(
    logits: ArrayT,
    tau: Array | float = ...,
    num_iters: int | None = ...,
    tol: float | None = ...,
    *,
    marginals: tuple[Array, Array] | None = ...,
    return_error: Literal[False] = ...,
    info: Literal[True],
    start: tuple[Array, Array] | None = ...,
) -> tuple[ArrayT, SinkhornInfo]: ...


def sinkhorn(
    logits: Array,
    tau: Array | float = 1.0,
    num_iters: int | None = None,
    tol: float | None = None,
    *,
    marginals: tuple[Array, Array] | None = None,
    return_error: bool = False,
    info: bool = False,
    start: tuple[Array, Array] | None = None,
) -> Any:
    r"""Map logits to a doubly stochastic matrix: the Sinkhorn operator :math:`S_\tau`.

    The plan is the matrix :math:`P = \mathrm{diag}(u)\, e^{X / \tau}\, \mathrm{diag}(v)` with the given row and column
    sums; it maximizes :math:`\langle P, X \rangle` plus `tau` times the entropy of P, and tends to the best permutation
    as `tau` tends to 0. It is unchanged by a constant added to a row or a column of the logits.

    Parameters
    ----------
    logits : array, shape (..., m, n), floating
        One matrix or a batch, in any framework. float16 and bfloat16 are computed with in float32.
    tau : float or scalar array, default 1.0
        Temperature, positive, in the unit of the logits. May be differentiated. With logits of unit scale, 1 is smooth
        and cheap; at 0.1 most plans are close to a permutation, and twenty iterations no longer converge.
    num_iters : int, optional
        What exactly so many plain iterations give, each normalizing the columns and then the rows; those at the end
        that change nothing beyond rounding are left out. Default, where `tol` is not given either: 20. Choose it to
        reproduce published results, for a bounded cost, or at `tau` near 1.
    tol : float, optional
        Solve until the marginal error is at most `tol`, with Newton steps where plain iterations are slow. Choose it at
        low `tau`, or wherever the plan must be doubly stochastic. A request beyond the dtype's rounding is met once the
        mean error is below four units of rounding. Excludes `num_iters`.
    marginals : tuple of arrays, optional
        Positive row sums, shape (m,) or (..., m), and column sums, shape (n,) or (..., n), of equal mass. Default: rows
        sum to 1, columns to m / n (doubly stochastic if square). Constants to the gradient.
    return_error : bool, default False
        Also return the marginal error.
    info : bool, default False
        Also return how the plan came about: potentials, number of iterations, marginal error.
    start : tuple of arrays, optional
        Potentials ``(u, v)`` of an earlier call, ``info.potentials``, for logits close to these: the iterations start
        from them. Constants to the gradient. With `num_iters` only u counts, as each iteration begins with v; with
        `tol` only v does, and where it is too far off, the solver starts again without it.

    Returns
    -------
    plan : array, shape (..., m, n)
        Nonnegative, of the dtype and on the device of the logits. Its rows are exact up to rounding.
    error : array, shape (...), only with `return_error`
        Largest ``|sum - marginal|`` over rows and columns, each divided by the mean of its marginal; dimensionless, a
        constant to the gradient. For half precision it is that of the plan before it is rounded.
    info : SinkhornInfo, only with `info`
        See `SinkhornInfo`. The plan stays differentiable; what is in here is constant to the gradient.

    Raises
    ------
    UnsupportedArrayError
        If the logits are no array of a known framework, or not real floating numbers.
    ShapeError
        If the logits have fewer than two axes or an empty one, `tau` is not a scalar, or marginals do not fit.
    NonFiniteError
        If the logits or `start` hold NaN or infinity, or, in the backward pass, if a derivative overflows.
    SettingError
        If `tau`, `num_iters` or `tol` is out of range, `num_iters` and `tol` or `info` and `return_error` are both
        given, or the marginals are not positive or of unequal mass. The range of `tau` is that of the normal numbers
        of the dtype that is computed with.
    NotImplementedError
        If a third derivative is asked for.

    Warns
    -----
    ConvergenceWarning
        If `tol` was not reached; the plan is finite all the same.

    Notes
    -----
    The gradient is that of the implicit function, at the sums the plan really has (Eisenberger et al. 2022), at the
    cost of one linear solve: the iterations are never unrolled and memory does not grow with their number. It is linear
    in the cotangent, and has a derivative itself. Where `num_iters` stops early, that is the gradient of the operator
    with the sums reached, not of the truncated iterations.

    Any finite logits give a finite plan, whatever their size: one that is out of reach of `tau` is zero, as it would be
    with more digits. Derivatives grow with ``1 / tau``; one that the dtype computed with cannot hold is refused. Where
    only the cast back to half precision overflows, it becomes infinite, as a gradient scaler expects it to. Compiled
    code cannot read values: there, nothing that depends on them is checked.

    References
    ----------
    F. A. Guerrero Pena et al., "Re-basin via implicit Sinkhorn differentiation", CVPR 2023, Eq. 4 and 5.
    M. Eisenberger et al., "A unified framework for implicit Sinkhorn differentiation", CVPR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    >>> sinkhorn(logits).round(3)
    array([[0.818, 0.182],
           [0.182, 0.818]])
    >>> plan, error = sinkhorn(logits, tau=0.1, tol=1e-8, return_error=True)
    >>> plan.round(3).tolist(), bool(error <= 1e-8)
    ([[1.0, 0.0], [0.0, 1.0]], True)

    Potentials of one call shorten the next:

    >>> plan, info = sinkhorn(logits, tau=0.1, tol=1e-8, info=True)
    >>> _, again = sinkhorn(logits, tau=0.1, tol=1e-8, info=True, start=info.potentials)
    >>> again.converged.item(), again.iterations < info.iterations
    (True, True)
    """
    backend = get_backend(logits)
    dtype, shape, largest = check_logits(backend, logits)
    num_iters, tol = check_stopping(num_iters, tol)
    if info and return_error:
        raise SettingError("expected info or return_error, got both; with info=True the error is info.error")
    X = backend.reshape(backend.astype(logits, compute_dtype(dtype)), (-1, *shape[-2:]))
    scalar, value = read_temperature(backend, tau, X)
    row, col, row_mean = read_marginals(backend, marginals, X, shape, dtype)
    first = read_start(backend, start, X, shape)

    limits = limits_of(backend, X)
    is_constant = isinstance(tau, Real)
    is_mild = is_constant and largest is not None and value is not None and largest / limits.mild <= value
    temperature = Temperature(is_constant, is_constant and tau == 1, value is None or value < limits.steep)
    operator = _Operator(backend, num_iters, tol, temperature, is_mild)
    if info or first is not None:
        solved = operator.solve(backend.stop_gradient(X), backend.stop_gradient(scalar), row, col, first, info)
        P = _derivative_of(backend, temperature)(X, scalar, solved.plan)
    else:
        P = _registered(operator)(X, scalar, row, col)

    batch, error = shape[:-2], None
    if tol is not None or return_error or info:
        error, mean_error = marginal_errors(backend, backend.stop_gradient(P), row, col)
        converged = (error <= (tol or 0.0)) | (mean_error <= 4.0 * limits.eps)
        if tol is not None:
            _warn_unless_converged(backend, error, converged, tol)
        error = backend.reshape(error, batch)
    if row_mean is not None:
        P = row_mean * P
    plan = backend.astype(backend.reshape(P, shape), dtype)
    if not info:
        return (plan, error) if return_error else plan
    u, v = (clip(backend, potential, limits.large) for potential in solved.potentials)
    u = u if row_mean is None else u + backend.log(row_mean)
    potentials = tuple(backend.reshape(x, (*batch, size)) for x, size in zip((u, v), shape[-2:], strict=True))
    (iterations,) = solved.iterations
    if backend.is_concrete(iterations):
        iterations = int(backend.to_numpy(iterations))
    return plan, SinkhornInfo(potentials, iterations, error, backend.reshape(converged, batch))


# --- the differentiable function --------------------------------------------------------------------------------------
class _Operator(NamedTuple):
    """Primal and vjp of ``(X, tau, row, col) -> P`` on a batch, for one way to stop."""

    backend: Backend
    num_iters: int | None
    tol: float | None
    temperature: Temperature
    is_mild: bool
    """Whether the logits are known to be small over tau; else that is found out."""

    def solve(
        self,
        X: Array,
        tau: Array,
        row: Array,
        col: Array,
        start: tuple[Array, Array] | None = None,
        with_potentials: bool = False,
    ) -> Solved:
        """Evaluate the operator."""
        u, v = (None, None) if start is None else start
        # A division by a small tau may overflow to -inf, whose exponential is the zero that is meant.
        with np.errstate(over="ignore"):
            if self.num_iters is not None:
                problem = Iterations(
                    self.backend,
                    None if self.temperature.is_one else tau,
                    row,
                    col,
                    self.num_iters,
                    u,
                    with_potentials,
                )
                return (iterate_mild if self.is_mild else iterate)(problem, X)
            assert self.tol is not None
            return solve_to_tolerance(self.backend, X, tau, row, col, self.tol, v, with_potentials)

    def primal(self, X: Array, tau: Array, row: Array, col: Array) -> Array:
        """The plan alone."""
        return self.solve(X, tau, row, col).plan

    def vjp(
        self, G: Array, P: Array, X: Array, tau: Array, row: Array, col: Array
    ) -> tuple[Array, Array | None, None, None]:
        """Pull a cotangent back; constant in the marginals."""
        return *_cotangents(self.backend, self.temperature, G, P, X, tau), None, None


def _cotangents(
    backend: Backend, temperature: Temperature, G: Array, P: Array, X: Array, tau: Array
) -> tuple[Array, Array | None]:
    """Cotangents of the logits and of tau, made of functions that have a derivative themselves."""
    X_cotangent = pullback_of(backend, temperature)(X, tau, G, P)
    return X_cotangent, None if temperature.is_constant else temperature_cotangent(backend, P, X_cotangent)


@lru_cache(maxsize=256)
def _registered(operator: _Operator) -> Callable[..., Array]:
    return operator.backend.custom_vjp(operator.primal, operator.vjp)


@lru_cache(maxsize=32)
def _derivative_of(backend: Backend, temperature: Temperature) -> Callable[..., Array]:
    """``(X, tau, P) -> P``, with the derivative of the operator at the plan P, which was solved for before."""

    def vjp(G: Array, output: Array, X: Array, tau: Array, P: Array) -> tuple[Array, Array | None, None]:
        return *_cotangents(backend, temperature, G, output, X, tau), None

    def primal(X: Array, tau: Array, P: Array) -> Array:
        return backend.reshape(P, backend.shape(P))  # a view: frameworks keep inputs and outputs apart

    return backend.custom_vjp(primal, vjp)


def _warn_unless_converged(backend: Backend, error: Array, converged: Array, tol: float) -> None:
    if backend.is_concrete(error) and backend.any(~converged):
        worst = float(np.max(backend.to_numpy(error)))
        warnings.warn(
            f"the marginal error is {worst:.1e} where tol={tol:.1e} was asked for; raise tau or tol, or pass float64 "
            "logits",
            ConvergenceWarning,
            stacklevel=3,
        )
