"""The model adapter: a fitted `MLPClassifier` or `MLPRegressor` in, the same kind out."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from rebasin_core.errors import SettingError, ShapeError, UnsupportedModelError
from rebasin_core.models.accuracy import share_right
from rebasin_core.models.adapter import Forward, Loss
from rebasin_core.models.unit_layers import UnitLayer, UnitLayers
from rebasin_core.support.settings import no_class
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_sklearn.functional import collector, forward_function, loss_function

__all__ = ["SklearnAdapter"]

Params = dict[str, np.ndarray[Any, Any]]


class SklearnAdapter:
    """Carries fitted multi-layer perceptrons.

    The parameters are ``coefs_.0``, ``intercepts_.0``, ``coefs_.1``, ... Outputs are what a user of the model sees:
    ``predict_proba`` for a classifier, ``predict`` for a regressor.
    """

    name = "scikit-learn"

    def params(self, model: Any) -> Params:
        """Return the weight matrices (inputs, units) and the biases (units,), layer by layer."""
        _check(model)
        params = {}
        for i, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
            params[f"coefs_.{i}"] = np.asarray(W)
            params[f"intercepts_.{i}"] = np.asarray(b)
        return params

    def forward(self, model: Any) -> Forward:
        """Return the network as a differentiable function of (params, inputs)."""
        _check(model)
        return forward_function(model)

    def rebuild(self, model: Any, params: Mapping[str, Any]) -> Any:
        """Return a copy that predicts with these parameters; further training starts its optimizer afresh."""
        _check(model)
        rebuilt = copy.deepcopy(model)
        layers = range(len(model.coefs_))
        rebuilt.coefs_ = [np.array(params[f"coefs_.{i}"]) for i in layers]
        rebuilt.intercepts_ = [np.array(params[f"intercepts_.{i}"]) for i in layers]
        # The optimizer's moments and early stopping's best weights belong to the old order of the units.
        vars(rebuilt).pop("_optimizer", None)
        if hasattr(rebuilt, "_best_coefs"):
            rebuilt._best_coefs = [W.copy() for W in rebuilt.coefs_]
            rebuilt._best_intercepts = [b.copy() for b in rebuilt.intercepts_]
        return rebuilt

    def graph(self, model: Any, *example_inputs: Any, pin: Iterable[str] = ()) -> PermutationGraph:
        """Return the graph: one group per hidden layer, ``hidden_1``, ``hidden_2``, ..."""
        params = self.params(model)
        last = len(model.coefs_) - 1
        axes = {}
        reasons = {}
        for i in range(last + 1):
            before, after = (f"hidden_{i}" if i else "."), (f"hidden_{i + 1}" if i < last else ".")
            axes[f"coefs_.{i}"] = f"{before} {after}"
            axes[f"intercepts_.{i}"] = after
        reasons["coefs_.0", 0] = "the input features"
        reasons[f"coefs_.{last}", 1] = reasons[f"intercepts_.{last}", 0] = "the outputs"
        return PermutationGraph.from_axes(axes, params, pin=pin, reasons=reasons)

    def example_inputs(self, model: Any) -> tuple[Any, ...]:
        """Return standard normal features, always the same ones."""
        _check(model)
        rng = np.random.default_rng(0)
        return (rng.standard_normal((64, model.n_features_in_)).astype(model.coefs_[0].dtype),)

    def loss(self, model: Any, loss: Any) -> Loss:
        """Return the loss: a callable as it is, or the model's own training loss without its penalty for None."""
        no_class(loss=loss)
        if callable(loss):
            return loss  # type: ignore[no-any-return]
        if loss is None:
            return loss_function(model)
        raise SettingError(
            f"expected loss as a function of (outputs, targets), or None for the model's own; got {loss!r}"
        )

    def metric(self, model: Any, metric: Any) -> Loss:
        """Return the metric: a callable as it is, or ``"accuracy"`` of a classifier."""
        no_class(metric=metric)
        if callable(metric):
            return metric  # type: ignore[no-any-return]
        if metric == "accuracy" and isinstance(model, MLPClassifier):
            return lambda outputs, targets: _accuracy(model, outputs, targets)
        known = '"accuracy"' if isinstance(model, MLPClassifier) else "no name for a regressor"
        raise SettingError(f"expected a metric as a function of (outputs, targets), or {known}; got {metric!r}")

    def activations(self, model: Any, graph: PermutationGraph) -> Any:
        """Return ``collect(params, inputs)``: per hidden layer, what its units say before their activation."""
        _check(model)
        return collector(model, graph.groups)

    def unit_layers(self, model: Any, graph: PermutationGraph) -> UnitLayers:
        """Return the hidden layers that the graph leaves free."""
        collect = self.activations(model, graph)
        layers = {
            group: UnitLayer(f"coefs_.{i}", 1, f"intercepts_.{i}")
            for i in range(len(model.coefs_) - 1)
            if (group := f"hidden_{i + 1}") in graph.groups
        }

        def outputs(params: Mapping[str, Any], inputs: Any) -> list[tuple[str, Any]]:
            return [(group, z) for group, (z,) in collect(params, inputs).items()]

        return UnitLayers(layers, outputs)

    def check_pair(self, model_a: Any, model_b: Any) -> None:
        """Raise unless both are of one class, one activation, and the same classes in the same order."""
        for what in ("activation", "out_activation_", "classes_"):
            a, b = getattr(model_a, what, None), getattr(model_b, what, None)
            if not np.array_equal(a, b):  # type: ignore[arg-type]
                raise UnsupportedModelError(f"model A has {what} {a!r}, model B {b!r}; both must compute the same way")
        if type(model_a) is not type(model_b):
            raise UnsupportedModelError(
                f"model A is a {type(model_a).__name__}, model B a {type(model_b).__name__}; both must be of one class"
            )


def _check(model: Any) -> None:
    if not isinstance(model, (MLPClassifier, MLPRegressor)):
        raise UnsupportedModelError(
            f"of scikit-learn, MLPClassifier and MLPRegressor have hidden units to permute; got "
            f"{type(model).__name__}. "
            f"For a pipeline, pass its last step"
        )
    if not hasattr(model, "coefs_"):
        raise UnsupportedModelError(f"this {type(model).__name__} is not fitted yet; call fit(X, y) first")


def _accuracy(model: MLPClassifier, outputs: Any, targets: Any) -> float:
    """As `MLPClassifier.score`: for several labels at once, every one must be right."""
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    if model.out_activation_ == "logistic" and model.n_outputs_ > 1:
        if targets.shape != outputs.shape:
            raise ShapeError(
                f"accuracy needs a row of {model.n_outputs_} labels per row of outputs; got targets of shape "
                f"{targets.shape} for outputs of shape {outputs.shape}"
            )
        return share_right(np.all((outputs > 0.5) == targets.astype(bool), axis=1), np.ones(len(outputs), bool))
    return share_right(model.classes_[np.argmax(outputs, axis=1)], targets)
