"""Distances between weights: objectives that need no data."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import widened
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.models.model import Model
from rebasin_core.objectives.base import BoundObjective, Params
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["L2", "Cosine", "inner_product"]


def inner_product(a: Mapping[str, Array], b: Mapping[str, Array]) -> Array:
    """Sum over all parameters of ``<a, b>``; differentiable."""
    # One by one: of a network in a file, there is never more than one parameter.
    return sum(_inner_product(get_backend(x), x, b[name]) for name, x in a.items())


def _inner_product(backend: Backend, x: Array, y: Array) -> Array:
    return backend.sum(widened(backend, x) * widened(backend, y))


@dataclass(frozen=True)
class L2:
    """Squared Euclidean distance between the weights (Eq. 7 of the paper).

    ``C_L2 = |theta_A - pi_P(theta_B)|^2``, summed over every learned parameter; running statistics are left out.
    Choose it when there is no data at hand, and as a start for the others: it is fast, but weights that are near are
    not always weights that can be joined.

    Examples
    --------
    >>> import numpy as np
    >>> float(L2()({"w": np.zeros(2)}, {"w": np.array([3.0, 4.0])}))
    25.0
    """

    name: ClassVar[str] = "L2"

    def __call__(self, params_a: Params, params_b: Params) -> Array:
        """Return the squared distance between two dictionaries of arrays."""
        backend = get_backend(*params_a.values())
        return sum(
            backend.sum((widened(backend, a) - widened(backend, params_b[name])) ** 2) for name, a in params_a.items()
        )

    def bind(self, model: Model, graph: PermutationGraph) -> BoundObjective:
        """Return the objective for networks of this architecture."""
        return self.on(graph)

    def on(self, graph: PermutationGraph) -> BoundObjective:
        """Return the objective for networks of this graph; no model is needed."""
        return _bound(self.name, self, graph, least=0.0)


@dataclass(frozen=True)
class Cosine:
    """One minus the cosine between the weights, taken as one long vector.

    ``1 - <theta_A, pi_P(theta_B)> / (|theta_A| |pi_P(theta_B)|)``, dimensionless, 0 to 2. For hard plans it ranks as
    `L2` does; for soft ones it does not reward a plan for shrinking the weights by mixing them. Choose it when the
    two networks differ in scale.

    Examples
    --------
    >>> import numpy as np
    >>> float(Cosine()({"w": np.array([1.0, 0.0])}, {"w": np.array([0.0, 2.0])}))
    1.0
    """

    name: ClassVar[str] = "cosine"

    def __call__(self, params_a: Params, params_b: Params) -> Array:
        """Return one minus the cosine between two dictionaries of arrays."""
        backend = get_backend(*params_a.values())
        norms = backend.sqrt(inner_product(params_a, params_a) * inner_product(params_b, params_b))
        return 1.0 - inner_product(params_a, params_b) / norms

    def bind(self, model: Model, graph: PermutationGraph) -> BoundObjective:
        """Return the objective for networks of this architecture."""
        return self.on(graph)

    def on(self, graph: PermutationGraph) -> BoundObjective:
        """Return the objective for networks of this graph; no model is needed."""
        return _bound(self.name, self, graph)


def _bound(
    name: str, distance: Callable[[Params, Params], Array], graph: PermutationGraph, least: float | None = None
) -> BoundObjective:
    learned = graph.learned

    def value(a: Params, b: Params, sample: object) -> Array:
        return distance({n: a[n] for n in learned}, {n: b[n] for n in learned})

    return BoundObjective(
        name, value, lambda rng: itertools.repeat(None), lambda: iter([(1.0, None)]), matches_weights=True, least=least
    )
