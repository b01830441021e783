"""What the core asks of an array framework: the only door through which it computes.

Requirements
------------
A backend is a stateless object, one per framework, found by the type of an array (`rebasin_core.backends.get_backend`).
Its methods follow the array API in name and meaning. They

* take and return the framework's own arrays, keep their dtype and device, and never edit an argument;
* are differentiable by the framework (`stop_gradient` excepted), so that objectives written with them need no gradient
  of their own, and the gradient has the dtype of the array;
* accept arrays that the framework is tracing (autograd boxes, ``jit`` tracers), as no shape depends on data.

The arithmetic, comparison and logical operators of Python (``+ - * / < <= & | ~``) are used on arrays directly, also
with Python floats, which never change the dtype of an array.

Control flow that depends on data goes through `while_loop` and `cond`, so that the algorithms also run where the
framework compiles them. The rooms `sinkhorn_operator` and `symmetry` are written against this page alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from rebasin_core.backends.optimizers import Optimizer

__all__ = ["Array", "Axis", "Backend", "DtypeName", "HasDeferredMix", "Stepper"]

Array: TypeAlias = Any
"""An array of whichever framework the backend serves."""

DtypeName: TypeAlias = str
"""The name of a dtype as NumPy spells it: ``"float32"``; also ``"bfloat16"`` where the framework has it."""

Axis: TypeAlias = int | tuple[int, ...] | None


class Backend(Protocol):
    """The operations the core needs; see the module's page for the laws they obey."""

    name: str
    """Of the framework, as errors mention it."""
    vectorizes: bool
    """Whether `vmap`, called eagerly, costs much less than a loop."""

    def __hash__(self) -> int:
        """Backends are keys of caches; one object per framework makes identity enough."""
        ...

    # --- creating, converting -----------------------------------------------------------------------------------------
    def asarray(self, values: Any, like: Array | None = None, dtype: DtypeName | None = None) -> Array:
        """Turn numbers, a range or a NumPy array into an array on the device of `like`, of its dtype unless told.

        An array of the framework, traced or not, is accepted too and stays differentiable.
        """
        ...

    def full(self, shape: Sequence[int], value: float, like: Array) -> Array:
        """Return a constant array of the dtype and on the device of `like`."""
        ...

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """Copy an array to NumPy on the host, outside of any gradient."""
        ...

    def is_concrete(self, x: Array) -> bool:
        """Whether the values can be read now: True for eager arrays and autograd boxes, False under ``jit``."""
        ...

    def dtype(self, x: Array) -> DtypeName:
        """Return the name of the array's dtype."""
        ...

    def astype(self, x: Array, dtype: DtypeName) -> Array:
        """Convert to another dtype; differentiable between floating dtypes."""
        ...

    def shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape as a tuple of ints."""
        ...

    # --- element-wise -------------------------------------------------------------------------------------------------
    def exp(self, x: Array) -> Array:
        """Exponential."""
        ...

    def log(self, x: Array) -> Array:
        """Natural logarithm."""
        ...

    def abs(self, x: Array) -> Array:
        """Absolute value; derivative 0 at 0."""
        ...

    def sqrt(self, x: Array) -> Array:
        """Square root."""
        ...

    def maximum(self, x: Array, y: Array | float) -> Array:
        """Element-wise maximum, broadcast."""
        ...

    def minimum(self, x: Array, y: Array | float) -> Array:
        """Element-wise minimum, broadcast."""
        ...

    def isfinite(self, x: Array) -> Array:
        """Whether entries are neither NaN nor infinite."""
        ...

    def where(self, condition: Array, x: Array | float, y: Array | float) -> Array:
        """``x`` where the condition holds, else ``y``, broadcast; at least one of the two is an array."""
        ...

    # --- reductions ---------------------------------------------------------------------------------------------------
    def sum(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Sum over axes, in the dtype of `x`."""
        ...

    def max(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Maximum over axes; entries that tie share the derivative."""
        ...

    def min(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Minimum over axes; entries that tie share the derivative."""
        ...

    def argmax(self, x: Array, axis: int) -> Array:
        """Index of the first maximum along an axis."""
        ...

    def logsumexp(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        """``log(sum(exp(x)))`` along an axis without overflow; -inf for a slice of -inf."""
        ...

    def any(self, condition: Array) -> Array:
        """Whether any entry is True: a scalar that `cond` and `while_loop` accept."""
        ...

    # --- shape --------------------------------------------------------------------------------------------------------
    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """Reshape in row-major order; one size may be -1."""
        ...

    def moveaxis(self, x: Array, source: int, destination: int) -> Array:
        """Move one axis to another place."""
        ...

    def matrix_transpose(self, x: Array) -> Array:
        """Swap the last two axes."""
        ...

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """Join along an existing axis."""
        ...

    def split(self, x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
        """Cut along an axis into parts of the given sizes."""
        ...

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        """Join along a new axis."""
        ...

    def take(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at the one-dimensional integer `indices` along `axis` (``numpy.take``)."""
        ...

    def take_along_axis(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at integer `indices` of the shape of `x` except along `axis` (``numpy.take_along_axis``)."""
        ...

    # --- linear algebra -----------------------------------------------------------------------------------------------
    def matmul(self, x: Array, y: Array, transpose_y: bool = False) -> Array:
        """Matrix product ``x @ y``, or ``x @ y^T``, over the last two axes, broadcast over the others.

        Both have at least two axes. Frameworks without views transpose inside of the product for nothing.
        """
        ...

    def row_products(self, A: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """Return ``x -> x A`` and ``x -> x A^T`` for rows `x` of shape (batch, 1, size), as many as matrices `A`.

        For loops that take many such products with the same matrices: what can be decided once is decided here.
        """
        ...

    def cholesky_solve(self, A: Array, rhs: Array) -> Array:
        """Solve ``A x = rhs`` for batches of symmetric positive definite `A`; ``rhs`` has shape ``(..., n, k)``.

        A matrix that is not numerically positive definite gives NaN in its slice of the batch, never an exception.
        """
        ...

    # --- control flow -------------------------------------------------------------------------------------------------
    def while_loop(self, condition: Callable[[Any], Array], body: Callable[[Any], Any], state: Any) -> Any:
        """``while condition(state): state = body(state)``.

        `state` is a tuple, possibly nested or named, of arrays of unchanging shape and dtype and of Python ints that
        count.
        """
        ...

    def cond(
        self, predicate: Array, if_true: Callable[[Any], Any], if_false: Callable[[Any], Any], operand: Any
    ) -> Any:
        """``if_true(operand) if predicate else if_false(operand)``; both give the same structure."""
        ...

    def vmap(self, fun: Callable[[dict[str, Array]], Array], x: dict[str, Array]) -> Array:
        """``stack([fun(row) for row in x])``, where a row takes one slice of the first axis of every array.

        One vectorised call where the framework has a transformation for it, a loop where it has none; differentiable.
        """
        ...

    # --- gradients ----------------------------------------------------------------------------------------------------
    def stop_gradient(self, x: Array) -> Array:
        """Return the same values, constant to every gradient."""
        ...

    def custom_vjp(
        self, primal: Callable[..., Array], vjp: Callable[..., tuple[Array | None, ...]]
    ) -> Callable[..., Array]:
        """Register a derivative: ``primal(*arrays) -> array``, ``vjp(cotangent, output, *arrays) -> cotangents``.

        `vjp` is linear in the cotangent, never edits it, and returns one cotangent per argument, ``None`` where the
        function is taken as constant. It is itself differentiated by the framework, so that a vjp built of functions
        that went through this door has a derivative too. `primal` sees untraced arrays where the framework runs
        eagerly. Call it once per function and keep the result: frameworks may hold on to what was registered.
        """
        ...

    def value_and_grad(self, fun: Callable[[Any], Array], x: Any) -> tuple[float, Any]:
        """Value and gradient of a scalar function of a dictionary of arrays."""
        ...

    def stepper(self, optimizer: Optimizer, variables: dict[str, Array]) -> "Stepper":
        """Return an optimizer of the framework's own at the start of a parameter group, whose arrays are left alone."""
        ...


class Stepper(Protocol):
    """An optimizer at work on the variables of one parameter group: all that `rebasin_core.backends.descent` asks for.

    The loop, what it refuses and what it shows are the core's; a stepper need not look at values.
    """

    def read(self) -> dict[str, Array]:
        """Return the variables as they are now, in arrays that no later update changes."""
        ...

    def update(self, gradients: dict[str, Array]) -> None:
        """Make one step; there is a gradient of the dtype that the variable came with for every variable."""
        ...


@runtime_checkable
class HasDeferredMix(Protocol):
    """A backend that can put off mixing a weight, which a soft plan of a network that is computed once asks for."""

    def deferred_mix(self, x: Array, rows: Array | None, columns: Array | None, mix: Callable[[], Array]) -> Array:
        """Return what stands for ``mix() = rows @ x @ columns.T``, a layer's weight mixed along its outputs and inputs.

        None stands for an axis that is not mixed. It is computed when it is used, or never, where what goes in and out
        of the layer is mixed instead.
        """
        ...
