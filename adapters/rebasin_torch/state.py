"""The tensors of a module: by which names, and whether they can be worked with."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from rebasin_core.errors import UnsupportedModelError
from rebasin_torch.values import dtype_name

__all__ = ["check_initialized", "every_tensor", "parameters_of", "weights_device"]


def every_tensor(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under each of its names, those included that ``state_dict`` leaves out."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of ``model.state_dict()`` by name, detached, sharing the model's memory.

    Raises
    ------
    UnsupportedModelError
        The module is lazy, on ``meta``, on several devices, or holds quantized or integer weights.
    """
    check_initialized(model)
    tensors = every_tensor(model)
    _check_values(model, tensors)
    _check_devices(tensors)
    found = {name: x for name, x in model.state_dict().items() if isinstance(x, Tensor)}
    # What was made under inference_mode cannot take part in a gradient; a copy made outside of it can.
    with torch.inference_mode(False):
        return {name: x.clone() if x.is_inference() else x.detach() for name, x in found.items()}


def check_initialized(model: nn.Module) -> None:
    """Raise `UnsupportedModelError` for a lazy module that has not seen an input yet."""
    lazy = [name for name, x in every_tensor(model).items() if is_lazy(x)]
    if lazy:
        raise UnsupportedModelError(
            f"parameter {lazy[0]!r} is lazy and has no shape yet; run the model once on a batch before "
            f"it is passed here"
        )


def weights_device(tensors: dict[str, Tensor]) -> torch.device:
    """Device of the weights: the first tensor's; the CPU where there is none."""
    return next((x.device for x in tensors.values()), torch.device("cpu"))


def _check_values(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, x in tensors.items():
        if x.device.type == "meta" or isinstance(x, FakeTensor):
            raise UnsupportedModelError(
                f"{name!r} is on the meta device and has no values; load the weights first, for instance with "
                f"model.to_empty(device='cpu') and model.load_state_dict(...). To find the graph alone, "
                f"permutation_graph(model, *example_inputs) needs no values"
            )
        if x.layout is not torch.strided:
            raise UnsupportedModelError(
                f"{name!r} is a {x.layout} tensor; dense weights are needed, as from .to_dense()"
            )
        if name in parameters and not x.is_floating_point() and not x.is_quantized:
            raise UnsupportedModelError(
                f"parameter {name!r} holds {dtype_name(x)} values; weights that are compared and averaged must be "
                f"floating point. Pass the model as it was before quantization"
            )
    for name, x in _stored(model):
        if x.is_quantized:
            raise UnsupportedModelError(
                f"{name!r} is quantized ({dtype_name(x)}); pass the floating-point model it was made from, and "
                f"quantize the result"
            )


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor a state dictionary holds, those in packed containers included."""
    state: dict[str, Any] = model.state_dict()
    for name, value in state.items():
        for leaf in pytree.tree_leaves(value):
            if isinstance(leaf, Tensor):
                yield name, leaf


def _check_devices(tensors: dict[str, Tensor]) -> None:
    where: dict[torch.device, str] = {}
    for name, x in tensors.items():
        where.setdefault(x.device, name)
    if len(where) > 1:
        places = ", ".join(f"{name!r} on {device}" for device, name in where.items())
        raise UnsupportedModelError(
            f"the model is spread over several devices: {places}; move it to one, as in "
            f"model.to({str(next(iter(where)))!r})"
        )
