"""An objective as a function of doubly stochastic matrices, one per group: what a search over soft plans minimizes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from rebasin_core.backends.dtypes import widened
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.backends.scalars import as_number
from rebasin_core.errors import NonFiniteError
from rebasin_core.objectives.base import BoundObjective, Sample
from rebasin_core.objectives.weights import inner_product
from rebasin_core.solvers.fits import check_differentiable
from rebasin_core.solvers.problem import Problem
from rebasin_core.symmetry.axes import Axis, Gather, Group, Product, Sum
from rebasin_core.symmetry.soft_plan import SoftPlan

__all__ = ["Matrices", "Relaxation", "most_at_once", "relax"]

Matrices: TypeAlias = dict[str, Array]
"""Doubly stochastic matrices per group, shape (n, n) or (parent, n, n)."""


@dataclass(frozen=True)
class Relaxation:
    """A mean of differentiable functions of the matrices; a hard plan is the better the lower it is.

    Attributes
    ----------
    objective : BoundObjective
        What is relaxed.
    backend : Backend
        Of the matrices.
    like : array
        The matrices have its dtype and are on its device.
    parts : tuple of (float, callable)
        Weights that sum to 1, and functions of the matrices that return a scalar.
    degree : int, optional
        Along a segment the function is a polynomial of at most this degree; None where it is not.
    """

    objective: BoundObjective
    backend: Backend
    like: Array
    parts: tuple[tuple[float, Callable[[Matrices], Array]], ...]
    degree: int | None = None

    def value(self, matrices: Matrices) -> float:
        """Value of a soft plan."""
        return sum(w * as_number(f(matrices), f"the objective {self.objective.name!r}") for w, f in self.parts)

    def value_and_grad(self, matrices: Matrices) -> tuple[float, Matrices]:
        """Value and gradient, part by part, so that one part at a time is in memory.

        Raises
        ------
        NonFiniteError
            The value is NaN or infinite.
        SettingError
            The objective has no gradient.
        """
        total = 0.0
        gradient: Matrices = {}
        for w, f in self.parts:

            def checked(x: Matrices, f: Callable[[Matrices], Array] = f) -> Array:
                return check_differentiable(f(x), self.objective)

            value, part = self.backend.value_and_grad(checked, matrices)
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"the objective {self.objective.name!r} is {value} for a soft plan; check the loss and the data"
                )
            total += w * value
            gradient = {g: gradient[g] + w * x if g in gradient else w * x for g, x in part.items()}
        return total, gradient


def relax(problem: Problem) -> Relaxation:
    """Relax the objective of a problem to soft plans.

    For a distance of weights that is minus the inner product ``<A, pi_P(B)>`` of the learned parameters: it ranks hard
    plans as the distance does, and unlike the distance it does not reward a soft plan for shrinking the weights. It is
    a polynomial in the matrices. Any other objective is averaged over its fixed evaluation set, by which hard plans are
    compared.
    """
    like = widened(problem.backend, problem.like)
    if problem.objective.matches_weights:
        return _inner_product(problem, like)
    samples = list(problem.objective.evaluation())
    total = sum(w for w, _ in samples)
    parts = tuple((w / total, _at(problem, sample)) for w, sample in samples)
    return Relaxation(problem.objective, problem.backend, like, parts)


def _at(problem: Problem, sample: Sample) -> Callable[[Matrices], Array]:
    def value(matrices: Matrices) -> Array:
        return problem.soft_value(SoftPlan(matrices, problem.graph.parents), sample)

    return value


def _inner_product(problem: Problem, like: Array) -> Relaxation:
    graph, backend = problem.graph, problem.backend
    a = {name: widened(backend, problem.params_a[name]) for name in problem.learned}
    b = {name: widened(backend, x) for name, x in problem.params_b.items()}

    def value(matrices: Matrices) -> Array:
        mixed = SoftPlan(matrices, graph.parents).apply(b, graph)
        return -inner_product(a, {name: mixed[name] for name in a})

    degree = max(sum(most_at_once(axis) for axis in graph.axes[name].axes) for name in a)
    return Relaxation(problem.objective, backend, like, ((1.0, value),), degree)


def most_at_once(axis: Axis) -> int:
    """How many matrices are multiplied into one entry along an axis, at most."""
    match axis:
        case Group():
            return 1
        case Product(factors):
            return sum(most_at_once(factor) for factor in factors)
        case Sum(terms):
            return max(most_at_once(term) for term in terms)
        case Gather(inner, _):
            return most_at_once(inner)
    return 0
