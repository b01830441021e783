"""Weights that are mixed by a soft plan when they are used, and then in the cheaper of two ways.

A layer of ``I`` inputs and ``O`` outputs whose weight is mixed, ``M = P W Q^T``, can mix the weight before it
computes, or leave the weight as it is and mix what goes in and comes out, ``M x = P (W (Q^T x))``. The first costs a
number of products that depends on the layer alone, the second one that grows with the number of places (samples,
pixels) at which the layer is applied: a wide convolution late in a network sees few of them.

A training step with the midpoint loss takes 0.75 times as long for it with VGG-11 at 32 images, 0.55 times at 16, and
0.55 times with a perceptron at 16 samples; with 1000 samples the weight is mixed, and nothing is lost (one core).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

__all__ = ["DeferredMix", "deferred_mix"]

_CONVOLUTIONS: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
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
_IN_PLACE = re.compile(r".*[^_]_|__i(?!nvert|nt|ndex).*__|__set.*__")
_LARGEST = 2.0**64
"""Divisors beyond it come back as a factor that could be lost."""


def deferred_mix(
    weight: Tensor, rows: Tensor | None, columns: Tensor | None, mix: Callable[[], Tensor]
) -> "DeferredMix":
    """Defer ``mix() = rows @ weight @ columns.T``, which is called once at most, whatever becomes of the result."""
    return DeferredMix(weight, rows, columns, cache(mix))


class DeferredMix(Tensor):
    """``offset + scale * mix()``: a weight of which one part is mixed by a soft plan, not yet computed.

    Linear layers and convolutions without groups choose how to compute with it; a share of it, and the sum with a
    tensor like it, are deferred in turn (a point of a line is as its end is). Whatever else is done with it computes it
    first, once: it behaves as the usual tensor would, up to rounding. Gradients reach what it is made of.

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
            if func in _METADATA and _is_deferred(args[0]):
                return func(*args, **kwargs)
            if func in _KEEPING and len(args) == 2 and not kwargs:
                kept = _KEEPING[func](*args)
                if kept is not None:
                    return kept
            if func is functional.linear:
                return _linear(*args, **kwargs)
            if func in _CONVOLUTIONS:
                return _convolution(func, *args, **kwargs)
            leaves = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, DeferredMix)]
            if _IN_PLACE.fullmatch(getattr(func, "__name__", "")) or "out" in kwargs:
                for x in leaves:
                    x.computed = x.compute().clone()  # others may hold what was computed
            args, kwargs = pytree.tree_map_only(DeferredMix, DeferredMix.compute, (args, kwargs))
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse: past `__torch_function__` the gradient would be lost."""
        raise TypeError(
            f"{func} cannot take a weight that is mixed when it is used; compute with usual tensors, as in "
            f"torch.func.functional_call(model, net.soft_parameters(), inputs)"
        )


def _is_one(scale: Any) -> bool:
    return isinstance(scale, float) and scale == 1.0


def _is_deferred(x: Any) -> bool:
    """Whether a weight is still to be mixed: what has been computed is a tensor like any other."""
    return isinstance(x, DeferredMix) and x.computed is None


def _computed(x: Any) -> Any:
    return x.compute() if isinstance(x, DeferredMix) else x


def _scaled(x: Any, y: Any) -> Tensor | None:
    """``x * y`` as a deferred weight, for a factor that cannot overflow or change the dtype; otherwise None."""
    mixed, factor = (x, y) if isinstance(x, DeferredMix) else (y, x)
    if not _is_deferred(mixed):
        return None
    if isinstance(factor, Tensor):
        dtype = mixed.weight.dtype
        if factor.ndim or factor.device != mixed.weight.device or torch.result_type(mixed.weight, factor) != dtype:
            return None
    elif type(factor) not in (int, float) or not abs(factor) <= 1:
        return None
    offset = None if mixed.offset is None else factor * mixed.offset
    return DeferredMix(mixed.weight, mixed.rows, mixed.columns, mixed.mix, factor * mixed.scale, offset)


def _divided(x: Any, y: Any) -> Tensor | None:
    """``x / y`` for a number of at least one."""
    return _scaled(x, 1.0 / y) if type(y) in (int, float) and 1 <= abs(y) <= _LARGEST else None


def _sum(x: Any, y: Any) -> Tensor | None:
    """``x + y`` as a deferred weight, where `y` is a tensor like it; otherwise None."""
    mixed, other = (x, y) if isinstance(x, DeferredMix) else (y, x)
    if not _is_deferred(mixed) or not isinstance(other, Tensor) or isinstance(other, DeferredMix):
        return None
    like = mixed.weight
    if (other.shape, other.dtype, other.device, other.layout) != (like.shape, like.dtype, like.device, torch.strided):
        return None
    offset = other if mixed.offset is None else mixed.offset + other
    return DeferredMix(mixed.weight, mixed.rows, mixed.columns, mixed.mix, mixed.scale, offset)


_KEEPING: dict[Any, Callable[[Any, Any], Tensor | None]] = {
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _scaled),
    **dict.fromkeys((torch.multiply, Tensor.multiply), _scaled),
    **dict.fromkeys((torch.div, Tensor.div, Tensor.__truediv__), _divided),
    **dict.fromkeys((torch.true_divide, torch.divide, Tensor.true_divide, Tensor.divide), _divided),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _sum),
}
"""Operations that keep a weight deferred, so that a point of a line is deferred as its end is."""


def _fits(input: Any, weight: Any, bias: Any, ndim: int | None) -> bool:
    """Whether a layer takes this input and bias, and computes in their dtype: what may be rearranged.

    `ndim` counts the axes of the input of a convolution, (batch, channels, ...); None for a linear layer.
    """
    if not _is_deferred(weight) or not isinstance(input, Tensor) or isinstance(input, DeferredMix):
        return False
    like, (outputs, inputs, *taps) = (weight.weight.dtype, weight.weight.device), weight.weight.shape
    takes = input.ndim > 0 and not taps if ndim is None else input.ndim == ndim == len(taps) + 2
    return (
        takes
        and input.shape[-1 if ndim is None else 1] == inputs
        and (input.dtype, input.device) == like
        and (bias is None or (isinstance(bias, Tensor) and (bias.dtype, bias.device) == like))
        and (bias is None or bias.shape == (outputs,))
        and not torch.is_autocast_enabled(input.device.type)
    )


def _linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    bias = _computed(bias)
    cheaper = False
    if _fits(input, weight, bias, None):
        places = input.numel() // max(1, input.shape[-1])
        cheaper = _cheaper_outside(weight, places, places, input)
    if not cheaper:
        return functional.linear(_computed(input), _computed(weight), bias)
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
    cheaper = False
    if groups == 1 and _fits(input, weight, bias, _CONVOLUTIONS[func] + 2):
        before = input.shape[0] * input.shape[2:].numel()
        after = func(input.to("meta"), weight.weight.to("meta"), None, *settings)
        cheaper = _cheaper_outside(weight, before, after.shape[0] * after.shape[2:].numel(), input)
    if not cheaper:
        return func(_computed(input), _computed(weight), bias, *settings)  # type: ignore[no-any-return]
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


def _cheaper_outside(weight: DeferredMix, places_in: int, places_out: int, input: Tensor) -> bool:
    """Whether mixing what goes in and comes out takes fewer multiplications than mixing the weight, backward included.

    A product whose factors both want a gradient takes two more backward, else one. ``Q^T`` is mixed into the weight
    before ``P`` is, so that its product has a constant factor.
    """
    if not torch.is_grad_enabled():
        return False  # a weight may be used many times, and is then mixed once
    input_gradient = input.requires_grad
    outputs, inputs, taps = weight.weight.shape[0], weight.weight.shape[1], weight.weight.shape[2:].numel()
    size = outputs * inputs * taps
    # Numbers, not flags: older compilers of torch do not multiply a symbolic size by a flag.
    by_rows, by_columns = int(weight.rows is not None), int(weight.columns is not None)
    layer = places_out * size
    inside = layer * (3 if input_gradient else 2)
    inside += size * (2 * inputs * by_columns + (3 if by_columns else 2) * outputs * by_rows)
    outside = layer * (2 if input_gradient or by_columns else 1)
    outside += layer * (0 if weight.offset is None else 2 if input_gradient else 1)
    outside += places_in * inputs**2 * by_columns * (3 if input_gradient else 2)
    outside += places_out * outputs**2 * by_rows * (3 if input_gradient or by_columns else 2)
    return bool(outside < inside)
