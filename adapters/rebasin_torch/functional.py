"""A module as a function of its tensors and its inputs.

The function runs on a private copy in eval mode: no dropout, no update of running statistics, whatever mode the user's
module is in. Buffers are handed in as copies, so that code which counts or caches in them leaves no trace; nor does
code that does so in attributes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from rebasin_core.errors import DataError, RebasinError
from rebasin_torch.copies import skeleton
from rebasin_torch.leftovers import alone_and_traceless
from rebasin_torch.norms import differentiable_statistics
from rebasin_torch.state import every_tensor, weights_device

__all__ = ["as_arguments", "evaluation_skeleton", "forward_function", "run", "to_tensors"]


def forward_function(model: nn.Module) -> Callable[[Mapping[str, Tensor], Any], Any]:
    """Return ``forward(params, inputs) -> outputs``, differentiable in the parameters."""
    body = evaluation_skeleton(skeleton(model))
    own = {name: x.detach() for name, x in every_tensor(model).items()}
    buffers = frozenset(name for name, _ in model.named_buffers(remove_duplicate=False))

    def forward(params: Mapping[str, Tensor], inputs: Any) -> Any:
        args, kwargs = as_arguments(inputs)
        return run(body, {name: params.get(name, x) for name, x in own.items()}, buffers, args, kwargs)

    return forward


def run(
    body: nn.Module,
    tensors: Mapping[str, Tensor],
    buffers: frozenset[str],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Call a skeleton with these tensors; inputs are moved to their device first.

    Raises
    ------
    DataError
        The module cannot compute with these inputs; torch's reason is kept.
    """
    state = {name: x.clone() if name in buffers else x for name, x in tensors.items()}
    args, kwargs = to_tensors((args, dict(kwargs)), state)
    try:
        statistics = {name: state[name] for name in buffers if name in state}
        with alone_and_traceless(body), differentiable_statistics(statistics):
            # The names of a tied tensor all have their value, which is the same; torch need not tie them again.
            return functional_call(body, state, args, dict(kwargs), tie_weights=False)
    except (RebasinError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{type(body).__name__} cannot compute with inputs {_describe(args, kwargs)}: {error}. Pass inputs as the "
            f"model takes them: one tensor, a tuple of positional arguments, or a dict of keyword arguments"
        ) from error


def evaluation_skeleton(body: nn.Module) -> nn.Module:
    """Put a private copy into eval mode, in place, in a way that leaves it differentiable on every device."""
    body.eval()
    for module in body.modules():
        if isinstance(module, nn.RNNBase):
            # cuDNN differentiates recurrent layers in train mode only, which differs from eval mode by dropout alone.
            module.dropout = 0.0
            module.train()
    return body


def as_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read the inputs of a batch: a tensor, a tuple or list of positional arguments, or a mapping of keyword ones.

    A mapping at the end of a tuple holds keyword arguments, as for `rebasin_core.permutation_graph`.
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        if inputs and isinstance(inputs[-1], Mapping):
            return tuple(inputs[:-1]), dict(inputs[-1])
        return tuple(inputs), {}
    return (inputs,), {}


def to_tensors(values: Any, state: Mapping[str, Tensor]) -> Any:
    """Move nested tensors to the device of the weights, and turn NumPy arrays into tensors of their dtype."""
    device = weights_device(dict(state))
    floating = next((x.dtype for x in state.values() if x.is_floating_point()), torch.get_default_dtype())

    def convert(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            x = torch.tensor(np.array(value, order="C"))
            return x.to(device, floating if x.is_floating_point() else None)
        if not isinstance(value, Tensor):
            return value
        with torch.inference_mode(False):
            return value.clone().to(device) if value.is_inference() else value.to(device)

    return pytree.tree_map(convert, values)


def _describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    shown = [_short(x) for x in args] + [f"{name}={_short(x)}" for name, x in kwargs.items()]
    return f"({', '.join(shown)})"


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__
