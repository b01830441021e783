"""How well several networks agree in one common order of their units, and two ways to raise it.

With weights ``w_i`` that sum to 1 and ``mean = sum_i w_i pi_i(theta_i)``, what is minimised is the spread

    sum_i w_i |pi_i(theta_i) - mean|^2  =  sum_i w_i |theta_i|^2 - |mean|^2,

so that the plans alone decide how long the mean is. Over the plan of one network, the others held, that is linear in
``<pi_i(theta_i), sum_{j != i} w_j pi_j(theta_j)>``: weight matching against the mean of the others (Git Re-Basin,
Algorithm 3). Over all plans at once it is a polynomial of soft plans, along which Frank-Wolfe goes (C2M3). In both,
every network has one plan to the common order, so that the maps between networks are consistent around every cycle.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rebasin_core.backends.dtypes import resolution, widened
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.backends.scalars import as_number
from rebasin_core.line.mean import mean
from rebasin_core.objectives.base import Params
from rebasin_core.objectives.weights import inner_product
from rebasin_core.solvers.first_guess import uniform_matrices
from rebasin_core.solvers.line_search import polynomial_step
from rebasin_core.solvers.relaxation import most_at_once
from rebasin_core.solvers.weight_matching import descend
from rebasin_core.symmetry.assignment import linear_assignment
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan

__all__ = ["Agreement"]

Plans = tuple[Plan, ...]
HEIGHT = 0.5
"""How far from the centre of the doubly stochastic matrices towards known plans a search over soft plans sets out."""


@dataclass(frozen=True)
class Agreement:
    """Several networks of one architecture.

    Attributes
    ----------
    graph : PermutationGraph
        What may be permuted.
    params : tuple of dict of str to array
        Their arrays.
    weights : tuple of float
        What each counts, summing to 1.
    backend : Backend
        Of the arrays.
    """

    graph: PermutationGraph
    params: tuple[Params, ...]
    weights: tuple[float, ...]
    backend: Backend

    def spread(self, plans: Sequence[Plan]) -> float:
        """Weighted mean squared distance to the mean, over the learned parameters."""
        applied = [plan.apply(params, self.graph) for plan, params in zip(plans, self.params, strict=True)]
        moved = [{name: widened(self.backend, params[name]) for name in self.graph.learned} for params in applied]
        middle = mean(moved, self.weights)
        gaps = ({name: x - middle[name] for name, x in params.items()} for params in moved)
        squares = (as_number(inner_product(gap, gap), "a distance") for gap in gaps)
        return sum(w * square for w, square in zip(self.weights, squares, strict=True))

    def sweeps(self, plans: Plans, rng: np.random.Generator) -> Iterator[tuple[Plans, bool]]:
        """Match every network to the mean of the others, in random order, until no plan changes.

        Yields the plans after every sweep, and whether any changed. The spread never rises. The first network stays:
        moving all of them alike changes nothing.
        """
        found = list(plans)
        moved = [self._learned(plan.apply(params, self.graph)) for plan, params in zip(found, self.params, strict=True)]
        changed = True
        while changed:
            changed = False
            for i in rng.permutation(np.arange(1, len(found))):
                others = [j for j in range(len(found)) if j != i]
                target = self._weighted([moved[j] for j in others], [self.weights[j] for j in others])
                *_, (better, _) = descend(self.graph, target, self.params[i], found[i], rng, self.backend)
                if better != found[i]:
                    changed, found[i] = True, better
                    moved[i] = self._learned(better.apply(self.params[i], self.graph))
            yield tuple(found), changed

    def frank_wolfe(self, plans: Plans, max_steps: int, tol: float) -> Iterator[Plans]:
        """Follow the relaxation over all plans at once (C2M3, Algorithm 1); yield the nearest hard plans of each step.

        Every step goes from the soft plans towards the hard plans that the gradient likes best, to where the polynomial
        along the segment is lowest. It ends where the gap of Frank and Wolfe falls under `tol`, relative to the value.
        """
        backend, like = self.backend, self._like()
        soft = {key: backend.asarray(x, like=like) for key, x in self._between(plans).items()}
        degree = 2 * max(sum(most_at_once(axis) for axis in self.graph.axes[name].axes) for name in self.graph.learned)
        least = max(tol, 8 * resolution(backend.dtype(like)))
        for _ in range(max_steps):
            value, gradient = backend.value_and_grad(self._overlap, soft)
            scores = {key: -backend.to_numpy(x).astype(np.float64) for key, x in gradient.items()}
            best = {key: linear_assignment(x) for key, x in scores.items()}
            yield self._plans(best)
            corner = {key: backend.asarray(_matrices(perm), like=like) for key, perm in best.items()}
            segment = {key: corner[key] - x for key, x in soft.items()}
            slope = as_number(inner_product(gradient, segment), "a slope")
            if -slope <= least * max(abs(value), resolution("float64")):
                break

            def phi(t: float, here: Mapping[str, Array] = soft, way: Mapping[str, Array] = segment) -> float:
                return as_number(self._overlap({key: x + t * way[key] for key, x in here.items()}), "an overlap")

            step = polynomial_step(phi, value, slope, degree)
            if step == 0:
                break
            soft = {key: x + step * segment[key] for key, x in soft.items()}
        yield self._plans({key: linear_assignment(backend.to_numpy(x).astype(np.float64)) for key, x in soft.items()})

    # --- the relaxation -----------------------------------------------------------------------------------------------
    def _overlap(self, soft: Mapping[str, Array]) -> Array:
        """Minus the sum over pairs of ``w_i w_j <pi_i(theta_i), pi_j(theta_j)>``.

        Without the squares of the single networks: a soft plan would raise or lower them by mixing units.
        """
        plans = [self._of(i, soft) for i in range(len(self.params))]
        moved = [
            self._learned(SoftPlan(plan, self.graph.parents).apply(params, self.graph))
            for plan, params in zip(plans, self.params, strict=True)
        ]
        total = self._weighted(moved, self.weights)
        squares = sum(w * w * inner_product(x, x) for w, x in zip(self.weights, moved, strict=True))
        return 0.5 * (squares - inner_product(total, total))

    def _between(self, plans: Plans) -> dict[str, np.ndarray]:
        centre = uniform_matrices(self.graph)
        return {
            _key(i, group): (1.0 - HEIGHT) * centre[group] + HEIGHT * _matrices(plan[group])
            for i, plan in enumerate(plans)
            for group in self.graph.groups
        }

    def _of(self, i: int, soft: Mapping[str, Array]) -> dict[str, Array]:
        return {group: soft[_key(i, group)] for group in self.graph.groups}

    def _plans(self, perms: Mapping[str, np.ndarray]) -> Plans:
        """Plans of all networks, turned so that the first one stays as it is."""
        plans = [Plan(self._of(i, perms), self.graph.parents) for i in range(len(self.params))]
        back = plans[0].inverse()
        return tuple(plan.compose(back) for plan in plans)

    # --- arrays -------------------------------------------------------------------------------------------------------
    def _learned(self, params: Params) -> Params:
        """The learned parameters that plans move: the others add the same to every spread."""
        names = [name for name in self.graph.learned if self.graph.axes[name].groups]
        return {name: widened(self.backend, params[name]) for name in names}

    def _weighted(self, networks: Sequence[Params], weights: Sequence[float]) -> Params:
        return {name: sum(w * x[name] for w, x in zip(weights, networks, strict=True)) for name in networks[0]}

    def _like(self) -> Array:
        return next(iter(self._learned(self.params[0]).values()))


def _key(i: int, group: str) -> str:
    return f"{i}:{group}"


def _matrices(perm: np.ndarray) -> np.ndarray:
    matrices: np.ndarray = np.eye(perm.shape[-1])[perm]
    return matrices
