"""Weights that are mixed by a soft plan when they are used, and then in the cheaper of two ways.

A layer of ``I`` inputs and ``O`` outputs whose weight is mixed, ``M = P W Q^T``, can mix the weight before it
computes, or leave the weight as it is and mix what goes in and comes out, ``M x = P (W (Q^T x))``. The first costs a
number of products that depends on the layer alone, the second one that grows with the number of places (samples,
pixels) at which the layer is applied: a wide convolution late in a network sees few of them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["DeferredMix", "deferred_mix"]

_CONVOLUTIONS: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
_SCALINGS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.multiply, Tensor.multiply}
_DIVISIONS = {torch.div, Tensor.div, Tensor.__truediv__, torch.true_divide, torch.divide, Tensor.divide}
_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}
_METADATA = {
    Tensor.shape.__get__,  # type: ignore[attr-defined]
    Tensor.dtype.__get__,  # type: ignore[attr-defined]
    Tensor.device.__get__,
    Tensor.layout.__get__,  # type: ignore[attr-defined]
    Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.size,
    Tensor.dim,
    Tensor.numel,
    Tensor.is_floating_point,
    Tensor.is_complex,
    Tensor.is_inference,
}


def deferred_mix(
    weight: Tensor, rows: Tensor | None, columns: Tensor | None, mix: Callable[[], Tensor]
) -> "DeferredMix":
    """Defer ``mix() = rows @ weight @ columns.T``, which is called once at most, whatever becomes of the result."""
    return DeferredMix(weight, rows, columns, cache(mix))


class DeferredMix(Tensor):
    """``offset + scale * mix()``: a weight of which one part is mixed by a soft plan, not yet computed.

    Linear layers and convolutions without groups choose how to compute with it; scaling it and adding a tensor to it
    keep it deferred, so that a point of a line is deferred as its end is. Whatever else is done with it computes it
    first, once, so that nobody need know it is none of the usual tensors. Gradients reach what it is made of.

    Parameters
    ----------
    weight : Tensor, shape (O, I, ...)
        The weight that is mixed.
    rows, columns : Tensor, shape (O, O) and (I, I), or None
        ``P`` and ``Q``; None for an axis that is left alone.
    mix : callable
        ``mix() -> Tensor``, the weight mixed: by whom it was deferred.
    """

    weight: Tensor
    rows: Tensor | None
    columns: Tensor | None
    mix: Callable[[], Tensor]
    scale: Any
    offset: Tensor | None
    computed: Tensor | None

    @staticmethod
    def __new__(
        cls,
        weight: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
        mix: Callable[[], Tensor],
        scale: Any = 1.0,
        offset: Tensor | None = None,
    ) -> "DeferredMix":
        """Make a tensor of the weight's shape, dtype and device that holds no numbers."""
        made: DeferredMix = Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype, device=weight.device)
        made.weight, made.rows, made.columns, made.mix = weight, rows, columns, mix
        made.scale, made.offset, made.computed = scale, offset, None
        return made

    def compute(self) -> Tensor:
        """Return the mixed weight as a usual tensor; the second time, the same one."""
        if self.computed is None:
            mixed = self.mix()
            mixed = mixed if _is_one(self.scale) else self.scale * mixed
            self.computed = mixed if self.offset is None else self.offset + mixed
        return self.computed

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do what `func` does, by the cheaper way where there are two."""
        kwargs = dict(kwargs or {})
        with torch._C.DisableTorchFunctionSubclass():
            if func in _METADATA:
                return func(*args, **kwargs)
            if func in _SCALINGS and len(args) == 2 and not kwargs:
                return _scaled(*args)
            if func in _DIVISIONS and len(args) == 2 and not kwargs and isinstance(args[1], (int, float)):
                return _scaled(args[0], 1.0 / args[1])
            if func in _SUMS and len(args) == 2 and not kwargs:
                return _sum(*args)
            if func is functional.linear:
                return _linear(*args, **kwargs)
            if func in _CONVOLUTIONS:
                return _convolution(func, *args, **kwargs)
            args, kwargs = torch.utils._pytree.tree_map_only(DeferredMix, DeferredMix.compute, (args, kwargs))
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse: past `__torch_function__` the gradient would be lost."""
        raise TypeError(
            f"{func} cannot take a weight that is mixed when it is used; pass deferred=False where it was made"
        )


def _is_one(scale: Any) -> bool:
    return isinstance(scale, float) and scale == 1.0


def _computed(x: Any) -> Any:
    return x.compute() if isinstance(x, DeferredMix) else x


