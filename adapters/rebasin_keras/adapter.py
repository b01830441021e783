"""The model adapter: a ``keras.Model`` in, one of the same kind out, on whichever backend Keras computes with."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np

from rebasin_core.backends.dtypes import is_floating
from rebasin_core.errors import UnsupportedModelError
from rebasin_core.models.adapter import Forward, Loss
from rebasin_core.models.batch_norms import BatchNorms
from rebasin_core.models.unit_layers import UnitLayers
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_keras.activations import collector
from rebasin_keras.batch_norms import batch_norms
from rebasin_keras.copies import rebuild_model
from rebasin_keras.functional import forward_function
from rebasin_keras.losses import loss_function, metric_function
from rebasin_keras.pairs import check_pair
from rebasin_keras.random_state import keep_random_state
from rebasin_keras.unit_layers import unit_layers
from rebasin_keras.variables import check_built, parameters_of

__all__ = ["KerasAdapter"]

_EXAMPLES = 4


class KerasAdapter:
    """Carries models of Keras 3.

    The parameters are ``model.weights``, trainable or not, by their paths; layers that Keras numbered are numbered from
    the start of each model. Nothing of the user's model changes: computations go through ``stateless_call``, results
    are copies.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import rebasin_core as rb
    >>> layers = [keras.Input((3,)), keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(2, name="out")]
    >>> model = keras.Sequential(layers)
    >>> graph = rb.permutation_graph(model)
    >>> graph.groups
    {'hidden': 8}
    >>> other = rb.permute(model, rb.Plan.random(graph, seed=0), graph)
    >>> x = np.ones((5, 3), "float32")
    >>> bool(keras.ops.all(keras.ops.abs(model(x) - other(x)) < 1e-6))
    True
    """

    name = "keras"

    def params(self, model: Any) -> dict[str, Any]:
        """Return a snapshot of the weights by name, as arrays of Keras's backend."""
        _check(model)
        return parameters_of(model)

    def forward(self, model: Any) -> Forward:
        """Return the model as a function of (params, inputs), in inference mode and in full precision."""
        _check(model)
        return forward_function(model)

    def rebuild(self, model: Any, params: Mapping[str, Any]) -> Any:
        """Return a copy of the model that holds these parameters."""
        return rebuild_model(model, params)

    def graph(self, model: Any, *example_inputs: Any, pin: Iterable[str] = ()) -> PermutationGraph:
        """Walk the layers of a Functional or Sequential model; nothing is computed."""
        # Its rules for all of Keras's layers are not needed by those who bring their own graph.
        from rebasin_keras.tracing import trace

        _check(model)
        return trace(model, *example_inputs, pin=pin)

    def example_inputs(self, model: Any) -> tuple[Any, ...] | None:
        """Return random inputs of the model's declared shapes, always the same; None where it leaves a size open."""
        declared = getattr(model, "inputs", None)
        if not declared or any(None in tuple(x.shape)[1:] for x in declared):
            return None
        rng = np.random.default_rng(0)

        def draw(spec: Any) -> Any:
            shape = (_EXAMPLES, *spec.shape[1:])
            # Whole numbers are most likely indices, of which every table has the first two.
            return (
                rng.standard_normal(shape).astype("float32") if is_floating(spec.dtype) else rng.integers(0, 2, shape)
            )

        # The nested inputs as the model was built with them; a Sequential model has one.
        structure = getattr(model, "_inputs_struct", declared[0])
        return (keras.tree.map_structure(draw, structure),)

    def loss(self, model: Any, loss: Any) -> Loss:
        """Return the loss: a name or object of Keras's, a callable, or None for the one the model is compiled with."""
        return loss_function(model, loss)

    def metric(self, model: Any, metric: Any) -> Loss:
        """Return the metric: a name or object of Keras's, or a callable."""
        return metric_function(model, metric)

    def check_pair(self, model_a: Any, model_b: Any) -> None:
        """Raise unless both have the same layers, settings, wiring and dtypes."""
        check_pair(model_a, model_b)

    def activations(self, model: Any, graph: PermutationGraph) -> Any:
        """Return ``collect(params, inputs)``: per group, what every layer that produces it gives, (samples, units)."""
        return collector(model, graph)

    def batch_norms(self, model: Any) -> BatchNorms | None:
        """Return the passes in which batch normalization layers use the statistics of the batch."""
        _check(model)
        return batch_norms(model)

    def unit_layers(self, model: Any, graph: PermutationGraph) -> UnitLayers:
        """Return the layers that can be scaled and shifted unit by unit."""
        _check(model)
        return unit_layers(model, graph)

    def keep_random_state(self, seed: int | None = None) -> AbstractContextManager[None]:
        """Give Python, NumPy and torch their random states back afterwards; with a seed, start from that."""
        return keep_random_state(seed)


def _check(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(
            f"expected a keras.Model, got {type(model).__name__}. Wrap a layer, as in "
            f"keras.Sequential([keras.Input(shape), layer])"
        )
    check_built(model)
