"""What a solver needs to know of an objective.

An objective maps the parameters of A, the re-based parameters of B and a sample to a scalar in the framework's own
arrays; a solver differentiates it and never looks inside. A *sample* is whatever one evaluation depends on besides the
parameters: None for a distance of weights, a batch for a midpoint loss, a batch and a place on the line for Eq. 9.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from rebasin_core.backends.protocol import Array
from rebasin_core.models.model import Model
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["BoundObjective", "Objective", "Params", "Sample", "Similarity", "check_batches"]

Params: TypeAlias = dict[str, Array]
Sample: TypeAlias = Any
Similarity: TypeAlias = Callable[[Params, Params], Mapping[str, Array]]
"""Per group, how alike every unit of A is to every unit of B."""


def check_batches(batch_size: int | None, evaluation_batches: int) -> None:
    """Raise `SettingError` for settings of an objective that cut its data into batches."""
    if batch_size is not None:
        at_least(1, batch_size=batch_size)
    at_least(1, evaluation_batches=evaluation_batches)


@dataclass(frozen=True)
class BoundObjective:
    """An objective together with the network it is about.

    Attributes
    ----------
    name : str
        For tables and messages.
    value : callable
        ``value(params_a, params_b, sample) -> scalar``, differentiable in the parameters.
    stream : callable
        ``stream(rng)`` yields samples to optimize on, without end.
    evaluation : callable
        ``evaluation()`` yields ``(weight, sample)``: the same fixed set each time, by which hard plans are compared.
        The weights sum to whatever; the mean is taken.
    matches_weights : bool
        Whether the best plan is the one that maximises the inner product of the weights, as weight matching does.
    similarity : callable, optional
        ``similarity(params_a, params_b)``: per group a matrix whose linear assignment is the group's best permutation,
        whatever the other groups do; None where groups depend on each other.
    hint : callable, optional
        As `similarity`, of another objective that is minimized in closed form: its plan is a good start for this one.
    least : float, optional
        The lowest value there can be, at which a search is over; None where it is not known.
    computes_once : bool
        Whether `value` does nothing with B's parameters but compute the network with them, once: a soft plan may then
        mix what goes in and out of a layer in place of its weights.
    """

    name: str
    value: Callable[[Params, Params, Sample], Array]
    stream: Callable[[np.random.Generator], Iterator[Sample]]
    evaluation: Callable[[], Iterator[tuple[float, Sample]]]
    matches_weights: bool = False
    similarity: Similarity | None = None
    hint: Similarity | None = None
    least: float | None = None
    computes_once: bool = False


@runtime_checkable
class Objective(Protocol):
    """Anything that can be bound to a network."""

    @property
    def name(self) -> str:
        """For tables and messages."""
        ...

    def bind(self, model: Model, graph: PermutationGraph) -> BoundObjective:
        """Return the objective for networks of this architecture."""
        ...
