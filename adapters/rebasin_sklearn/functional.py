"""scikit-learn's perceptrons as differentiable functions, for autograd."""

from collections.abc import Callable, Collection
from typing import Any

import autograd.numpy as anp
import numpy as np
from scipy.special import xlogy
from sklearn.neural_network import MLPRegressor

from rebasin_core.models.adapter import Forward, Loss

__all__ = ["collector", "forward_function", "loss_function"]


def _softmax(z: Any) -> Any:
    e = anp.exp(z - anp.max(z, axis=1, keepdims=True))
    return e / anp.sum(e, axis=1, keepdims=True)


def _logistic(z: Any) -> Any:
    # tanh does not overflow, and 1 / (1 + exp(-z)) is (1 + tanh(z / 2)) / 2.
    return 0.5 * (1.0 + anp.tanh(0.5 * z))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda z: z,
    "relu": lambda z: anp.maximum(z, 0),
    "tanh": anp.tanh,
    "logistic": _logistic,
    "softmax": _softmax,
    "exp": anp.exp,
}


def forward_function(model: Any) -> Forward:
    """Return ``forward(params, inputs)``, equal to `predict_proba` of a classifier and `predict` of a regressor."""
    layers = len(model.coefs_)
    hidden, out = ACTIVATIONS[model.activation], ACTIVATIONS[model.out_activation_]
    single_label = hasattr(model, "classes_") and model.out_activation_ == "logistic" and model.n_outputs_ == 1

    def forward(params: dict[str, Any], inputs: Any) -> Any:
        h = np.asarray(inputs)
        for i in range(layers):
            h = anp.dot(h, params[f"coefs_.{i}"]) + params[f"intercepts_.{i}"]
            h = hidden(h) if i < layers - 1 else out(h)
        if single_label:
            return anp.concatenate([1.0 - h, h], axis=1)
        return h[:, 0] if isinstance(model, MLPRegressor) and model.n_outputs_ == 1 else h

    return forward


def collector(model: Any, groups: Collection[str]) -> Callable[[dict[str, Any], Any], dict[str, list[Any]]]:
    """Return ``collect(params, inputs)``: what the units of every hidden layer say before their activation."""
    layers, hidden = len(model.coefs_), ACTIVATIONS[model.activation]

    def collect(params: dict[str, Any], inputs: Any) -> dict[str, list[Any]]:
        seen, h = {}, np.asarray(inputs)
        for i in range(layers - 1):
            z = anp.dot(h, params[f"coefs_.{i}"]) + params[f"intercepts_.{i}"]
            seen[f"hidden_{i + 1}"] = [z]
            h = hidden(z)
        return {group: z for group, z in seen.items() if group in groups}

    return collect


def loss_function(model: Any) -> Loss:
    """Return the loss the model was trained with, per sample and without its L2 penalty."""
    if isinstance(model, MLPRegressor) and model.out_activation_ == "exp":
        return _half_poisson_deviance
    if isinstance(model, MLPRegressor):
        return _half_squared_error
    if model.out_activation_ == "softmax" or model.n_outputs_ == 1:
        return lambda outputs, targets: _log_loss(outputs, _one_hot(targets, model.classes_))
    return lambda outputs, targets: _binary_log_loss(outputs, np.asarray(targets))


def _half_squared_error(outputs: Any, targets: Any) -> Any:
    return 0.5 * anp.mean((outputs - np.asarray(targets).reshape(outputs.shape)) ** 2)


def _half_poisson_deviance(outputs: Any, targets: Any) -> Any:
    y = np.asarray(targets).reshape(outputs.shape)
    return anp.sum(xlogy(y, y) - y - y * anp.log(outputs) + outputs) / len(y)


def _one_hot(targets: Any, classes: Any) -> Any:
    return np.asarray(targets).reshape(-1, 1) == np.asarray(classes)[None, :]


def _clipped(p: Any) -> Any:
    """As scikit-learn: away from 0 and 1 by the resolution of the dtype, so that the logarithm is finite."""
    eps = float(np.finfo(getattr(p, "dtype", np.float64)).eps)
    return anp.clip(p, eps, 1 - eps)


def _log_loss(probabilities: Any, one_hot: Any) -> Any:
    return -anp.sum(anp.log(_clipped(probabilities)) * one_hot) / len(one_hot)


def _binary_log_loss(probabilities: Any, labels: Any) -> Any:
    p = _clipped(probabilities)
    return -anp.sum(labels * anp.log(p) + (1 - labels) * anp.log(1 - p)) / len(labels)
