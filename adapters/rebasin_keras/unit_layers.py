"""Layers that give each of their units a factor and a shift of its own, and what they give.

On a private copy, dense and convolutional layers tell what they hand to their activation function, the others what they
return; nested models and layers that are called several times included.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from rebasin_core.models.unit_layers import UnitLayer, UnitLayers
from rebasin_core.symmetry.axes import Group
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_keras.copies import skeleton
from rebasin_keras.functional import Compute, function_of, names_of, unmixed

__all__ = ["unit_layers"]

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def unit_layers(model: Any, graph: PermutationGraph) -> UnitLayers:
    """Return the dense, convolutional, embedding and batch normalization layers that produce a group.

    Raises
    ------
    UnsupportedModelError
        The model cannot be copied.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import rebasin_core as rb
    >>> hidden = keras.layers.Dense(4, "relu", name="hidden")
    >>> model = keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(2)])
    >>> unit_layers(model, rb.permutation_graph(model)).layers
    {'hidden': UnitLayer(weight='hidden/kernel', axis=1, bias='hidden/bias')}
    """
    body = unmixed(skeleton(model))
    names = names_of(model, body)
    listening: list[list[tuple[str, Any]]] = []
    layers: dict[str, UnitLayer] = {}
    for layer in body._flatten_layers():
        weight, bias = _parameters(layer)
        if id(weight) not in names:
            continue
        place = names[id(weight)]
        units = graph.axes[place].axes[-1]
        if isinstance(units, Group) and units.parent is None:
            name = place.rpartition("/")[0]
            layers[name] = UnitLayer(place, len(weight.shape) - 1, None if bias is None else names[id(bias)])
            _listen(layer, name, listening)
    calls: list[str] = []

    def measuring(compute: Compute) -> Compute:
        def measure(params: Mapping[str, Any], inputs: Any) -> list[Any]:
            notes: list[tuple[str, Any]] = []
            listening.append(notes)
            try:
                compute(params, inputs)
            finally:
                listening.pop()
            # Compiled code returns arrays alone; the names are the same in every call.
            calls[:] = [name for name, _ in notes]
            return [keras.ops.stop_gradient(x) for _, x in notes]

        return measure

    measure = function_of(body, names, model, measuring)

    def outputs(params: Mapping[str, Any], inputs: Any) -> list[tuple[str, Any]]:
        found = measure(params, inputs)
        return list(zip(calls, found, strict=True))

    return UnitLayers(layers, outputs)


def _parameters(layer: Any) -> tuple[Any, Any]:
    """Weight whose last axis counts the outputs of a layer, and what is added to them; None where there is none."""
    kind = type(layer)  # what a class of the user's computes is not known
    if kind is keras.layers.Dense or kind in _CONVOLUTIONS:
        return layer.kernel, layer.bias
    if kind is keras.layers.Embedding:
        return layer.embeddings, None
    if kind is keras.layers.BatchNormalization:
        return layer.gamma, layer.beta
    return None, None


def _listen(layer: Any, name: str, listening: list[list[tuple[str, Any]]]) -> None:
    """Make a layer of a private copy tell what its units say."""
    axis = -1
    if type(layer) in _CONVOLUTIONS:
        axis = -1 if layer.data_format == "channels_last" else 1
    elif type(layer) is keras.layers.BatchNormalization:
        axis = layer.axis

    def told(compute: Callable[..., Any], before: bool) -> Callable[..., Any]:
        def call(x: Any, **settings: Any) -> Any:
            y = compute(x, **settings)
            if listening:
                units = keras.ops.moveaxis(x if before else y, axis, -1)
                listening[-1].append((name, keras.ops.reshape(units, (-1, units.shape[-1]))))
            return y

        return call

    activation = getattr(layer, "activation", None)
    if activation is None:
        layer.call = told(layer.call, before=False)
    elif isinstance(activation, keras.Layer):  # which torch, as a backend, lets nothing else take the place of
        activation.call = told(activation.call, before=True)
    else:
        layer.activation = told(activation, before=True)
