"""The public operator: checks its arguments, shapes them for the solvers, and wires the derivative."""

import math
import operator
import warnings
from collections.abc import Callable
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_floating
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import ConvergenceWarning, NonFiniteError, SettingError, ShapeError, UnsupportedArrayError
from rebasin_core.sinkhorn_operator.accelerated import solve_to_tolerance
from rebasin_core.sinkhorn_operator.implicit import pullback_of, temperature_cotangent
from rebasin_core.sinkhorn_operator.kernel import compute_dtype, limits_of, marginal_errors
from rebasin_core.sinkhorn_operator.plain import iterate, iterate_mild

__all__ = ["sinkhorn"]

_DEFAULT_NUM_ITERS = 20


def sinkhorn(
    logits: Array,
    tau: Array | float = 1.0,
    num_iters: int | None = None,
    tol: float | None = None,
    *,
    marginals: tuple[Array, Array] | None = None,
    return_error: bool = False,
) -> Any:
    r"""Map logits to a doubly stochastic matrix: the Sinkhorn operator :math:`S_\tau`.

    The plan is the matrix :math:`P = \mathrm{diag}(u)\, e^{X / \tau}\, \mathrm{diag}(v)` with the given row and column
    sums; it maximises :math:`\langle P, X \rangle` plus `tau` times the entropy of P, and tends to the best permutation
    as `tau` tends to 0. It is unchanged by a constant added to a row or a column of the logits.

    Parameters
    ----------
    logits : array, shape (..., m, n), floating
        One matrix or a batch, in any framework. float16 and bfloat16 are computed with in float32.
    tau : float or scalar array, default 1.0
        Temperature, positive, in the unit of the logits. May be differentiated. With logits of unit scale, 1 is smooth
        and cheap; at 0.1 most plans are close to a permutation, and twenty iterations no longer converge.
    num_iters : int, optional
        What exactly so many plain iterations give, each normalising the columns and then the rows; those at the end
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

    Returns
    -------
    plan : array, shape (..., m, n)
        Nonnegative, of the dtype and on the device of the logits. Its rows are exact up to rounding.
    error : array, shape (...), only with `return_error`
        Largest ``|sum - marginal|`` over rows and columns, each divided by the mean of its marginal; dimensionless, a
        constant to the gradient. For half precision it is that of the plan before it is rounded.

    Raises
    ------
    UnsupportedArrayError
        If the logits are no array of a known framework, or not real floating numbers.
    ShapeError
        If the logits have fewer than two axes or an empty one, `tau` is not a scalar, or marginals do not fit.
    NonFiniteError
        If the logits hold NaN or infinity.
    SettingError
        If `tau`, `num_iters` or `tol` is out of range, `num_iters` and `tol` are both given, or the marginals are not
        positive or of unequal mass.
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
    """
    backend = get_backend(logits)
    dtype, shape, largest = _check_logits(backend, logits)
    num_iters, tol = _check_stopping(num_iters, tol)
    _check_temperature(backend, tau)
    working = compute_dtype(dtype)
    X = backend.reshape(backend.astype(logits, working), (-1, *shape[-2:]))
    row, col, row_mean = _marginals(backend, marginals, X, shape)

    constant = isinstance(tau, Real)
    is_mild = constant and largest is not None and largest / float(tau) <= limits_of(backend, X).mild
    forward = _operator_of(backend, num_iters, tol, constant, constant and tau == 1, is_mild)
    P = forward(X, _as_scalar(backend, tau, X), row, col)
    error = None
    if tol is not None or return_error:
        error, mean_error = marginal_errors(backend, backend.stop_gradient(P), row, col)
        if tol is not None:
            _warn_unless_converged(backend, error, mean_error, tol)

    if row_mean is not None:
        P = row_mean * P
    plan = backend.astype(backend.reshape(P, shape), dtype)
    return (plan, backend.reshape(error, shape[:-2])) if return_error else plan


