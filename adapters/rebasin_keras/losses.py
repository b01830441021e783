"""Losses and metrics as the users of Keras name them."""

import inspect
from typing import Any

import keras

from rebasin_core.backends import get_backend
from rebasin_core.errors import SettingError
from rebasin_core.models.accuracy import share_right
from rebasin_core.models.adapter import Loss
from rebasin_core.support.settings import no_class

__all__ = ["loss_function", "metric_function"]


def loss_function(model: Any, loss: Any) -> Loss:
    """Return the loss as a function of (outputs, targets), the mean over the batch.

    Parameters
    ----------
    model : keras.Model
        Whose own loss is meant by None, if it is compiled with one.
    loss : str, keras.losses.Loss, callable or None
        A name or object of Keras's, whatever its reduction; a function with parameters ``y_true`` and ``y_pred``,
        called as Keras calls it; or any other function, called as (outputs, targets).

    Raises
    ------
    SettingError
        Something else came.
    """
    if loss is None:
        loss = getattr(model, "loss", None) if model.compiled else None
        if loss is None:
            raise SettingError(
                "no loss was given and the model is not compiled with one; pass a name such as "
                "'sparse_categorical_crossentropy', an object of keras.losses, or a function of (outputs, targets)"
            )
    no_class(loss=loss)
    found = _named(keras.losses.get, loss, "loss", "'sparse_categorical_crossentropy'")
    if isinstance(found, keras.losses.Loss):
        return lambda outputs, targets: _mean_of(found, outputs, targets)
    if _takes_targets_first(found):
        return lambda outputs, targets: keras.ops.mean(found(_targets(targets), outputs))
    return found  # type: ignore[no-any-return]


def metric_function(model: Any, metric: Any) -> Loss:
    """Return the metric as a function of (outputs, targets).

    Parameters
    ----------
    model : keras.Model
        Not looked at.
    metric : str, keras.metrics.Metric or callable
        ``"accuracy"``, for which the shapes decide what is compared, as in ``compile``; a name or object of Keras's,
        which is left as it is; or a function, called as `loss_function` calls one.

    Raises
    ------
    SettingError
        Something else came.
    """
    if metric in ("accuracy", "acc"):
        return _accuracy
    no_class(metric=metric)
    found = _named(keras.metrics.get, metric, "metric", "'accuracy'")
    if isinstance(found, keras.metrics.Metric):
        return lambda outputs, targets: _stateless(found, outputs, targets)
    if _takes_targets_first(found):
        return lambda outputs, targets: keras.ops.mean(found(_targets(targets), outputs))
    return found  # type: ignore[no-any-return]


def _named(get: Any, identifier: Any, what: str, example: str) -> Any:
    try:
        found = get(identifier)
    except (ValueError, TypeError):
        found = None
    if not callable(found):
        raise SettingError(
            f"expected a {what} as a name of Keras's such as {example}, an object of Keras's, or a function of "
            f"(outputs, targets); got {identifier!r}"
        )
    return found


def _mean_of(loss: Any, outputs: Any, targets: Any) -> Any:
    if loss.reduction in ("sum", "none", None):
        # Value by value, past the reduction, which is not the mean.
        dtype = loss.dtype
        y_true, y_pred = (
            keras.tree.map_structure(lambda x: keras.ops.convert_to_tensor(x, dtype=dtype), values)
            for values in (_targets(targets), outputs)
        )
        return keras.ops.mean(loss.call(y_true, y_pred))
    return loss(_targets(targets), outputs)


def _stateless(metric: Any, outputs: Any, targets: Any) -> Any:
    state = metric.stateless_update_state(metric.stateless_reset_state(), _targets(targets), outputs)
    return metric.stateless_result(state)


def _takes_targets_first(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return "y_true" in parameters and "y_pred" in parameters


def _accuracy(outputs: Any, targets: Any) -> float:
    """Share of predictions that are right: of class numbers, of one-hot rows, or of zeros and ones."""
    backend = get_backend(outputs)
    y_pred = backend.to_numpy(outputs)
    y_true = backend.to_numpy(keras.ops.convert_to_tensor(_targets(targets)))
    if y_pred.ndim and y_pred.shape[-1] > 1:
        if y_true.shape == y_pred.shape:
            y_true = y_true.argmax(-1)
        y_pred = y_pred.argmax(-1)
    else:
        y_pred = y_pred > 0.5
    return share_right(y_pred, y_true, "one class, or one row of classes, per row of outputs")


def _targets(targets: Any) -> Any:
    """Arrays of another framework than Keras's backend by way of NumPy."""
    from rebasin_keras.functional import to_tensors

    return to_tensors(targets, keras.config.floatx())
