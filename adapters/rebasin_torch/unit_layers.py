"""Modules that give each of their units a factor and a shift of its own, and what they give."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rebasin_core.models.unit_layers import UnitLayer, UnitLayers
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_torch.activations import listener, places_of_units, producers
from rebasin_torch.state import every_tensor

__all__ = ["unit_layers"]


def unit_layers(model: nn.Module, graph: PermutationGraph) -> UnitLayers:
    """Return the modules that produce a group, and whose weight and bias are theirs alone.

    Examples
    --------
    >>> import rebasin_core as rb
    >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> x = torch.ones(5, 3)
    >>> found = unit_layers(model, rb.permutation_graph(model, x))
    >>> found.layers
    {'0': UnitLayer(weight='0.weight', axis=0, bias='0.bias')}
    >>> [(name, tuple(y.shape)) for name, y in found.outputs(model.state_dict(), x)]
    [('0', (5, 8))]
    """
    names = Counter(map(id, every_tensor(model).values()))
    layers, axes = {}, {}
    for name, (_, axis) in producers(model, graph).items():
        module = model.get_submodule(name)
        place = places_of_units(module)
        assert place is not None
        own = {kind: x for kind in ("weight", "bias") if (x := getattr(module, kind, None)) is not None}
        if all(names[id(x)] == 1 for x in own.values()):
            prefix = f"{name}." if name else ""
            layers[name] = UnitLayer(f"{prefix}weight", place[0], f"{prefix}bias" if "bias" in own else None)
            axes[name] = axis
    outputs = listener(model, axes)

    def measured(params: Mapping[str, Tensor], inputs: Any) -> list[tuple[str, Tensor]]:
        with torch.no_grad():
            return outputs(params, inputs)

    return UnitLayers(layers, measured)
