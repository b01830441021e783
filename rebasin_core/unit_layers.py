"""Layers that give each of their units a factor and a shift of its own, as the core sees them.

A linear layer does, a convolution, a norm: multiplying the weights of one unit by a number and adding another to its
bias multiplies and shifts what the unit says, and nothing else. `rebasin_core.repair` is built on it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rebasin_core.backends.protocol import Array
from rebasin_core.errors import SpecError, UnsupportedModelError
from rebasin_core.graph import PermutationGraph
from rebasin_core.models import Model

__all__ = ["Outputs", "UnitLayer", "UnitLayers", "check_unit_layers", "find_unit_layers"]

Outputs: TypeAlias = Callable[[Mapping[str, Array], Any], list[tuple[str, Array]]]
"""``outputs(params, inputs)``: layer by layer, in the order of the calls, its name and (samples and places, units)."""


@dataclass(frozen=True)
class UnitLayer:
    """A layer whose outputs are linear in `weight` unit by unit, plus `bias`.

    Attributes
    ----------
    weight : str
        The parameter that scales the outputs.
    axis : int
        Its axis that counts the units.
    bias : str or None
        The parameter that is added to them, shape (units,), where the layer has one.
    """

    weight: str
    axis: int
    bias: str | None


@dataclass(frozen=True)
class UnitLayers:
    """Such layers of a model, as its adapter returns them.

    Attributes
    ----------
    layers : mapping of str to UnitLayer
        By name. Only those whose units are a group of the graph, and whose parameters are no other layer's too.
    outputs : callable
        What they give in inference mode, before an activation function that belongs to the layer; a layer that is
        called several times is there several times.
    """

    layers: Mapping[str, UnitLayer]
    outputs: Outputs


def check_unit_layers(model: Model) -> Callable[[Any, PermutationGraph], UnitLayers]:
    """Return the adapter's method ``unit_layers(model, graph)``.

    Raises
    ------
    SpecError
        The model is a mapping of arrays, or computes by a function of the user's: neither says what its layers give.
    UnsupportedModelError
        The adapter has no such method.
    """
    if model.computes_by_itself:
        raise SpecError(
            "a plain mapping of arrays, or a forward= of your own, does not say what its layers give; to repair a "
            "network pass the model itself (a torch.nn.Module, a keras.Model, an MLPClassifier) and no forward="
        )
    make: Callable[[Any, PermutationGraph], UnitLayers] | None = getattr(model.adapter, "unit_layers", None)
    if make is None:
        raise UnsupportedModelError(
            f"the adapter of {model.adapter.name} does not tell which layers can be repaired; it needs a method "
            f"unit_layers(model, graph), see rebasin_core.unit_layers"
        )
    return make


def find_unit_layers(model: Model, graph: PermutationGraph) -> UnitLayers:
    """Ask the adapter for the layers that can be scaled and shifted unit by unit.

    Raises
    ------
    SpecError, UnsupportedModelError
        As `check_unit_layers`, or the model has no such layer.
    """
    found = check_unit_layers(model)(model.source, graph)
    if not found.layers:
        raise UnsupportedModelError(
            f"no layer of this {type(model.source).__name__} can be repaired: none that is linear, convolutional or a "
            f"norm, has weights of its own, and produces a group of the graph; the graph shows its groups by "
            f"print(rebasin_core.permutation_graph(model))"
        )
    return found
