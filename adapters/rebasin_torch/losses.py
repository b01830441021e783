"""Losses and metrics as torch's users name them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rebasin_core.errors import SettingError, ShapeError
from rebasin_core.models.accuracy import share_right
from rebasin_core.models.adapter import Loss
from rebasin_core.support.settings import no_class
from rebasin_torch.values import to_host

__all__ = ["loss_function", "metric_function"]


def loss_function(loss: Any) -> Loss:
    """Return the loss meant by a callable, a name of ``torch.nn.functional``, or None for the model's own.

    A model has a loss of its own where its outputs hold one, as those of Hugging Face do when the inputs have labels.
    Targets are moved to the device of the outputs.

    Raises
    ------
    SettingError
        Something else came.
    """
    if loss is None:
        return _own_loss
    if isinstance(loss, str):
        loss = getattr(nn.functional, loss, None) or loss
    no_class(loss=loss)
    if not callable(loss):
        raise SettingError(
            f"expected loss as a function of (outputs, targets), a name in torch.nn.functional such as "
            f"'cross_entropy', or None for a model whose outputs hold their loss; got {loss!r}"
        )
    return _with_targets_moved(loss)


def metric_function(metric: Any) -> Loss:
    """Return the metric meant by a callable or by ``"accuracy"``."""
    if metric == "accuracy":
        return _with_targets_moved(_accuracy)
    no_class(metric=metric)
    if callable(metric):
        return _with_targets_moved(metric)
    raise SettingError(f'expected a metric as a function of (outputs, targets) or "accuracy", got {metric!r}')


def _with_targets_moved(function: Any) -> Loss:
    def moved(outputs: Any, targets: Any) -> Any:
        device = next((x.device for x in pytree.tree_leaves(_plain(outputs)) if isinstance(x, Tensor)), None)
        if device is not None:
            targets = pytree.tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, targets)
        return function(outputs, targets)

    return moved


def _own_loss(outputs: Any, targets: Any) -> Any:
    own = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if own is None:
        raise SettingError(
            "no loss was given and the model's outputs hold none; pass a function of (outputs, targets), for instance "
            "torch.nn.functional.cross_entropy, or put the labels among the inputs of a model that computes its loss"
        )
    return own


def _accuracy(outputs: Any, targets: Any) -> float:
    """Share of predictions that are right; classes along axis 1, as for torch's cross_entropy, or else the last."""
    if isinstance(outputs, Mapping):
        outputs = outputs.get("logits")
    if not isinstance(outputs, Tensor):
        raise SettingError(
            'the metric "accuracy" needs one tensor of class scores, or outputs with a "logits" entry; pass a function '
            "of (outputs, targets) instead"
        )
    targets = torch.as_tensor(targets)
    shape = tuple(outputs.shape)
    by_channel = outputs.ndim >= 2 and tuple(targets.shape) == (*shape[:1], *shape[2:])
    if not by_channel and tuple(targets.shape) != shape[:-1]:
        raise ShapeError(
            f"accuracy needs one class per row of outputs; got targets of shape {tuple(targets.shape)} for outputs of "
            f"shape {shape}"
        )
    return share_right(to_host(outputs.argmax(1 if by_channel else -1)), to_host(targets))


def _plain(outputs: Any) -> Any:
    """Outputs of Hugging Face are mappings that torch's tree functions may not know."""
    return dict(outputs) if isinstance(outputs, Mapping) else outputs
