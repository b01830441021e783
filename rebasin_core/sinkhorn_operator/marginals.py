"""Row and column sums: those a plan is to have, and how far it is from them."""

import math

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array, Backend, DtypeName
from rebasin_core.errors import SettingError, ShapeError
from rebasin_core.sinkhorn_operator.kernel import limits_of, row_sums

__all__ = ["as_rows", "column_errors", "marginal_error", "marginal_errors", "read_marginals", "uniform"]


def uniform(backend: Backend, m: int, n: int, like: Array) -> tuple[Array, Array]:
    """Rows that sum to 1 and columns that share their mass evenly."""
    return backend.full((1, 1, m), 1.0, like), backend.full((1, 1, n), m / n, like)


def as_rows(backend: Backend, x: Array, like: Array) -> Array:
    """Turn vectors of shape (..., size) into rows of shape (batch, 1, size)."""
    x = backend.asarray(x, like=like)
    *batch, size = backend.shape(x)
    return backend.reshape(x, (math.prod(batch), 1, size))


def column_errors(backend: Backend, sums: Array, col: Array) -> tuple[Array, Array]:
    """Maximal and mean ``|sums - col|`` over the mean of `col`, each of shape (batch, 1, 1)."""
    size = backend.shape(sums)[-1]
    difference = backend.abs(sums - col)
    mean_marginal = backend.sum(col, axis=-1, keepdims=True) / size
    maximal = backend.max(difference, axis=-1, keepdims=True) / mean_marginal
    mean = backend.sum(difference, axis=-1, keepdims=True) / size / mean_marginal
    return maximal, mean


def marginal_errors(backend: Backend, P: Array, row: Array, col: Array) -> tuple[Array, Array]:
    """Maximal and mean error over rows and columns of plans of shape (batch, m, n), each of shape (batch,)."""
    row_max, row_mean = column_errors(backend, row_sums(backend, P), row)
    col_max, col_mean = column_errors(backend, backend.sum(P, axis=-2, keepdims=True), col)
    shape = backend.shape(P)[:1]
    maximal = backend.reshape(backend.maximum(row_max, col_max), shape)
    mean = backend.reshape(backend.maximum(row_mean, col_mean), shape)
    return maximal, mean


def marginal_error(plan: Array, marginals: tuple[Array, Array] | None = None) -> Array:
    """How far a plan is from its marginals, in the maximum norm.

    Parameters
    ----------
    plan : array, shape (..., m, n)
        A nonnegative matrix or a batch of them.
    marginals : tuple of arrays, optional
        Wanted row sums, shape (m,) or (..., m), and column sums, shape (n,) or (..., n). Default: rows sum to 1,
        columns to m / n.

    Returns
    -------
    array, shape (...)
        ``|sum - marginal| / mean(marginal)``, the largest over rows and columns; dimensionless.

    Raises
    ------
    ShapeError
        If `plan` has fewer than two axes or an empty one.

    Examples
    --------
    >>> import numpy as np
    >>> marginal_error(np.array([[0.9, 0.1], [0.3, 0.7]])).round(3).item()
    0.2
    """
    backend = get_backend(plan)
    shape = backend.shape(plan)
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ShapeError(f"expected a plan of shape (..., m, n) with m, n > 0, got {shape}")
    *batch, m, n = shape
    if marginals is None:
        row, col = uniform(backend, m, n, plan)
    else:
        row, col = (as_rows(backend, marginal, plan) for marginal in marginals)
    P = backend.reshape(plan, (math.prod(batch), m, n))
    return backend.reshape(marginal_errors(backend, P, row, col)[0], batch)


def read_marginals(
    backend: Backend, marginals: tuple[Array, Array] | None, X: Array, shape: tuple[int, ...], dtype: DtypeName
) -> tuple[Array, Array, Array | None]:
    """Return row and column sums as rows, scaled to row sums of mean 1, and the scale, of shape (batch or 1, 1, 1).

    `shape` and `dtype` are those of the plan that the caller wants.
    """
    *batch, m, n = shape
    if marginals is None:
        return *uniform(backend, m, n, X), None
    try:
        row, col = marginals
    except (TypeError, ValueError):
        raise ShapeError(
            "expected marginals as a pair (row sums, column sums), got something else; pass marginals=(row, col)"
        ) from None
    with np.errstate(over="ignore"):  # what overflows is refused, with a sentence
        row = _check_sums(backend, row, "row", m, batch, X, dtype)
        col = _check_sums(backend, col, "column", n, batch, X, dtype)
        row_mass, col_mass = backend.sum(row, axis=-1, keepdims=True), backend.sum(col, axis=-1, keepdims=True)
    can_be_read = backend.is_concrete(row_mass) and backend.is_concrete(col_mass)
    if can_be_read:
        # float32 sums of many terms differ by more than a unit of rounding.
        slack = 1e-4 if backend.dtype(X) == "float32" else 1e-9
        with np.errstate(invalid="ignore"):
            unequal = ~(backend.abs(row_mass - col_mass) <= slack * row_mass)
        if backend.any(unequal | ~backend.isfinite(row_mass)):
            raise SettingError(
                f"expected row and column sums of equal mass, got {_numbers(backend, row_mass)} and "
                f"{_numbers(backend, col_mass)}; rescale one of them, as in col * row.sum() / col.sum()"
            )
    row_mean = row_mass / m
    # Equal mass to the last digit: Newton's linear systems have a solution only then.
    row, col = row / row_mean, col * (row_mass / col_mass) / row_mean
    tiny = limits_of(backend, X).tiny
    if can_be_read and backend.any(backend.min(row) < tiny) | backend.any(backend.min(col) < tiny):
        raise SettingError(
            f"expected row and column sums of at least {tiny:.0e} times their mean, got smaller ones; drop these rows "
            f"or columns from the logits, or pass float64 logits"
        )
    return row, col, row_mean


def _check_sums(
    backend: Backend, sums: Array, which: str, size: int, batch: list[int], like: Array, dtype: DtypeName
) -> Array:
    sums = backend.stop_gradient(backend.asarray(sums, like=like))
    shape = backend.shape(sums)
    if shape not in ((size,), (*batch, size)):
        expected = f"({size},)" if not batch else f"({size},) or {(*batch, size)}"
        raise ShapeError(f"expected {which} sums of shape {expected} for these logits, got {shape}")
    # Entries of the plan are as large as its sums may be, and have to fit into the dtype of the logits.
    if backend.is_concrete(sums) and backend.any(~(backend.isfinite(backend.astype(sums, dtype)) & (sums > 0.0))):
        raise SettingError(
            f"expected positive, finite {which} sums, got {_numbers(backend, sums)} in {dtype}; drop the {which}s that "
            "are to stay empty from the logits"
        )
    return backend.reshape(sums, (-1, 1, size))


def _numbers(backend: Backend, x: Array) -> str:
    return np.array2string(backend.to_numpy(x).ravel(), precision=6, threshold=6)
