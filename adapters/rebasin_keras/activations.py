"""Where a model produces the units of each group, and what they say.

The graph tells which axes of which weights are a group; a layer whose weight has the group along its output axis, and
whose output axis is known, produces it. Layers of other kinds, and layers inside nested models, are left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from rebasin_core.errors import UnsupportedModelError
from rebasin_core.symmetry.axes import Group
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_keras.functional import function_of, names_of, unmixed

__all__ = ["collector"]

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def collector(model: Any, graph: PermutationGraph) -> Callable[[Mapping[str, Any], Any], dict[str, list[Any]]]:
    """Return ``collect(params, inputs)``: per group, what every producer gives, as (samples and places, units).

    Raises
    ------
    UnsupportedModelError
        The model is subclassed, or no group is produced by a layer of a known kind.
    """
    body = unmixed(model)
    names = names_of(model, body)
    producers = [(layer, *place) for layer in body.layers if (place := _place(layer, names, graph)) is not None]
    if not producers or not getattr(body, "inputs", None):
        raise UnsupportedModelError(
            f"no group of this graph is the output of a dense, convolutional, embedding or norm layer of the graph of "
            f"{type(model).__name__}; use objectives.Midpoint(loss, data) or objectives.L2()"
        )
    # A model over the same layers that ends earlier; it shares them and adds nothing to them.
    inputs = getattr(body, "_inputs_struct", body.inputs[0])
    probe = function_of(keras.Model(inputs, [layer.output for layer, _, _ in producers]), names, model)

    def collect(params: Mapping[str, Any], inputs: Any) -> dict[str, list[Any]]:
        seen: dict[str, list[Any]] = {}
        # Flattened, since Keras gives what a single producer gives without a list around it.
        for (_, group, axis), output in zip(producers, keras.tree.flatten(probe(params, inputs)), strict=True):
            last = keras.ops.moveaxis(output, axis, -1)
            seen.setdefault(group, []).append(keras.ops.reshape(last, (-1, last.shape[-1])))
        return seen

    return collect


def _place(layer: Any, names: Mapping[int, str], graph: PermutationGraph) -> tuple[str, int] | None:
    """Group that a layer produces, and along which axis of its output."""
    weight, axis = _weight(layer)
    if weight is None or id(weight) not in names:
        return None
    units = graph.axes[names[id(weight)]].axes[-1]
    return (units.name, axis) if isinstance(units, Group) and units.parent is None else None


def _weight(layer: Any) -> tuple[Any, int]:
    """Weight whose last axis counts the outputs of a layer, and their axis in the output."""
    if isinstance(layer, keras.layers.Dense):
        return layer.kernel, -1
    if type(layer) in _CONVOLUTIONS:
        return layer.kernel, -1 if layer.data_format == "channels_last" else 1
    if isinstance(layer, keras.layers.Embedding):
        return layer.embeddings, -1
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.moving_mean, layer.axis
    return None, 0
