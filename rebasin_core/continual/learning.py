"""The optimisation of one task: plain training of the first, Eq. 10 to 12 of the paper for those after it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rebasin_core.backends.descent import minimize
from rebasin_core.backends.dtypes import all_finite
from rebasin_core.backends.optimizers import Optimizer
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.continual.cost import Params, first_logits, mean_loss, merged, middle, penalty, with_ties
from rebasin_core.continual.course import Course
from rebasin_core.continual.replay import Part
from rebasin_core.continual.settings import Settings
from rebasin_core.errors import NonFiniteError
from rebasin_core.models.adapter import Forward, Loss
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan, matrices_of

__all__ = ["Network", "rebase", "train"]

Samples = Iterator[tuple[Any, list[Part]]]

LOGITS, RESIDUAL = "logits:", "residual:"


@dataclass(frozen=True)
class Network:
    """What is optimised.

    Attributes
    ----------
    backend : Backend
        Of the parameters.
    forward : callable
        ``forward(params, inputs) -> outputs``.
    loss : callable
        ``loss(outputs, targets) -> scalar``.
    graph : PermutationGraph
        With the groups that may be permuted.
    learned : tuple of str
        Parameters that are trained, and that get a residual.
    ties : mapping of str to str
        Further names of tied parameters.
    """

    backend: Backend
    forward: Forward
    loss: Loss
    graph: PermutationGraph
    learned: tuple[str, ...]
    ties: Mapping[str, str]


def train(network: Network, theta: Params, settings: Settings, samples: Samples, course: Course) -> Params:
    """Minimize the loss over the learned parameters themselves; returns all parameters."""

    def cost(x: dict[str, Array], step: int) -> Array:
        inputs, parts = next(samples)
        params = with_ties({**theta, **x}, network.ties)
        return mean_loss(network.forward, network.loss, params, inputs, parts)

    start = {name: theta[name] for name in network.learned}
    # The path from an untrained model is no average of good ones: what is averaged are later tasks.
    found = minimize(network.backend, cost, start, settings.first_optimizer, course.steps, course)
    return _checked(network, with_ties({**theta, **found}, network.ties))


def rebase(
    network: Network, theta: Params, settings: Settings, samples: Samples, course: Course
) -> tuple[Params, int, float]:
    """Minimize Eq. 10 over logits and residual together, and merge by Eq. 12.

    Returns
    -------
    params : dict of str to array
        Of the next model.
    moved : int
        Units that the hard plan moves.
    residual : float
        Norm of the residual over that of the weights it was added to.
    """
    backend, graph = network.backend, network.graph
    like = theta[next((name for name in network.learned if graph.axes[name].groups), network.learned[0])]
    logits = first_logits(graph, settings.init_scale, settings.tau)
    start = {LOGITS + group: backend.asarray(x, like=like) for group, x in logits.items()}
    start |= {RESIDUAL + name: backend.full(tuple(theta[name].shape), 0.0, theta[name]) for name in network.learned}
    optimizers: dict[str, Optimizer] = {
        name: settings.optimizer if name.startswith(LOGITS) else settings.residual_optimizer for name in start
    }

    def soft(x: Mapping[str, Array]) -> SoftPlan:
        return SoftPlan(matrices_of(_part(x, LOGITS), settings.tau, settings.num_iters), graph.parents)

    def cost(x: dict[str, Array], step: int) -> Array:
        inputs, parts = next(samples)
        residual = _part(x, RESIDUAL)
        params = middle(theta, soft(x), residual, graph, network.ties)
        value = mean_loss(network.forward, network.loss, params, inputs, parts, settings.distillation)
        return value + settings.beta * penalty(backend, residual, value) if settings.beta else value

    found = course.end(minimize(backend, cost, start, optimizers, course.steps, course))
    residual, plan = _part(found, RESIDUAL), soft(found)
    if settings.scale_residual:
        share = 4.0 * settings.alpha * (1.0 - settings.alpha)
        residual = {name: share * delta for name, delta in residual.items()}
    hard: Plan = plan.harden()
    new = merged(theta, hard if settings.hard else plan, residual, graph, network.ties, settings.alpha, settings.keep)
    moved = sum(hard.moved(group) for group in hard)
    weights = _norm(backend, [theta[name] for name in network.learned])
    return _checked(network, new), moved, _norm(backend, list(residual.values())) / (weights or 1.0)


def _part(x: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): values for name, values in x.items() if name.startswith(prefix)}


def _norm(backend: Backend, arrays: list[Array]) -> float:
    return float(sum((backend.to_numpy(x).astype("float64") ** 2).sum() for x in arrays) ** 0.5)


def _checked(network: Network, params: Params) -> Params:
    """Raise where the last step, whose result no loss has seen, has left the numbers."""
    for name in network.learned:
        if not all_finite(network.backend, params[name]):
            raise NonFiniteError(
                f"Parameter {name!r} holds NaN or infinity after the last step; expected finite numbers. Lower the "
                f"learning rate."
            )
    return params
