"""NumPy, differentiated by autograd: the backend the core brings along.

Autograd's own derivatives of ``where``, ``maximum``, ``minimum`` and ``max`` promote float32 cotangents to float64, and
that of ``where`` forgets to undo broadcasting; these four are registered again here, so that gradients keep the dtype.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import autograd
import autograd.numpy as anp
import numpy as np
from autograd.extend import Box, defvjp, defvjp_argnums, primitive, vspace
from autograd.numpy.numpy_vjps import unbroadcast_f
from autograd.tracer import getval
from scipy.linalg.lapack import get_lapack_funcs

from rebasin_core.backends.autograd_descent import AutogradStepper
from rebasin_core.backends.optimizers import Optimizer
from rebasin_core.backends.protocol import Array, Axis, DtypeName, Stepper

__all__ = ["AutogradBackend"]


class AutogradBackend:
    """`Backend` for NumPy arrays and the boxes that autograd traces them in."""

    name = "numpy"
    vectorizes = False

    # --- creating, converting -----------------------------------------------------------------------------------------
    def asarray(self, values: Any, like: Array | None = None, dtype: DtypeName | None = None) -> Array:
        """Turn numbers, an array or a box into an array; without `dtype`, of the dtype of `like`."""
        if dtype is None and like is not None:
            dtype = self.dtype(like)
        if not isinstance(values, Box):
            return np.asarray(values, dtype=dtype)
        array = anp.reshape(values, anp.shape(values))  # a box may hold a Python float, which has no astype
        return array if dtype is None else self.astype(array, dtype)

    def full(self, shape: Sequence[int], value: float, like: Array) -> Array:
        """Return a constant array of the dtype of `like`."""
        return np.full(tuple(shape), value, dtype=self.dtype(like))

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """Copy the values, however many traces surround them."""
        return np.array(_values(x))

    def is_concrete(self, x: Array) -> bool:
        """Return True: autograd traces eagerly, so values can always be read."""
        return True

    def dtype(self, x: Array) -> DtypeName:
        """Return the name of the dtype."""
        return np.asarray(_values(x)).dtype.name

    def astype(self, x: Array, dtype: DtypeName) -> Array:
        """Convert to another dtype; the array itself where it has that dtype already."""
        return x if self.dtype(x) == dtype else x.astype(np.dtype(dtype))

    def shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape."""
        return tuple(anp.shape(x))

    # --- element-wise -------------------------------------------------------------------------------------------------
    def exp(self, x: Array) -> Array:
        """Exponential."""
        return anp.exp(x)

    def log(self, x: Array) -> Array:
        """Natural logarithm."""
        return anp.log(x)

    def abs(self, x: Array) -> Array:
        """Absolute value, with derivative 0 at 0."""
        return anp.abs(x)

    def sqrt(self, x: Array) -> Array:
        """Square root."""
        return anp.sqrt(x)

    def maximum(self, x: Array, y: Array | float) -> Array:
        """Element-wise maximum; ties share the derivative."""
        return _maximum(x, y)

    def minimum(self, x: Array, y: Array | float) -> Array:
        """Element-wise minimum; ties share the derivative."""
        return _minimum(x, y)

    def isfinite(self, x: Array) -> Array:
        """Whether entries are neither NaN nor infinite."""
        return anp.isfinite(x)

    def where(self, condition: Array, x: Array | float, y: Array | float) -> Array:
        """Choose element-wise, with broadcasting."""
        return _where(condition, x, y)

    # --- reductions ---------------------------------------------------------------------------------------------------
    def sum(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Sum over axes."""
        return anp.sum(x, axis=axis, keepdims=keepdims)

    def max(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Maximum over axes; ties share the derivative."""
        return _max(x, axis=axis, keepdims=keepdims)

    def min(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Minimum over axes; ties share the derivative."""
        return _min(x, axis=axis, keepdims=keepdims)

    def argmax(self, x: Array, axis: int) -> Array:
        """Index of the first maximum."""
        return anp.argmax(x, axis=axis)

    def logsumexp(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        """Logarithm of the sum of exponentials, without overflow; -inf for a slice of -inf."""
        shift = self.max(self.stop_gradient(x), axis=axis, keepdims=True)
        shift = np.where(np.isfinite(shift), shift, np.zeros_like(shift))
        with np.errstate(divide="ignore"):
            result = anp.log(anp.sum(anp.exp(x - shift), axis=axis, keepdims=True)) + shift
        return result if keepdims else anp.squeeze(result, axis=axis)

    def any(self, condition: Array) -> Array:
        """Whether any entry is True."""
        return np.any(_values(condition))

    # --- shape --------------------------------------------------------------------------------------------------------
    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """Reshape in row-major order."""
        return anp.reshape(x, tuple(shape))

    def moveaxis(self, x: Array, source: int, destination: int) -> Array:
        """Move one axis."""
        return anp.moveaxis(x, source, destination)

    def matrix_transpose(self, x: Array) -> Array:
        """Swap the last two axes."""
        return anp.swapaxes(x, -1, -2)

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """Join along an axis."""
        return anp.concatenate(list(arrays), axis=axis)

    def split(self, x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
        """Cut along an axis into parts of the given sizes."""
        leading = (slice(None),) * (axis % len(self.shape(x)))
        ends = np.cumsum(sizes).tolist()
        return [x[(*leading, slice(end - size, end))] for size, end in zip(sizes, ends, strict=True)]

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        """Join along a new axis."""
        return anp.stack(list(arrays), axis=axis)

    def take(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at one-dimensional `indices` along `axis`."""
        leading = (slice(None),) * (axis % len(self.shape(x)))
        return x[(*leading, _values(indices))]

    def take_along_axis(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at `indices` along `axis`, one per position of the other axes."""
        indices = _values(indices)
        grids = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
        grids[axis] = indices
        return x[tuple(grids)]

    # --- linear algebra -----------------------------------------------------------------------------------------------
    def matmul(self, x: Array, y: Array, transpose_y: bool = False) -> Array:
        """Matrix product over the last two axes, broadcast over the others."""
        return anp.matmul(x, anp.swapaxes(y, -1, -2) if transpose_y else y)

    def row_products(self, A: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """Return ``x -> x A`` and ``x -> x A^T``."""
        transposed = anp.swapaxes(A, -1, -2)
        return lambda x: anp.matmul(x, A), lambda x: anp.matmul(x, transposed)

    def cholesky_solve(self, A: Array, rhs: Array) -> Array:
        """Solve with LAPACK's posv, slice by slice; NaN where `A` is not positive definite."""
        return _cholesky_solve(A, rhs)

    # --- control flow -------------------------------------------------------------------------------------------------
    def while_loop(self, condition: Callable[[Any], Array], body: Callable[[Any], Any], state: Any) -> Any:
        """Loop eagerly."""
        while condition(state):
            state = body(state)
        return state

    def cond(
        self, predicate: Array, if_true: Callable[[Any], Any], if_false: Callable[[Any], Any], operand: Any
    ) -> Any:
        """Branch eagerly."""
        return if_true(operand) if predicate else if_false(operand)

    def vmap(self, fun: Callable[[dict[str, Array]], Array], x: dict[str, Array]) -> Array:
        """Loop: NumPy has no vectorizing transformation."""
        count = len(next(iter(x.values())))
        return self.stack([fun({name: values[i] for name, values in x.items()}) for i in range(count)])

    # --- gradients ----------------------------------------------------------------------------------------------------
    def stop_gradient(self, x: Array) -> Array:
        """Return the bare values."""
        return _values(x)

    def custom_vjp(
        self, primal: Callable[..., Array], vjp: Callable[..., tuple[Array | None, ...]]
    ) -> Callable[..., Array]:
        """Register `primal` and `vjp` as an autograd primitive."""
        registered: Callable[..., Array] = primitive(primal)

        def vjp_argnums(argnums: Sequence[int], output: Array, args: Sequence[Array], _: Any) -> Callable[..., Any]:
            def pullback(cotangent: Array) -> list[Array]:
                cotangents = vjp(cotangent, output, *args)
                return [vspace(args[i]).zeros() if cotangents[i] is None else cotangents[i] for i in argnums]

            return pullback

        defvjp_argnums(registered, vjp_argnums)
        return registered

    def value_and_grad(self, fun: Callable[[Any], Array], x: Any) -> tuple[float, Any]:
        """Value and gradient by reverse accumulation."""
        value, gradient = autograd.value_and_grad(fun)(x)
        return float(value), gradient

    def stepper(self, optimizer: Optimizer, variables: dict[str, Array]) -> Stepper:
        """Adam and SGD in float64."""
        return AutogradStepper(optimizer, variables)


def _values(x: Array) -> Array:
    """Peel off the boxes of all traces."""
    while isinstance(x, Box):
        x = getval(x)
    return x


# --- derivatives that keep the dtype ----------------------------------------------------------------------------------
_where = primitive(np.where)
defvjp(
    _where,
    lambda ans, c, x, y: unbroadcast_f(x, lambda g: _where(c, g, anp.zeros_like(g))),
    lambda ans, c, x, y: unbroadcast_f(y, lambda g: _where(c, anp.zeros_like(g), g)),
    argnums=(1, 2),
)

_maximum = primitive(np.maximum)
_minimum = primitive(np.minimum)


def _share(chosen: Array, x: Array, y: Array, g: Array) -> Array:
    """Cotangent of `x` where it was chosen; half of it where `y` equals it."""
    chosen, x, y = _values(chosen), _values(x), _values(y)
    return g * np.where(x == chosen, np.where(x == y, 0.5, 1.0), 0.0).astype(chosen.dtype)


for _function in (_maximum, _minimum):
    defvjp(
        _function,
        lambda ans, x, y: unbroadcast_f(x, lambda g: _share(ans, x, y, g)),
        lambda ans, x, y: unbroadcast_f(y, lambda g: _share(ans, y, x, g)),
    )


@primitive  # type: ignore[untyped-decorator,unused-ignore]
def _max(x: Array, axis: Axis, keepdims: bool) -> Array:
    return np.max(x, axis=axis, keepdims=keepdims)


@primitive  # type: ignore[untyped-decorator,unused-ignore]
def _min(x: Array, axis: Axis, keepdims: bool) -> Array:
    return np.min(x, axis=axis, keepdims=keepdims)


def _extreme_vjp(ans: Array, x: Array, axis: Axis, keepdims: bool) -> Callable[[Array], Array]:
    values = _values(x)
    shape = np.max(values, axis=axis, keepdims=True).shape
    extreme = (values == np.reshape(_values(ans), shape)).astype(values.dtype)
    share = extreme / np.sum(extreme, axis=axis, keepdims=True)
    return lambda g: anp.reshape(g, shape) * share


defvjp(_max, _extreme_vjp)
defvjp(_min, _extreme_vjp)


@primitive  # type: ignore[untyped-decorator,unused-ignore]
def _cholesky_solve(A: Array, rhs: Array) -> Array:
    (posv,) = get_lapack_funcs(("posv",), (A, rhs))
    batch = np.broadcast_shapes(A.shape[:-2], rhs.shape[:-2])
    solutions = []
    for matrix, right in zip(_slices(A, batch), _slices(rhs, batch), strict=True):
        # A symmetric matrix is its transpose, which LAPACK reads without a copy to column-major order.
        _, solution, info = posv(matrix.T, right, lower=True)
        solutions.append(np.full_like(right, np.nan) if info else solution)
    return np.reshape(np.stack(solutions), (*batch, *rhs.shape[-2:])).astype(rhs.dtype)


def _slices(matrices: Array, batch: tuple[int, ...]) -> Array:
    shape = matrices.shape[-2:]
    return np.reshape(np.broadcast_to(matrices, (*batch, *shape)), (-1, *shape))


def _cholesky_solve_rhs_vjp(ans: Array, A: Array, rhs: Array) -> Callable[[Array], Array]:
    return cast(Callable[[Array], Array], unbroadcast_f(rhs, lambda g: _cholesky_solve(A, g)))


def _cholesky_solve_matrix_vjp(ans: Array, A: Array, rhs: Array) -> Callable[[Array], Array]:
    pullback = unbroadcast_f(A, lambda g: -anp.matmul(_cholesky_solve(A, g), anp.swapaxes(ans, -1, -2)))
    return cast(Callable[[Array], Array], pullback)


defvjp(_cholesky_solve, _cholesky_solve_matrix_vjp, _cholesky_solve_rhs_vjp)
