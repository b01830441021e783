"""Batch normalization layers of a model: run with the statistics of the batch, and these statistics measured.

On a private copy, the layers compute as in training, whatever the rest does, and with a momentum of 0 their moving
statistics become those of the batch, as Keras defines them. ``stateless_call`` lets them write to nothing but its own
scope.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import keras

from rebasin_core.errors import DataError
from rebasin_core.models.batch_norms import BatchNorms
from rebasin_keras.copies import skeleton
from rebasin_keras.functional import Compute, function_of, names_of, unmixed

__all__ = ["batch_norms"]

Notes: TypeAlias = dict[str, list[Any]]
"""Per statistic its value after each call of the layer."""


def batch_norms(model: Any) -> BatchNorms | None:
    """Return the passes over the ``BatchNormalization`` layers, nested ones too; None where there are none.

    Layers that are frozen count: to average their weights makes their statistics as wrong as any others.

    Raises
    ------
    UnsupportedModelError
        The model cannot be copied.

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="norm")])
    >>> params = {name: v.value for name, v in zip(["norm/gamma", "norm/beta"], model.trainable_weights)}
    >>> params |= {"norm/moving_mean": model.weights[2].value, "norm/moving_variance": model.weights[3].value}
    >>> found = batch_norms(model).measure(params, np.array([[1.0, 2.0], [3.0, 6.0]]))
    >>> [float(variance) for variance in found["norm/moving_variance"]]
    [1.0, 4.0]
    """
    if not any(map(_is_batch_norm, model._flatten_layers())):
        return None
    body = unmixed(skeleton(model))
    names = names_of(model, body)
    listening: list[Notes] = []
    for layer in filter(_is_batch_norm, body._flatten_layers()):
        _normalize_by_the_batch(layer, names, listening)

    def measuring(compute: Compute) -> Compute:
        def measure(params: Mapping[str, Any], inputs: Any) -> dict[str, Any]:
            notes: Notes = {}
            listening.append(notes)
            try:
                compute(params, inputs)
            finally:
                listening.pop()
            return {name: keras.ops.stop_gradient(sum(calls) / len(calls)) for name, calls in notes.items()}

        return measure

    return BatchNorms(function_of(body, names, model), function_of(body, names, model, measuring))


def _is_batch_norm(layer: Any) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _normalize_by_the_batch(layer: Any, names: Mapping[int, str], listening: list[Notes]) -> None:
    """Make a layer of a private copy compute as in training, by itself, and tell its statistics after each call."""
    compute = layer.call
    layer.momentum = 0.0
    layer.trainable = True  # a frozen layer never looks at the batch
    layer.synchronized = False
    layer.renorm = False  # it would normalize by the old statistics, nearly

    def call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        _check_count(layer, inputs)
        outputs = compute(inputs, training=True, mask=mask)
        for variable in (layer.moving_mean, layer.moving_variance):
            if listening:
                listening[-1].setdefault(names[id(variable)], []).append(variable.value)
        return outputs

    layer.call = call


def _check_count(layer: Any, inputs: Any) -> None:
    axis = layer.axis % len(inputs.shape)
    others = [size for i, size in enumerate(inputs.shape) if i != axis]
    if None not in others and math.prod(others) <= 1:
        error = DataError(
            f"batch normalization by the batch needs more than one value per channel, and layer {layer.name!r} got "
            f"{list(inputs.shape)}; use larger batches (batch_size=, or a data set that drops its remainder), or "
            f"normalization='running' in an objective"
        )
        # As Keras marks an error that has been through its hands: it would wrap this one in a report of the call.
        vars(error)["_keras_call_info_injected"] = True
        raise error
