"""Layers that give each of their units a factor and a shift of its own, as the core sees them.

A linear layer does, a convolution, a norm: multiplying the weights of one unit by a number and adding another to its
bias multiplies and shifts what the unit says, and nothing else. `rebasin_core.repair` is built on it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from rebasin_core.backends.protocol import Array
from rebasin_core.errors import UnsupportedModelError
from rebasin_core.models.model import Model
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["HasUnitLayers", "Outputs", "UnitLayer", "UnitLayers", "check_unit_layers", "find_unit_layers"]

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


@runtime_checkable
class HasUnitLayers(Protocol):
    """The ability of an adapter that knows layers whose units can be scaled and shifted one by one."""

    def unit_layers(self, model: Any, graph: PermutationGraph) -> UnitLayers:
        """Return those layers whose units are a group of the graph."""
        ...


def check_unit_layers(model: Model) -> HasUnitLayers:
    """Return the model's adapter as one that knows such layers.

    Raises
    ------
    SpecError, UnsupportedModelError
        It does not.
    """
    model.check_layers("what its layers give, so that they could be repaired")
    return model.ability(HasUnitLayers, "which layers can be repaired")


def find_unit_layers(model: Model, graph: PermutationGraph) -> UnitLayers:
    """Ask the adapter for the layers that can be scaled and shifted unit by unit.

    Raises
    ------
    SpecError, UnsupportedModelError
        As `check_unit_layers`, or the model has no such layer.
    """
    found = check_unit_layers(model).unit_layers(model.source, graph)
    if not found.layers:
        raise UnsupportedModelError(
            f"no layer of this {type(model.source).__name__} can be repaired: none that is linear, convolutional or a "
            f"norm, has weights of its own, and produces a group of the graph; the graph shows its groups by "
            f"print(rebasin_core.permutation_graph(model))"
        )
    return found
