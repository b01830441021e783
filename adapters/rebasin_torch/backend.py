"""PyTorch as a backend of the core: any device, any floating dtype, nothing copied to the host.

Every method is the function of torch with the same meaning, so that autograd differentiates it as often as it likes.
Values travel to the host where the core asks for them (`TorchBackend.to_numpy`: a linear assignment, a figure to print)
and where a loop has to know whether it is done: that costs a synchronization on a CUDA device, not a copy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rebasin_core.backends.optimizers import Optimizer
from rebasin_core.backends.protocol import Array, Axis, DtypeName, Stepper
from rebasin_core.errors import UnsupportedArrayError
from rebasin_torch.deferred import deferred_mix
from rebasin_torch.gradients import TorchStepper, custom_vjp, value_and_grad
from rebasin_torch.products import WIDE, row_products, row_times_matrix
from rebasin_torch.values import can_be_read, dtype_name, to_host

__all__ = ["TorchBackend"]


class TorchBackend:
    """`Backend` for ``torch.Tensor`` and its subclasses.

    Examples
    --------
    >>> import torch
    >>> import rebasin_core as rb
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> plan = rb.sinkhorn(logits)
    >>> plan.sum(0).detach().round(decimals=3)
    tensor([1., 1.])
    """

    name = "torch"
    vectorizes = True

    # --- creating, converting -----------------------------------------------------------------------------------------
    def asarray(self, values: Any, like: Array | None = None, dtype: DtypeName | None = None) -> Array:
        """Turn numbers, a range, a NumPy array or a tensor into a tensor on the device of `like`.

        What is not a tensor is copied; a tensor that has the dtype and the device already comes back as it is.
        """
        device = None if like is None else like.device
        kind = _dtype(dtype) if dtype is not None else (None if like is None else like.dtype)
        if isinstance(values, Tensor):
            return values.to(device=device, dtype=kind)
        if isinstance(values, (bool, int, float)):
            return torch.full((), values, dtype=kind, device=device)
        if isinstance(values, range):
            return torch.arange(values.start, values.stop, values.step, dtype=kind, device=device)
        # Through a contiguous array: torch reads neither negative strides nor, without a warning, what is read-only.
        return torch.tensor(np.array(values, order="C"), dtype=kind, device=device)

    def full(self, shape: Sequence[int], value: float, like: Array) -> Array:
        """Return a constant tensor of the dtype and on the device of `like`."""
        return torch.full(tuple(shape), value, dtype=like.dtype, device=like.device)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """Copy the values to the host; narrow floats that NumPy has no name for as float32."""
        return to_host(x)

    def is_concrete(self, x: Array) -> bool:
        """Whether the values can be read: not under ``torch.compile``, nor of fake tensors or those on ``meta``."""
        return can_be_read(x)

    def dtype(self, x: Array) -> DtypeName:
        """Return the name of the dtype, without the module."""
        return dtype_name(x)

    def astype(self, x: Array, dtype: DtypeName) -> Array:
        """Convert to another dtype; the tensor itself where it has that dtype already."""
        return x.to(_dtype(dtype))

    def shape(self, x: Array) -> tuple[int, ...]:
        """Return the shape as a tuple."""
        return tuple(x.shape)

    # --- element-wise -------------------------------------------------------------------------------------------------
    def exp(self, x: Array) -> Array:
        """Exponential."""
        return torch.exp(x)

    def log(self, x: Array) -> Array:
        """Natural logarithm."""
        return torch.log(x)

    def abs(self, x: Array) -> Array:
        """Absolute value, with derivative 0 at 0."""
        return torch.abs(x)

    def sqrt(self, x: Array) -> Array:
        """Square root."""
        return torch.sqrt(x)

    def maximum(self, x: Array, y: Array | float) -> Array:
        """Element-wise maximum; ties share the derivative."""
        return torch.maximum(x, _beside(x, y))

    def minimum(self, x: Array, y: Array | float) -> Array:
        """Element-wise minimum; ties share the derivative."""
        return torch.minimum(x, _beside(x, y))

    def isfinite(self, x: Array) -> Array:
        """Whether entries are neither NaN nor infinite."""
        # A third of the passes that torch.isfinite makes; NaN is not less than anything.
        return torch.abs(x) < torch.inf

    def where(self, condition: Array, x: Array | float, y: Array | float) -> Array:
        """Choose element-wise, with broadcasting."""
        return torch.where(condition, x, y)

    # --- reductions ---------------------------------------------------------------------------------------------------
    def sum(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Sum over axes, in the dtype of `x`."""
        return torch.sum(x, dim=axis, keepdim=keepdims)

    def max(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Maximum over axes; ties share the derivative."""
        return torch.amax(x, dim=() if axis is None else axis, keepdim=keepdims)

    def min(self, x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
        """Minimum over axes; ties share the derivative."""
        return torch.amin(x, dim=() if axis is None else axis, keepdim=keepdims)

    def argmax(self, x: Array, axis: int) -> Array:
        """Index of the first maximum."""
        return torch.argmax(x, dim=axis)

    def logsumexp(self, x: Array, axis: int, keepdims: bool = False) -> Array:
        """Logarithm of the sum of exponentials, without overflow."""
        return torch.logsumexp(x, dim=axis, keepdim=keepdims)

    def any(self, condition: Array) -> Array:
        """Whether any entry is True."""
        return torch.any(condition)

    # --- shape --------------------------------------------------------------------------------------------------------
    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """Reshape in row-major order."""
        return torch.reshape(x, tuple(shape))

    def moveaxis(self, x: Array, source: int, destination: int) -> Array:
        """Move one axis."""
        return torch.movedim(x, source, destination)

    def matrix_transpose(self, x: Array) -> Array:
        """Swap the last two axes."""
        return x.mT

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """Join along an existing axis."""
        return torch.cat(list(arrays), dim=axis)

    def split(self, x: Array, sizes: Sequence[int], axis: int) -> list[Array]:
        """Cut along an axis."""
        return list(torch.split(x, list(sizes), dim=axis))

    def stack(self, arrays: Sequence[Array], axis: int = 0) -> Array:
        """Join along a new axis."""
        return torch.stack(list(arrays), dim=axis)

    def take(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at one-dimensional `indices` along `axis`."""
        return torch.index_select(x, axis, indices)

    def take_along_axis(self, x: Array, indices: Array, axis: int) -> Array:
        """Entries at `indices` along `axis`, one per position of the other axes."""
        return torch.take_along_dim(x, indices, dim=axis)

    # --- linear algebra -----------------------------------------------------------------------------------------------
    def matmul(self, x: Array, y: Array, transpose_y: bool = False) -> Array:
        """Matrix product over the last two axes, broadcast over the others."""
        if transpose_y:
            y = y.mT
        if not (x.ndim == y.ndim == 3 and x.shape[0] == y.shape[0]):
            return torch.matmul(x, y)
        if y.shape[2] >= WIDE and x.shape[0] == x.shape[1] == 1:
            return row_times_matrix(x, y)
        return torch.bmm(x, y)  # what matmul does in the end, after as long a time for small matrices

    def row_products(self, A: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        """Return ``x -> x A`` and ``x -> x A^T``."""
        return row_products(A)

    def cholesky_solve(self, A: Array, rhs: Array) -> Array:
        """Factorize and solve, batched; NaN where `A` is not positive definite.

        Not ``torch.linalg.solve``: its batched form fails on some builds with several threads, and costs twice as much.
        """
        factor, info = torch.linalg.cholesky_ex(A)
        solution = torch.cholesky_solve(rhs, factor)
        return torch.where((info == 0)[..., None, None], solution, torch.nan)

    # --- control flow -------------------------------------------------------------------------------------------------
    def while_loop(self, condition: Callable[[Any], Array], body: Callable[[Any], Any], state: Any) -> Any:
        """Loop eagerly; a condition on values waits for the device once per round, a condition on counts never."""
        while condition(state):
            state = body(state)
        return state

    def cond(
        self, predicate: Array, if_true: Callable[[Any], Any], if_false: Callable[[Any], Any], operand: Any
    ) -> Any:
        """Branch eagerly."""
        return if_true(operand) if predicate else if_false(operand)

    def vmap(self, fun: Callable[[dict[str, Array]], Array], x: dict[str, Array]) -> Array:
        """Vectorize with ``torch.func.vmap``; every row draws random numbers of its own."""
        vectorized: Array = torch.func.vmap(fun, randomness="different")(x)
        return vectorized

    # --- gradients ----------------------------------------------------------------------------------------------------
    def stop_gradient(self, x: Array) -> Array:
        """Return the same values, constant to every gradient."""
        return x.detach()

    def deferred_mix(self, x: Array, rows: Array | None, columns: Array | None, mix: Callable[[], Array]) -> Array:
        """Return ``mix() = rows @ x @ columns.T``, the weight of a layer, as one that is mixed when it is used."""
        return deferred_mix(x, rows, columns, mix)

    def custom_vjp(
        self, primal: Callable[..., Array], vjp: Callable[..., tuple[Array | None, ...]]
    ) -> Callable[..., Array]:
        """Register `primal` and `vjp` as a ``torch.autograd.Function``."""
        return custom_vjp(primal, vjp)

    def value_and_grad(self, fun: Callable[[Any], Array], x: Any) -> tuple[float, Any]:
        """Value and gradient by ``torch.autograd.grad``, also where the caller has gradients switched off."""
        value, gradients = value_and_grad(fun, x)
        return float(value), gradients

    def stepper(self, optimizer: Optimizer, variables: dict[str, Array]) -> Stepper:
        """An optimizer of ``torch.optim``."""
        return TorchStepper(optimizer, variables)


def _dtype(name: DtypeName) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise UnsupportedArrayError(f"torch has no dtype {name!r}; name one such as 'float32', 'bfloat16' or 'int64'")
    return found


def _beside(x: Tensor, y: Tensor | float) -> Tensor:
    """`y` as a tensor that goes with `x`; a number is filled in on the device and copied from nowhere."""
    return y if isinstance(y, Tensor) else x.new_full((), y)
