"""What all parts of the operator share: matrix-vector products and the limits of a floating type.

Every vector of a batch is a row, of shape (batch, 1, size): frameworks multiply batches of row vectors several times
faster than batches of columns, and rows and columns of a plan scale by plain broadcasting.

Temporaries of n^2 numbers are worked on in place, by ``x *= y``, which arrays that cannot change take as ``x = x * y``:
the system has to clear fresh memory before it can be written.
"""

from typing import NamedTuple

from rebasin_core.backends.dtypes import is_narrow
from rebasin_core.backends.protocol import Array, Backend, DtypeName

__all__ = ["Limits", "Solved", "apply", "apply_transpose", "clip", "compute_dtype", "limits_of", "row_sums", "scale"]


class Limits(NamedTuple):
    """What a floating type can hold, and where the scaling form of Sinkhorn's iterations is safe in it."""

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
    smallest: float
    """Smallest normal number, and so the smallest temperature: below it, numbers lose digits or become zero."""
    large: float
    """Numbers up to this one can be added and doubled many times before they overflow."""
    shrink: float
    """The power of two that takes any finite number below `large`."""
    steep: float
    """At lower temperatures, a derivative, which has tau or its square in the denominator, may overflow."""


_SINGLE = Limits(
    eps=2.0**-23, floor=80.0, growth=60.0, absorb=18.0, tiny=1e-30, mild=15.0,
    smallest=2.0**-126, large=2.0**96, shrink=2.0**-32, steep=2.0**-40,
)  # fmt: skip
_DOUBLE = Limits(
    eps=2.0**-52, floor=600.0, growth=560.0, absorb=69.0, tiny=1e-280, mild=100.0,
    smallest=2.0**-1022, large=2.0**900, shrink=2.0**-124, steep=2.0**-400,
)  # fmt: skip


class Solved(NamedTuple):
    """A plan of shape (batch, m, n), and how it came about where that was asked for."""

    plan: Array
    potentials: tuple[Array, ...] = ()
    """Rows u and v, as the public operator defines them."""
    iterations: tuple[Array, ...] = ()
    """How many there were, a scalar."""


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


def row_sums(backend: Backend, x: Array) -> Array:
    """Sum over each row: (batch, m, n) to (batch, 1, m)."""
    return backend.matrix_transpose(backend.sum(x, axis=-1, keepdims=True))


def clip(backend: Backend, x: Array, largest: float) -> Array:
    """Bring entries into the range from ``-largest`` to `largest`."""
    return backend.minimum(backend.maximum(x, -largest), largest)
