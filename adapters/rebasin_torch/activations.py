"""Where a module produces the units of each group, and what they say.

The graph tells which axes of which parameters are a group; a layer whose weight has the group along its output axis,
and whose output axis is known, produces it. Layers of other kinds are left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_core.errors import UnsupportedModelError
from rebasin_core.symmetry.axes import Group
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_torch.copies import skeleton
from rebasin_torch.functional import as_arguments, evaluation_skeleton, run
from rebasin_torch.state import every_tensor

__all__ = ["collector", "listener", "places_of_units", "producers"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)


def producers(model: nn.Module, graph: PermutationGraph) -> dict[str, tuple[str, int]]:
    """Find the modules that produce a group: by name, the group, and along which axis of their output."""
    found = {}
    for name, module in model.named_modules():
        weight = f"{name}.weight" if name else "weight"
        place = places_of_units(module)
        if place is None or weight not in graph.axes:
            continue
        axis = graph.axes[weight].axes[place[0]]
        if isinstance(axis, Group) and axis.parent is None:
            found[name] = (axis.name, place[1])
    return found


def collector(
    model: nn.Module, graph: PermutationGraph
) -> Callable[[Mapping[str, Tensor], Any], dict[str, list[Tensor]]]:
    """Return ``collect(params, inputs)``: per group, what every producer gives, as (samples and places, units).

    Raises
    ------
    UnsupportedModelError
        No group is produced by a layer of a known kind.
    """
    places = producers(model, graph)
    if not places:
        raise UnsupportedModelError(
            f"no group of this graph is the output of a linear, convolutional, embedding or norm layer of "
            f"{type(model).__name__}; use objectives.Midpoint(loss, data) or objectives.L2()"
        )
    outputs = listener(model, {name: axis for name, (_, axis) in places.items()})

    def collect(params: Mapping[str, Tensor], inputs: Any) -> dict[str, list[Tensor]]:
        seen: dict[str, list[Tensor]] = {}
        for name, x in outputs(params, inputs):
            seen.setdefault(places[name][0], []).append(x)
        return seen

    return collect


def listener(
    model: nn.Module, axes: Mapping[str, int]
) -> Callable[[Mapping[str, Tensor], Any], list[tuple[str, Tensor]]]:
    """Return ``outputs(params, inputs)``: call by call, the name of a module and what it gives, units last.

    `axes` names the modules, and the axis of their output that counts the units; the other axes become one.
    """
    body = evaluation_skeleton(skeleton(model))
    own = {name: x.detach() for name, x in every_tensor(model).items()}
    buffers = frozenset(name for name, _ in model.named_buffers(remove_duplicate=False))

    def outputs(params: Mapping[str, Tensor], inputs: Any) -> list[tuple[str, Tensor]]:
        seen: list[tuple[str, Tensor]] = []

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(module: nn.Module, args: Any, output: Tensor) -> None:
                # A copy: what follows, such as a ReLU, may work in place.
                units = output.movedim(axes[name], -1).clone(memory_format=torch.contiguous_format)
                seen.append((name, units.flatten(0, -2)))

            return hook

        hooks = [module.register_forward_hook(keep(name)) for name, module in body.named_modules() if name in axes]
        try:
            args, kwargs = as_arguments(inputs)
            run(body, {name: params.get(name, x) for name, x in own.items()}, buffers, args, kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    return outputs


def places_of_units(module: nn.Module) -> tuple[int, int] | None:
    """Axis of the weight that counts the outputs, and axis of the output along which they lie."""
    if isinstance(module, nn.Linear):
        return 0, -1
    if isinstance(module, nn.Embedding):
        return 1, -1
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        return 0, -1
    if isinstance(module, _CONVOLUTIONS) or (isinstance(module, _NORMS) and module.weight is not None):
        return 0, 1
    if isinstance(module, _TRANSPOSED) and module.groups == 1:
        return 1, 1
    return None
