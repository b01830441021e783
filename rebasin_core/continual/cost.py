"""The cost of Eq. 10, the merge of Eq. 12, and what both are made of.

Everything here is a function of parameters, differentiable by their framework; nothing keeps a state.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import widened
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.continual.distillation import squared_distance
from rebasin_core.continual.heads import pick
from rebasin_core.continual.replay import Part
from rebasin_core.errors import ShapeError, UnsupportedArrayError
from rebasin_core.line.mean import lerp, mean
from rebasin_core.models.adapter import Forward, Loss
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan

__all__ = ["first_logits", "mean_loss", "merged", "middle", "penalty", "share_on_diagonal", "with_ties"]

Params = dict[str, Array]


def middle(
    theta: Params, soft: SoftPlan, residual: Mapping[str, Array], graph: PermutationGraph, ties: Mapping[str, str]
) -> Params:
    """Parameters at ``(theta + pi_P(theta)) / 2 + delta``, the argument of the cost in Eq. 10."""
    moved = soft.apply(theta, graph)
    return _with_residual(theta, lerp(_changed(theta, moved), moved, 0.5), residual, ties)


def merged(
    theta: Params,
    plan: Plan | SoftPlan,
    residual: Mapping[str, Array],
    graph: PermutationGraph,
    ties: Mapping[str, str],
    alpha: float,
    keep: float = 0.0,
) -> Params:
    """Parameters of the next model (Eq. 12): ``(1 - alpha) theta + alpha pi_P(theta) + delta``.

    Parameters
    ----------
    theta : dict of str to array
        The model before the task.
    plan : Plan or SoftPlan
        P; with a hard one and no residual, the result at alpha 0 is `theta`, and at alpha 1 the same function.
    residual : mapping of str to array
        delta, of the parameters it has an entry for.
    graph : PermutationGraph
        What the plan is of.
    ties : mapping of str to str
        Further names of tied parameters.
    alpha : float
        Place on the line, dimensionless.
    keep : float, default 0.0
        Share of `theta` in the result, dimensionless.
    """
    moved = plan.apply(theta, graph)
    new = _with_residual(theta, mean((_changed(theta, moved), moved), (1.0 - alpha, alpha)), residual, ties)
    return mean((new, theta), (1.0 - keep, keep))


def _changed(theta: Params, moved: Params) -> Params:
    """The parameters that a plan has an action for."""
    return {name: x for name, x in theta.items() if moved[name] is not x}


def _with_residual(theta: Params, changed: Params, residual: Mapping[str, Array], ties: Mapping[str, str]) -> Params:
    new = {**theta, **changed}
    new |= {name: new[name] + delta for name, delta in residual.items()}
    return with_ties(new, ties)


def with_ties(params: Params, ties: Mapping[str, str]) -> Params:
    """Give the further names of a tied parameter the values it has under its first."""
    return {**params, **{other: params[name] for other, name in ties.items()}} if ties else params


def mean_loss(
    forward: Forward, loss: Loss, params: Params, inputs: Any, parts: Sequence[Part], distillation: float = 0.0
) -> Array:
    """Weighted mean of the losses of a batch's parts, a scalar, at least in float32.

    Parameters
    ----------
    forward, loss : callable
        ``forward(params, inputs)`` and ``loss(outputs, targets)``.
    params : dict of str to array
        Where.
    inputs : inputs
        Of all parts.
    parts : sequence of Part
        Their rows.
    distillation : float, default 0.0
        What the squared distance to a part's outputs before the task counts beside the part's loss, dimensionless.

    Raises
    ------
    ShapeError, UnsupportedArrayError
        The loss returned no scalar.
    """
    outputs = forward(params, inputs)
    total: Any = None
    for part in parts:
        mine = pick(outputs, part.head)
        if len(parts) > 1:
            mine = mine[part.start : part.stop]
        if part.targets is None:
            value = squared_distance(mine, part.before)
        else:
            value = _scalar(loss(mine, part.targets))
            if distillation and part.before is not None:
                value = value + distillation * _like(squared_distance(mine, part.before), value)
        value = part.weight * (value if total is None else _like(value, total)) if part.weight != 1.0 else value
        total = value if total is None else total + value
    return total


def _like(value: Array, other: Array) -> Array:
    backend = get_backend(other)
    return backend.astype(value, backend.dtype(other))


def _scalar(value: Any) -> Array:
    shape = getattr(value, "shape", None)
    if shape is None:
        raise UnsupportedArrayError(
            f"the loss returned {type(value).__name__}; it must return a scalar of the model's framework"
        )
    if math.prod(shape) != 1:
        raise ShapeError(f"the loss returned an array of shape {tuple(shape)}; it must return the mean over the batch")
    backend = get_backend(value)
    return widened(backend, backend.reshape(value, ()))


def penalty(backend: Backend, residual: Mapping[str, Array], like: Array) -> Array:
    """Squared Euclidean norm of the residual, in the dtype of `like`, at least in float32."""
    total: Any = 0.0
    for delta in residual.values():
        wide = widened(backend, delta)
        total = total + backend.astype(backend.sum(wide * wide), backend.dtype(like))
    return total


def first_logits(graph: PermutationGraph, scale: float | None, tau: float) -> dict[str, np.ndarray[Any, Any]]:
    """Logits of every group before the first step: a height on the diagonal and zero elsewhere.

    Parameters
    ----------
    graph : PermutationGraph
        Whose groups.
    scale : float or None
        The height in units of tau; None for ``share_on_diagonal``'s.
    tau : float
        Temperature.
    """
    return {
        group: tau
        * (share_on_diagonal(perm.shape[-1]) if scale is None else scale)
        * np.broadcast_to(np.eye(perm.shape[-1]), (*perm.shape, perm.shape[-1]))
        for group, perm in Plan.identity(graph).items()
    }


def share_on_diagonal(n: int, share: float = 0.9) -> float:
    """Height of a diagonal, in units of tau, at which every unit keeps this share of itself.

    With ``c = exp(height)``, the Sinkhorn operator gives ``c / (c + n - 1)`` on the diagonal of n units.

    Examples
    --------
    >>> round(share_on_diagonal(256), 2)
    7.74
    """
    return math.log(share / (1.0 - share) * max(1, n - 1))
