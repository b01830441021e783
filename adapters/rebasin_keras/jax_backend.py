"""JAX as a backend of the core: eager, under ``jit`` and under ``grad``.

Every method is the function of JAX with the same meaning. Without ``jax_enable_x64`` there are no 64-bit numbers in
JAX: indices asked for as int64 are then int32, without a word of warning, and logits are float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rebasin_core.backends.optimizers import Optimizer
from rebasin_core.backends.protocol import Array, Axis, DtypeName, Stepper
from rebasin_keras.jax_gradients import JaxStepper, custom_vjp, value_and_grad

__all__ = ["JaxBackend"]


class JaxBackend:
    """`Backend` for ``jax.Array`` and the tracers of JAX's transformations.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> import rebasin_core as rb
    >>> logits = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> [round(x, 3) for x in rb.sinkhorn(logits)[0].tolist()]
    [0.818, 0.182]
    >>> compiled = jax.jit(lambda x: rb.sinkhorn(x, tau=0.1, tol=1e-6))
    >>> bool((abs(compiled(logits) - rb.sinkhorn(logits, tau=0.1, tol=1e-6)) < 1e-6).all())
    True
    """

    name = "jax"
    vectorizes = False  # every eager call traces the function again

    # --- creating, converting -----------------------------------------------------------------------------------------
    def asarray(self, values: Any, like: Array | None = None, dtype: DtypeName | None = None) -> Array:
        """Turn numbers, a range, a NumPy array or a JAX array into a JAX array.

        It is not committed to a device: JAX moves it to wherever the arrays are that it meets.
        """
        kind = like.dtype if dtype is None and like is not None else dtype
        if isinstance(values, jax.Array):
            return values if kind is None else self.astype(values, kind)
        if isinstance(values, range):
            values = np.arange(values.start, values.stop, values.step)
        return jnp.asarray(values, dtype=None if kind is None else _dtype(kind))

    def full(self, shape: Sequence[int], value: float, like: Array) -> Array:
        """Return a constant array of the dtype of `like`."""
        return jnp.full(tuple(shape), value, dtype=like.dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """Copy the values to the host; narrow floats that NumPy has no name for as float32."""
        values = np.array(jax.lax.stop_gradient(x))
        return values.astype(np.float32) if values.dtype.kind == "V" else values

    def is_concrete(self, x: Array) -> bool:
        """Whether values can be read: of arrays and under ``grad`` alone, not under ``jit``.

        Under ``jit`` even known arrays give unknown results, so the answer is that of an operation on `x`.
        """
        # Stopping the gradient takes the value out of the tracers of every gradient around it.
        probe = jax.lax.stop_gradient(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.equal(x, x)
        return not isinstance(probe, jax.core.Tracer)

    def dtype(self, x: Array) -> DtypeName:
        """Return the name of the dtype."""
        return str(x.dtype)

    def astype(self, x: Array, dtype: DtypeName) -> Array:
        """Convert to another dtype; the array itself where it has that dtype already."""
        # An operation costs about a millisecond under an eager gradient, even one that does nothing.
        return x if x.dtype == _dtype(dtype) else x.astype(_dtype(dtype))

    def shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape."""
        return tuple(jnp.shape(x))

    # --- element-wise -------------------------------------------------------------------------------------------------
    def exp(self, x: Array) -> Array:
        """Exponential."""
        return jnp.exp(x)

    def log(self, x: Array) -> Array:
        """Natural logarithm."""
        return jnp.log(x)

    def abs(self, x: Array) -> Array:
        """Absolute value, with derivative 0 at 0."""
        return x * jnp.sign(x)  # of jnp.abs, the derivative at 0 is 1

    def sqrt(self, x: Array) -> Array:
        """Square root."""
        return jnp.sqrt(x)

    def maximum(self, x: Array, y: Array | float) -> Array:
        """Element-wise maximum; ties share the derivative."""
        return jnp.maximum(x, y)

    def minimum(self, x: Array, y: Array | float) -> Array:
        """Element-wise minimum; ties share the derivative."""
        return jnp.minimum(x, y)

    def isfinite(self, x: Array) -> Array:
        """Whether entries are neither NaN nor infinite."""
        return jnp.isfinite(x)

    def where(self, condition: Array, x: Array | float, y: Array | float) -> Array:
        """Choose element-wise, with broadcasting."""
        return jnp.where(condition, x, y)

    # --- reductions ---------------------------------------------------------------------------------------------------
    def sum(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Sum over axes, in the dtype of `x`."""
        return jnp.sum(x, axis=axis, keepdims=keepdims)

    def max(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Maximum over axes; ties share the derivative."""
        return jnp.max(x, axis=axis, keepdims=keepdims)

    def min(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Minimum over axes; ties share the derivative."""
        return jnp.min(x, axis=axis, keepdims=keepdims)

    def argmax(self, x: Array, axis: int) -> Array:
        """Index of the first maximum."""
        return jnp.argmax(x, axis=axis)

    def logsumexp(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        """Logarithm of the sum of exponentials, without overflow."""
        return jax.nn.logsumexp(x, axis=axis, keepdims=keepdims)

    def any(self, condition: Array) -> Array:
        """Whether any entry is True."""
        return jnp.any(condition)

    # --- shape --------------------------------------------------------------------------------------------------------
    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """Reshape in row-major order."""
        return jnp.reshape(x, tuple(shape))

    def moveaxis(self, x: Array, source: int, destination: int) -> Array:
        """Move one axis."""
        return jnp.moveaxis(x, source, destination)

    def matrix_transpose(self, x: Array) -> Array:
        """Swap the last two axes."""
        return jnp.matrix_transpose(x)

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """Join along an existing axis."""
        return jnp.concatenate(list(arrays), axis=axis)

    def split(self, x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
        """Cut along an axis."""
        return list(jnp.split(x, np.cumsum(sizes)[:-1].tolist(), axis=axis))

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        """Join along a new axis."""
        return jnp.stack(list(arrays), axis=axis)

    def take(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at one-dimensional `indices` along `axis`."""
        return jnp.take(x, indices, axis=axis)

    def take_along_axis(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at `indices` along `axis`, one per position of the other axes."""
        return jnp.take_along_axis(x, indices, axis=axis)

    # --- linear algebra -----------------------------------------------------------------------------------------------
    def matmul(self, x: Array, y: Array, transpose_y: bool = False) -> Array:
        """Matrix product over the last two axes, broadcast over the others."""
        return jnp.matmul(x, jnp.matrix_transpose(y) if transpose_y else y)

    def row_products(self, A: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """Return ``x -> x A`` and ``x -> x A^T``."""
        return lambda x: self.matmul(x, A), lambda x: self.matmul(x, A, transpose_y=True)

    def cholesky_solve(self, A: Array, rhs: Array) -> Array:
        """Factorize and solve, batched; NaN where `A` is not positive definite."""
        batch = jnp.broadcast_shapes(A.shape[:-2], rhs.shape[:-2])
        factor = jnp.broadcast_to(jnp.linalg.cholesky(A), (*batch, *A.shape[-2:]))
        return jax.scipy.linalg.cho_solve((factor, True), jnp.broadcast_to(rhs, (*batch, *rhs.shape[-2:])))

    # --- control flow -------------------------------------------------------------------------------------------------
    def while_loop(self, condition: Callable[[Any], Array], body: Callable[[Any], Any], state: Any) -> Any:
        """Loop in Python where all values can be read, else with ``lax.while_loop``; counters are then arrays."""
        if not self._is_concrete(state):
            return jax.lax.while_loop(condition, body, state)
        while condition(state):
            state = body(state)
        return state

    def cond(
        self, predicate: Array, if_true: Callable[[Any], Any], if_false: Callable[[Any], Any], operand: Any
    ) -> Any:
        """Branch in Python where the predicate can be read, else with ``lax.cond``."""
        if not self._is_concrete(predicate):
            return jax.lax.cond(predicate, if_true, if_false, operand)
        return if_true(operand) if predicate else if_false(operand)

    def vmap(self, fun: Callable[[dict[str, Array]], Array], x: dict[str, Array]) -> Array:
        """Vectorize with ``jax.vmap``."""
        return jax.vmap(fun)(x)

    # --- gradients ----------------------------------------------------------------------------------------------------
    def stop_gradient(self, x: Array) -> Array:
        """Return the same values, constant to every gradient."""
        return jax.lax.stop_gradient(x)

    def custom_vjp(
        self, primal: Callable[..., Array], vjp: Callable[..., tuple[Array | None, ...]]
    ) -> Callable[..., Array]:
        """Register `primal` and `vjp` with ``jax.custom_vjp``."""
        return custom_vjp(primal, vjp)

    def value_and_grad(self, fun: Callable[[Any], Array], x: Any) -> tuple[float, Any]:
        """Value and gradient by ``jax.value_and_grad``."""
        value, gradients = value_and_grad(fun, x)
        return float(value), gradients

    def stepper(self, optimizer: Optimizer, variables: dict[str, Array]) -> Stepper:
        """Optimizers of optax, or JAX's own where it is missing."""
        return JaxStepper(optimizer, variables)

    # --- the host, beyond the protocol --------------------------------------------------------------------------------
    def call_on_host(
        self, function: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], x: Array, shape: tuple[int, ...]
    ) -> Array:
        """Apply a NumPy function that returns integers of a known shape, also under ``jit``."""
        kind = _dtype("int64")
        result = jax.ShapeDtypeStruct(shape, kind)
        return jax.pure_callback(lambda x: function(np.asarray(x)).astype(kind), result, x, vmap_method="sequential")

    def _is_concrete(self, state: Any) -> bool:
        arrays = [x for x in jax.tree.leaves(state) if hasattr(x, "dtype")]
        return all(self.is_concrete(x) for x in arrays)


def _dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype that JAX will use for it: a narrower one where 64 bits are switched off."""
    kind: np.dtype[Any] = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
    return kind
