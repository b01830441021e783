"""Batch norms that are differentiable in their running statistics.

A soft plan mixes running means and variances like every other tensor of a channel, so they depend on the logits. The
fused kernels take them as constants; while they need a gradient, the formula is written out instead.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["differentiable_statistics"]


def differentiable_statistics(buffers: Mapping[str, Tensor]) -> AbstractContextManager[Any]:
    """Context in which norms are differentiable in these buffers; free of cost where none needs a gradient."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in buffers.values()):
        return _WrittenOut()
    return nullcontext()


class _WrittenOut(TorchFunctionMode):
    """Replaces ``batch_norm`` and ``instance_norm`` wherever a module calls them with statistics to differentiate."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.batch_norm or func is nn.functional.instance_norm:
            return _normalize(func, *args, **kwargs)
        return func(*args, **kwargs)


def _normalize(
    func: Callable[..., Tensor],
    x: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    input: Tensor | None = None,
    use_input_stats: bool | None = None,
) -> Tensor:
    # Both functions have this order; the sixth argument says whether the statistics of the batch are used.
    x = input if x is None else x
    assert x is not None
    uses_batch = training if use_input_stats is None else use_input_stats
    if uses_batch is None:
        uses_batch = func is nn.functional.instance_norm
    if uses_batch or running_mean is None or running_var is None:
        return func(x, running_mean, running_var, weight, bias, uses_batch, momentum, eps)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = torch.rsqrt(running_var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -running_mean * scale
    if bias is not None:
        shift = shift + bias
    return (x * scale.reshape(shape) + shift.reshape(shape)).to(x.dtype)