def _scaled(x: Any, y: Any) -> Tensor:
    mixed, factor = (x, y) if isinstance(x, DeferredMix) else (y, x)
    if isinstance(factor, Tensor) and (factor.ndim or isinstance(factor, DeferredMix)):
        return torch.mul(_computed(x), _computed(y))
    offset = None if mixed.offset is None else factor * mixed.offset
    return DeferredMix(mixed.weight, mixed.rows, mixed.columns, mixed.mix, factor * mixed.scale, offset)


def _sum(x: Any, y: Any) -> Tensor:
    mixed, other = (x, y) if isinstance(x, DeferredMix) else (y, x)
    if not isinstance(other, Tensor) or isinstance(other, DeferredMix) or other.shape != mixed.weight.shape:
        return torch.add(_computed(x), _computed(y))
    offset = other if mixed.offset is None else mixed.offset + other
    return DeferredMix(mixed.weight, mixed.rows, mixed.columns, mixed.mix, mixed.scale, offset)


def _linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    bias = _computed(bias)
    if not isinstance(weight, DeferredMix) or isinstance(input, DeferredMix):
        return functional.linear(_computed(input), _computed(weight), bias)
    places = input.numel() // max(1, input.shape[-1])
    if not _cheaper_outside(weight, places, places, input.requires_grad):
        return functional.linear(input, weight.compute(), bias)
    x = input if weight.columns is None else input @ weight.columns
    y = functional.linear(x, weight.weight)
    y = y if weight.rows is None else y @ weight.rows.mT
    return _together(y, weight.scale, lambda offset: functional.linear(input, offset, bias), weight.offset, bias, -1)


def _convolution(
    func: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    bias, settings = _computed(bias), (stride, padding, dilation, groups)
    dims = _CONVOLUTIONS[func]
    plain = isinstance(weight, DeferredMix) and not isinstance(input, DeferredMix)
    if not plain or groups != 1 or input.ndim != dims + 2:
        return func(_computed(input), _computed(weight), bias, *settings)  # type: ignore[no-any-return]
    before = input.shape[0] * input.shape[2:].numel()
    after = func(input.to("meta"), weight.weight.to("meta"), None, *settings)
    if not _cheaper_outside(weight, before, after.shape[0] * after.shape[2:].numel(), input.requires_grad):
        return func(input, weight.compute(), bias, *settings)  # type: ignore[no-any-return]
    x = input if weight.columns is None else _mix_channels(input, weight.columns)
    y = func(x, weight.weight, None, *settings)
    y = y if weight.rows is None else _mix_channels(y, weight.rows.mT)
    return _together(y, weight.scale, lambda offset: func(input, offset, bias, *settings), weight.offset, bias, 1)


def _mix_channels(x: Tensor, matrix: Tensor) -> Tensor:
    """``x @ matrix`` over the channels, axis 1; channels come last in memory, which convolutions take as it is."""
    return (x.movedim(1, -1) @ matrix).movedim(-1, 1)


def _together(
    y: Tensor, scale: Any, apply: Callable[[Tensor], Tensor], offset: Tensor | None, bias: Tensor | None, axis: int
) -> Tensor:
    y = y if _is_one(scale) else scale * y
    if offset is not None:
        return apply(offset) + y
    if bias is None:
        return y
    return y + (bias if axis == -1 else bias.reshape(-1, *[1] * (y.ndim - 2)))


def _cheaper_outside(weight: DeferredMix, places_in: int, places_out: int, input_gradient: bool) -> bool:
    """Whether mixing what goes in and comes out takes fewer multiplications than mixing the weight, backward included.

    A product whose factors both want a gradient takes two more backward, else one. ``Q^T`` is mixed into the weight
    before ``P`` is, so that its product has a constant factor.
    """
    if not torch.is_grad_enabled():
        return False  # a weight may be used many times, and is then mixed once
    outputs, inputs, taps = weight.weight.shape[0], weight.weight.shape[1], weight.weight.shape[2:].numel()
    size = outputs * inputs * taps
    by_rows, by_columns = weight.rows is not None, weight.columns is not None
    layer = places_out * size
    inside = layer * (3 if input_gradient else 2)
    inside += size * (2 * inputs * by_columns + (3 if by_columns else 2) * outputs * by_rows)
    outside = layer * (2 if input_gradient or by_columns else 1)
    outside += layer * (0 if weight.offset is None else 2 if input_gradient else 1)
    outside += places_in * inputs**2 * by_columns * (3 if input_gradient else 2)
    outside += places_out * outputs**2 * by_rows * (3 if input_gradient or by_columns else 2)
    return bool(outside < inside)
