"""TensorFlow as a backend of the core: eager, inside ``tf.function``, and compiled by XLA.

Every method is the function of TensorFlow with the same meaning. Three habits of TensorFlow's are evened out here:
Python numbers become tensors of the other argument's dtype before they meet it (TensorFlow guesses float32), variables
are read when they enter, and gradients of gathers, which come as ``IndexedSlices``, leave as tensors.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from rebasin_core.backends.optimizers import Optimizer
from rebasin_core.backends.protocol import Array, Axis, DtypeName, Stepper
from rebasin_core.errors import ShapeError
from rebasin_keras.tensorflow_gradients import TensorFlowStepper, custom_vjp, value_and_grad

__all__ = ["TensorFlowBackend"]


class TensorFlowBackend:
    """`Backend` for ``tf.Tensor``, eager or symbolic, and ``tf.Variable``.

    Examples
    --------
    >>> import tensorflow as tf
    >>> import rebasin_core as rb
    >>> logits = tf.constant([[2.0, 0.0], [0.0, 1.0]])
    >>> [round(x, 3) for x in rb.sinkhorn(logits)[0].numpy().tolist()]
    [0.818, 0.182]
    >>> compiled = tf.function(lambda x: rb.sinkhorn(x, tau=0.1, tol=1e-6))
    >>> bool(tf.reduce_all(tf.abs(compiled(logits) - rb.sinkhorn(logits, tau=0.1, tol=1e-6)) < 1e-6))
    True
    """

    name = "tensorflow"
    vectorizes = False  # every eager call traces the function again

    # --- creating, converting -----------------------------------------------------------------------------------------
    def asarray(self, values: Any, like: Array | None = None, dtype: DtypeName | None = None) -> Array:
        """Turn numbers, a range, a NumPy array or a tensor into a tensor on the device of `like`."""
        kind = like.dtype if dtype is None and like is not None else dtype
        with _device(like):
            if tf.is_tensor(values):
                values = tf.convert_to_tensor(values)
                return values if kind is None else tf.cast(values, kind)
            if isinstance(values, range):
                values = np.arange(values.start, values.stop, values.step)
            if isinstance(values, np.ndarray):
                return tf.constant(values if kind is None else values.astype(tf.as_dtype(kind).as_numpy_dtype))
            return tf.convert_to_tensor(values, dtype=kind)

    def full(self, shape: Sequence[int], value: float, like: Array) -> Array:
        """Return a constant tensor of the dtype and on the device of `like`."""
        with _device(like):
            return tf.fill(tuple(shape), tf.constant(value, dtype=like.dtype))

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """Copy the values to the host; narrow floats that NumPy has no name for as float32."""
        values = np.array(tf.convert_to_tensor(x).numpy())
        return values.astype(np.float32) if x.dtype.is_floating and values.dtype.kind != "f" else values

    def is_concrete(self, x: Array) -> bool:
        """Whether values can be read: not inside ``tf.function``, where even known tensors give unknown results."""
        return bool(tf.executing_eagerly()) and not tf.is_symbolic_tensor(x)

    def dtype(self, x: Array) -> DtypeName:
        """Return the name of the dtype."""
        name: str = x.dtype.name
        return name

    def astype(self, x: Array, dtype: DtypeName) -> Array:
        """Convert to another dtype; the tensor itself where it has that dtype already."""
        return tf.cast(x, dtype)

    def shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape as a tuple of ints.

        Raises
        ------
        ShapeError
            ``tf.function`` was told not to know a size.
        """
        shape = x.shape
        if not shape.is_fully_defined():
            raise ShapeError(
                f"expected a tensor whose sizes are known, got one of shape {shape}; give tf.function an "
                f"input_signature with numbers in place of None, or call x.set_shape(...)"
            )
        return tuple(shape.as_list())

    # --- element-wise -------------------------------------------------------------------------------------------------
    def exp(self, x: Array) -> Array:
        """Exponential."""
        return tf.exp(x)

    def log(self, x: Array) -> Array:
        """Natural logarithm."""
        return tf.math.log(x)

    def abs(self, x: Array) -> Array:
        """Absolute value, with derivative 0 at 0."""
        return tf.abs(x)

    def sqrt(self, x: Array) -> Array:
        """Square root."""
        return tf.sqrt(x)

    def maximum(self, x: Array, y: Array | float) -> Array:
        """Element-wise maximum; of two that tie, the first has the derivative."""
        return tf.maximum(*_alike(x, y))

    def minimum(self, x: Array, y: Array | float) -> Array:
        """Element-wise minimum; of two that tie, the first has the derivative."""
        return tf.minimum(*_alike(x, y))

    def isfinite(self, x: Array) -> Array:
        """Whether entries are neither NaN nor infinite."""
        return tf.math.is_finite(x) if x.dtype.is_floating else tf.ones_like(x, dtype=tf.bool)

    def where(self, condition: Array, x: Array | float, y: Array | float) -> Array:
        """Choose element-wise, with broadcasting."""
        return tf.where(condition, *_alike(x, y))

    # --- reductions ---------------------------------------------------------------------------------------------------
    def sum(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Sum over axes, in the dtype of `x`."""
        return tf.reduce_sum(x, axis=axis, keepdims=keepdims)

    def max(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Maximum over axes; ties share the derivative."""
        return tf.reduce_max(x, axis=axis, keepdims=keepdims)

    def min(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Minimum over axes; ties share the derivative."""
        return tf.reduce_min(x, axis=axis, keepdims=keepdims)

    def argmax(self, x: Array, axis: int) -> Array:
        """Index of the first maximum."""
        return tf.argmax(x, axis=axis)

    def logsumexp(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        """Logarithm of the sum of exponentials, without overflow."""
        return tf.reduce_logsumexp(x, axis=axis, keepdims=keepdims)

    def any(self, condition: Array) -> Array:
        """Whether any entry is True."""
        return tf.reduce_any(condition)

    # --- shape --------------------------------------------------------------------------------------------------------
    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """Reshape in row-major order."""
        return tf.reshape(x, tuple(shape))

    def moveaxis(self, x: Array, source: int, destination: int) -> Array:
        """Move one axis."""
        order = list(range(len(x.shape)))
        axis = order.pop(source)
        order.insert(destination % (len(order) + 1), axis)
        return x if order == list(range(len(order))) else tf.transpose(x, order)

    def matrix_transpose(self, x: Array) -> Array:
        """Swap the last two axes."""
        return tf.linalg.matrix_transpose(x)

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """Join along an existing axis."""
        return tf.concat(list(arrays), axis=axis)

    def split(self, x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
        """Cut along an axis."""
        parts: list[Array] = tf.split(x, list(sizes), axis=axis)
        return parts

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        """Join along a new axis."""
        return tf.stack(list(arrays), axis=axis)

    def take(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at one-dimensional `indices` along `axis`."""
        return tf.gather(x, indices, axis=axis)

    def take_along_axis(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at `indices` along `axis`, one per position of the other axes."""
        last = len(x.shape) - 1
        # A gather whose leading axes are batches wants the axis at the end.
        found = tf.gather(self.moveaxis(x, axis, last), self.moveaxis(indices, axis, last), axis=last, batch_dims=last)
        return self.moveaxis(found, last, axis)

    # --- linear algebra -----------------------------------------------------------------------------------------------
    def matmul(self, x: Array, y: Array, transpose_y: bool = False) -> Array:
        """Matrix product over the last two axes, broadcast over the others."""
        if x.shape.rank == y.shape.rank == 3 and x.shape[0] == y.shape[0] == 1:
            # TensorFlow multiplies two matrices several times faster than batches of one.
            return tf.matmul(x[0], y[0], transpose_b=transpose_y)[None]
        return tf.matmul(x, y, transpose_b=transpose_y)

    def row_products(self, A: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """Return ``x -> x A`` and ``x -> x A^T``."""
        return lambda x: self.matmul(x, A), lambda x: self.matmul(x, A, transpose_y=True)

    def cholesky_solve(self, A: Array, rhs: Array) -> Array:
        """Factorize and solve, batched; NaN where `A` is not positive definite."""
        factor = tf.linalg.cholesky(A)
        # A failed slice holds NaN on its diagonal, and not everywhere; the solver is kept from seeing it.
        definite = tf.reduce_all(tf.math.is_finite(tf.linalg.diag_part(factor)), axis=-1)[..., None, None]
        identity = tf.eye(A.shape[-1], dtype=A.dtype)
        batch = tf.broadcast_static_shape(A.shape[:-2], rhs.shape[:-2])
        factor = tf.broadcast_to(tf.where(definite, factor, identity), (*batch, *A.shape[-2:]))
        solution = tf.linalg.cholesky_solve(factor, tf.broadcast_to(rhs, (*batch, *rhs.shape[-2:])))
        return tf.where(definite, solution, tf.constant(np.nan, dtype=A.dtype))

    # --- control flow -------------------------------------------------------------------------------------------------
    def while_loop(self, condition: Callable[[Any], Array], body: Callable[[Any], Any], state: Any) -> Any:
        """Loop in Python where values can be read, else with ``tf.while_loop``; counters are then int32 tensors."""
        if not tf.executing_eagerly():
            return tf.while_loop(condition, lambda state: (body(state),), (state,))[0]
        while condition(state):
            state = body(state)
        return state

    def cond(
        self, predicate: Array, if_true: Callable[[Any], Any], if_false: Callable[[Any], Any], operand: Any
    ) -> Any:
        """Branch in Python where values can be read, else with ``tf.cond``."""
        if not tf.executing_eagerly():
            return tf.cond(predicate, lambda: if_true(operand), lambda: if_false(operand))
        return if_true(operand) if predicate else if_false(operand)

    def vmap(self, fun: Callable[[dict[str, Array]], Array], x: dict[str, Array]) -> Array:
        """Vectorize with ``tf.vectorized_map``."""
        return tf.vectorized_map(fun, x)

    # --- gradients ----------------------------------------------------------------------------------------------------
    def stop_gradient(self, x: Array) -> Array:
        """Return the same values, constant to every gradient."""
        return tf.stop_gradient(x)

    def custom_vjp(
        self, primal: Callable[..., Array], vjp: Callable[..., tuple[Array | None, ...]]
    ) -> Callable[..., Array]:
        """Register `primal` and `vjp` with ``tf.custom_gradient``."""
        return custom_vjp(primal, vjp)

    def value_and_grad(self, fun: Callable[[Any], Array], x: Any) -> tuple[float, Any]:
        """Value and gradient by a ``tf.GradientTape``."""
        value, gradients = value_and_grad(fun, x)
        return float(value), gradients

    def stepper(self, optimizer: Optimizer, variables: dict[str, Array]) -> Stepper:
        """The kernels behind TensorFlow's optimizers."""
        return TensorFlowStepper(optimizer, variables)

    # --- the host, beyond the protocol --------------------------------------------------------------------------------
    def call_on_host(
        self, function: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], x: Array, shape: tuple[int, ...]
    ) -> Array:
        """Apply a NumPy function that returns int64 of a known shape, also where the graph is compiled (not by XLA)."""
        result = tf.numpy_function(function, [x], tf.int64)
        return tf.ensure_shape(result, shape)


def _alike(x: Array | float, y: Array | float) -> tuple[Array, Array]:
    """Both as tensors, of the dtype of the one that is a tensor already."""
    dtype = x.dtype if tf.is_tensor(x) else y.dtype  # type: ignore[union-attr]
    return tf.convert_to_tensor(x, dtype=dtype), tf.convert_to_tensor(y, dtype=dtype)


def _device(like: Array | None) -> AbstractContextManager[Any]:
    """The device of an eager tensor; inside a graph, placement is TensorFlow's."""
    if like is None or not tf.executing_eagerly() or tf.is_symbolic_tensor(like):
        return nullcontext()
    context: AbstractContextManager[Any] = tf.device(like.device)
    return context
