"""What all parts of the operator share: matrix-vector products, marginals and the limits of a floating type.

Every vector of a batch is a row, of shape (batch, 1, size): frameworks multiply batches of row vectors several times
faster than batches of columns, and rows and columns of a plan scale by plain broadcasting.

Temporaries of n^2 numbers are worked on in place, by ``x *= y``, which arrays that cannot change take as ``x = x * y``:
the system has to clear fresh memory before it can be written.
"""

from typing import NamedTuple

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_narrow
from rebasin_core.backends.protocol import Array, Backend, DtypeName
from rebasin_core.errors import ShapeError

__all__ = [
    "Limits",
    "apply",
    "apply_transpose",
    "column_errors",
    "compute_dtype",
    "limits_of",
    "marginal_error",
    "marginal_errors",
    "scale",
]


class Limits(NamedTuple):
    """Where the scaling form of Sinkhorn's iterations is safe in a floating type."""

    eps: float
    """Distance from 1 to the next number."""
    floor: float
    """Kernel entries are kept above ``exp(-floor)``: none underflows, and `exp` avoids its slow subnormal path."""
    growth: float
    """Largest log of a product of scalings for which floored entries stay negligible in the plan."""
    absorb: float
    """Largest log of a scaling before it moves into the potential."""
    tiny: float
    """Smallest divisor."""
    mild: float
    """Largest logit, over tau, at which neither floor nor guard is needed: exp of several times it is finite."""


_SINGLE = Limits(eps=2.0**-23, floor=80.0, growth=60.0, absorb=18.0, tiny=1e-30, mild=15.0)
_DOUBLE = Limits(eps=2.0**-52, floor=600.0, growth=560.0, absorb=69.0, tiny=1e-280, mild=100.0)


def limits_of(backend: Backend, x: Array) -> Limits:
    """Limits of the dtype of `x`, which is float32 or float64."""
    return _DOUBLE if backend.dtype(x) == "float64" else _SINGLE


def compute_dtype(dtype: DtypeName) -> DtypeName:
    """The dtype in which logits of `dtype` are computed with: half precision is too coarse for marginals."""
    return "float32" if dtype == "float32" or is_narrow(dtype) else "float64"


def apply(backend: Backend, A: Array, x: Array) -> Array:
    """``A x`` for row vectors: (batch, m, n), (batch, 1, n) to (batch, 1, m)."""
    return backend.matmul(x, A, transpose_y=True)


def apply_transpose(backend: Backend, A: Array, y: Array) -> Array:
    """``A^T y`` for row vectors: (batch, m, n), (batch, 1, m) to (batch, 1, n)."""
    return backend.matmul(y, A)


def scale(backend: Backend, K: Array, u: Array, v: Array) -> Array:
    """``diag(u) K diag(v)``."""
    P = backend.matrix_transpose(u) * K
    P *= v
    return P


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
    row_max, row_mean = column_errors(backend, backend.matrix_transpose(backend.sum(P, axis=-1, keepdims=True)), row)
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
        raise ShapeError(f"Expected a plan of shape (..., m, n) with m, n > 0, got {shape}.")
    *batch, m, n = shape
    if marginals is None:
        row, col = backend.full((1, 1, m), 1.0, plan), backend.full((1, 1, n), m / n, plan)
    else:
        row, col = (_as_rows(backend, marginal, plan) for marginal in marginals)
    P = backend.reshape(plan, (_count(batch), m, n))
    return backend.reshape(marginal_errors(backend, P, row, col)[0], batch)


def _as_rows(backend: Backend, marginal: Array, like: Array) -> Array:
    marginal = backend.asarray(marginal, like=like)
    *batch, size = backend.shape(marginal)
    return backend.reshape(marginal, (_count(batch), 1, size))


def _count(batch: list[int]) -> int:
    count = 1
    for size in batch:
        count *= size
    return count