# --- the differentiable function --------------------------------------------------------------------------------------
class _Operator(NamedTuple):
    """Primal and vjp of ``(X, tau, row, col) -> P`` on a batch, for one way to stop."""

    backend: Backend
    num_iters: int | None
    tol: float | None
    tau_is_constant: bool
    tau_is_one: bool
    is_mild: bool
    """Whether the logits are known to be small over tau; else that is found out."""

    def primal(self, X: Array, tau: Array, row: Array, col: Array) -> Array:
        """Evaluate the operator."""
        if self.num_iters is not None:
            plain = iterate_mild if self.is_mild else iterate
            return plain(self.backend, X, None if self.tau_is_one else tau, row, col, self.num_iters)
        assert self.tol is not None
        return solve_to_tolerance(self.backend, X, tau, row, col, self.tol)

    def vjp(
        self, G: Array, P: Array, X: Array, tau: Array, row: Array, col: Array
    ) -> tuple[Array, Array | None, None, None]:
        """Pull a cotangent back; made of functions that have a derivative themselves."""
        X_cotangent = pullback_of(self.backend, self.tau_is_constant, self.tau_is_one)(X, tau, G, P)
        if self.tau_is_constant:
            return X_cotangent, None, None, None
        return X_cotangent, temperature_cotangent(self.backend, X, tau, X_cotangent), None, None


@lru_cache(maxsize=256)
def _operator_of(
    backend: Backend, num_iters: int | None, tol: float | None, tau_is_constant: bool, tau_is_one: bool, is_mild: bool
) -> Callable[..., Array]:
    function = _Operator(backend, num_iters, tol, tau_is_constant, tau_is_one, is_mild)
    return backend.custom_vjp(function.primal, function.vjp)


# --- arguments --------------------------------------------------------------------------------------------------------
def _check_logits(backend: Backend, logits: Array) -> tuple[str, tuple[int, ...], float | None]:
    """Return their dtype, their shape, and the largest of their absolute values, where it can be read."""
    dtype, shape = backend.dtype(logits), backend.shape(logits)
    if not is_floating(dtype):
        raise UnsupportedArrayError(
            f"Expected logits of a real floating dtype, got {dtype}. Convert them first, for instance to float32."
        )
    if len(shape) < 2 or 0 in shape:
        raise ShapeError(
            f"Expected logits of shape (..., m, n) without an empty axis, got {shape}. "
            "A single matrix has shape (m, n), a batch (batch, m, n)."
        )
    if not backend.is_concrete(logits):
        return dtype, shape, None
    values = backend.stop_gradient(logits)
    largest = float(backend.maximum(backend.max(values), -backend.min(values)))
    if not math.isfinite(largest):
        raise NonFiniteError(
            "Expected finite logits, got NaN or infinity. To forbid an entry, give it a low finite logit, such as the "
            "smallest one minus 50 tau; if a training run produced this, lower its learning rate."
        )
    return dtype, shape, largest


def _check_stopping(num_iters: int | None, tol: float | None) -> tuple[int | None, float | None]:
    if num_iters is not None and tol is not None:
        raise SettingError(
            f"Expected num_iters or tol, got both ({num_iters!r}, {tol!r}). Pass num_iters= for a fixed number of "
            "iterations, or tol= to iterate until the marginals are met."
        )
    if tol is not None:
        value: Any = tol
        if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 < float(value) < math.inf:
            raise SettingError(f"Expected tol to be a positive number, got {tol!r}. Pass for instance tol=1e-4.")
        return None, float(value)
    if num_iters is None:
        return _DEFAULT_NUM_ITERS, None
    try:
        count = -1 if isinstance(num_iters, bool) else operator.index(num_iters)
    except TypeError:
        count = -1
    if count < 1:
        raise SettingError(
            f"Expected num_iters to be a positive int, got {num_iters!r}. Pass for instance num_iters=20."
        )
    return count, None


