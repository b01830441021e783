"""Copies of modules that share no memory with the original: with other values, or with no values at all."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_core.errors import UnsupportedModelError
from rebasin_torch.state import every_tensor

__all__ = ["copy_with", "rebuild_module", "skeleton"]


def copy_with(model: nn.Module, replace: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """Deep copy of a module in which every parameter and buffer has the values ``replace(name, tensor)`` returns.

    Parameters stay parameters with their ``requires_grad``, tied tensors stay tied (the first name decides), hooks,
    modes and attributes are copied. Gradients are not: they belong to the old values.

    Raises
    ------
    UnsupportedModelError
        Something the module holds cannot be copied.
    """
    memo: dict[int, Any] = {}
    for name, x in every_tensor(model).items():
        if id(x) not in memo:
            values = replace(name, x)
            memo[id(x)] = _like_parameter(x, values) if isinstance(x, nn.Parameter) else values
    for module in model.modules():
        for value in vars(module).values():
            # What a forward pass left behind (attention maps, features); deepcopy refuses tensors with a history.
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever a user's attribute raises
        raise UnsupportedModelError(
            f"this {type(model).__name__} cannot be copied: {type(error).__name__}: {error}. Take out of it what "
            f"copy.deepcopy(model) stumbles over (open files, loaders, tensors in a gradient)"
        ) from error


def rebuild_module(model: nn.Module, params: Mapping[str, Tensor]) -> nn.Module:
    """Copy of a module that holds `params`, on their device; what they do not name is copied from the module."""

    def replace(name: str, x: Tensor) -> Tensor:
        values = params.get(name, x)
        # Into a tensor laid out as the old one: channels-last weights stay so.
        return torch.empty_like(x, dtype=values.dtype, device=values.device, requires_grad=False).copy_(values)

    with torch.inference_mode(False), torch.no_grad():
        return copy_with(model, replace)


def skeleton(model: nn.Module) -> nn.Module:
    """Copy of a module on the ``meta`` device, to be called with ``functional_call``: all code and no values."""
    with torch.inference_mode(False), torch.no_grad():
        return copy_with(model, lambda name, x: torch.empty_like(x, device="meta", requires_grad=False))


def _like_parameter(x: nn.Parameter, values: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values, requires_grad=x.requires_grad)
    if type(x) is not nn.Parameter:
        parameter.__class__ = type(x)
    return parameter