def _check_temperature(backend: Backend, tau: Array | float) -> None:
    value: Any = tau
    if not isinstance(value, Real):
        found = get_backend(value)
        if found is not backend:
            raise UnsupportedArrayError(
                f"Expected tau to be a float or an array of {backend.name} like the logits, got an array of "
                f"{found.name}. Pass float(tau)."
            )
        if backend.shape(value) != ():
            raise ShapeError(f"Expected a scalar tau, got shape {backend.shape(value)}. Pass one temperature per call.")
        if not backend.is_concrete(value):
            return
        value = backend.to_numpy(value).item()
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 < float(value) < math.inf:
        raise SettingError(f"Expected tau to be positive and finite, got {value!r}. Pass for instance tau=1.0.")


def _as_scalar(backend: Backend, tau: Array | float, like: Array) -> Array:
    return backend.asarray(float(tau) if isinstance(tau, Real) else tau, like=like)


def _marginals(
    backend: Backend, marginals: tuple[Array, Array] | None, X: Array, shape: tuple[int, ...]
) -> tuple[Array, Array, Array | None]:
    """Row and column sums as row vectors, scaled to rows of mean 1, and the scale, of shape (batch or 1, 1, 1)."""
    *batch, m, n = shape
    if marginals is None:
        return backend.full((1, 1, m), 1.0, X), backend.full((1, 1, n), m / n, X), None
    try:
        row, col = marginals
    except (TypeError, ValueError):
        raise ShapeError(
            "Expected marginals to be a pair (row sums, column sums), got something else. Pass marginals=(row, col)."
        ) from None
    row = _check_marginal(backend, row, "row", m, batch, X)
    col = _check_marginal(backend, col, "column", n, batch, X)
    row_mass, col_mass = backend.sum(row, axis=-1, keepdims=True), backend.sum(col, axis=-1, keepdims=True)
    if backend.is_concrete(row_mass) and backend.is_concrete(col_mass):
        # float32 sums of many terms differ by more than a unit of rounding.
        slack = 1e-4 if backend.dtype(X) == "float32" else 1e-9
        if backend.any(backend.abs(row_mass - col_mass) > slack * row_mass):
            raise SettingError(
                f"Expected row and column sums of equal mass, got {_numbers(backend, row_mass)} and "
                f"{_numbers(backend, col_mass)}. Rescale one of them, as in col * row.sum() / col.sum()."
            )
    row_mean = row_mass / m
    # Equal mass to the last digit: Newton's linear systems have a solution only then.
    return row / row_mean, col * (row_mass / col_mass) / row_mean, row_mean


def _check_marginal(backend: Backend, marginal: Array, which: str, size: int, batch: list[int], like: Array) -> Array:
    marginal = backend.stop_gradient(backend.asarray(marginal, like=like))
    shape = backend.shape(marginal)
    if shape not in ((size,), (*batch, size)):
        expected = f"({size},)" if not batch else f"({size},) or {(*batch, size)}"
        raise ShapeError(f"Expected {which} sums of shape {expected} for these logits, got {shape}.")
    if backend.is_concrete(marginal) and backend.any(~(backend.isfinite(marginal) & (marginal > 0.0))):
        raise SettingError(
            f"Expected positive, finite {which} sums, got {_numbers(backend, marginal)}. Drop the {which}s that are to "
            "stay empty from the logits."
        )
    return backend.reshape(marginal, (-1, 1, size))


def _numbers(backend: Backend, x: Array) -> str:
    return np.array2string(backend.to_numpy(x).ravel(), precision=6, threshold=6)


def _warn_unless_converged(backend: Backend, error: Array, mean_error: Array, tol: float) -> None:
    if not backend.is_concrete(error):
        return
    floor = 4.0 * limits_of(backend, error).eps
    missed = (error > tol) & (mean_error > floor)
    if backend.any(missed):
        worst = float(np.max(backend.to_numpy(error)))
        warnings.warn(
            f"The marginal error is {worst:.1e} where tol={tol:.1e} was asked for. Raise tau or tol, or pass float64 "
            "logits.",
            ConvergenceWarning,
            stacklevel=3,
        )
