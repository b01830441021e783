"""Frank-Wolfe over doubly stochastic matrices: all groups at once, a linear assignment each (C2M3, 2405.17897)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice
from typing import ClassVar

import numpy as np

from rebasin_core.backends.dtypes import resolution
from rebasin_core.backends.protocol import Array
from rebasin_core.backends.scalars import as_number
from rebasin_core.objectives.weights import inner_product
from rebasin_core.solvers.base import Solution
from rebasin_core.solvers.first_guess import uniform_matrices
from rebasin_core.solvers.line_search import backtracking_step, polynomial_step
from rebasin_core.solvers.matchings import see_matchings
from rebasin_core.solvers.polish import polish
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.relaxation import Matrices, Relaxation, relax
from rebasin_core.solvers.search import OVER, Search, run_search
from rebasin_core.support.progress import Progress, progress_bar
from rebasin_core.support.settings import at_least, not_negative
from rebasin_core.symmetry.assignment import linear_assignment
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan

__all__ = ["FrankWolfe"]

# How far the starts lie from the center towards the best plan so far, in turn.
HEIGHTS = (0.0, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class FrankWolfe:
    """Minimize any differentiable objective over soft plans by steps towards hard ones.

    The objective is linearized at the doubly stochastic matrices ``P`` of all groups. The hard plan that is best for
    the linearization is a linear assignment per group; the step goes part of the way from P to it,
    ``P + t (V - P)``, which is doubly stochastic again. No operator, no temperature, no learning rate.

    A distance of weights is a polynomial in the step, so that the best step is found exactly; any other objective is
    averaged over its fixed evaluation set, and the step backtracks. Every corner V on the way is judged as a hard plan,
    and so is the one nearest to P at the end. The best plans are then polished by a local search on the true objective,
    where that is affordable. The best hard plan seen is returned; the identity and the plan of weight matching count as
    seen, so that it is never worse than either.

    The first start sets out from the center of the doubly stochastic matrices, where nothing is decided, the next ones
    from half-way and three quarters of the way to the best plan so far. Further starts repeat these three; in place of
    one that would be the same again, they set out from a random soft plan. With a plan to start from, the first start
    sets out from three quarters of the way to it.

    Choose it when weight matching gets stuck (many groups, deep residual networks, narrow layers), and for losses on a
    few batches: it has neither a temperature nor a learning rate, and needs fewer steps than `Sinkhorn`, whose steps
    each look at another batch. One step costs a gradient and a few values of the objective on the whole evaluation set.

    Parameters
    ----------
    num_starts : int, default 3
        How often to start.
    max_steps : int, default 100
        Steps per start.
    tol : float, default 1e-6
        Stop a start when the gap ``<gradient, P - V>``, how much the linearization can still fall, is below this share
        of the terms that it is the difference of.
    max_swaps : int, optional
        Hard plans that the final local search may judge; 0 leaves it out. Default: by the size of the network and of
        the evaluation set, a few thousand for tiny networks, none for large ones.

    Raises
    ------
    SettingError
        A setting is out of its range.

    References
    ----------
    .. [1] D. Crisostomi, M. Fumero, D. Baieri, F. Bernard, E. Rodolà. C2M3: Cycle-Consistent Multi-Model Merging.
       NeurIPS 2024, Algorithm 1, for a pair of networks.
    .. [2] J. Vogelstein et al. Fast Approximate Quadratic Programming for Graph Matching. PLOS ONE 2015: one
       group, from the center.

    Examples
    --------
    >>> import rebasin_core as rb
    >>> rng = np.random.default_rng(0)
    >>> a = {"w1": rng.normal(size=(8, 4)), "w2": rng.normal(size=(8, 8)), "w3": rng.normal(size=(2, 8))}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h1 .", "w2": "h2 h1", "w3": ". h2"}, a)
    >>> plan = rb.Plan.random(graph)
    >>> b = {name: x + 0.1 * rng.normal(size=x.shape) for name, x in rb.permute(a, plan, graph).items()}
    >>> result = rb.align(a, b, graph=graph, solver=rb.solvers.FrankWolfe(), progress=False)
    >>> result.plan == plan.inverse()
    True
    """

    num_starts: int = 3
    max_steps: int = 100
    tol: float = 1e-6
    max_swaps: int | None = None
    name: ClassVar[str] = "Frank-Wolfe"

    def __post_init__(self) -> None:
        at_least(1, num_starts=self.num_starts, max_steps=self.max_steps)
        not_negative(tol=self.tol)
        if self.max_swaps is not None:
            at_least(0, max_swaps=self.max_swaps)

    def solve(self, problem: Problem, progress: bool = True) -> Solution:
        """Return the best hard plan seen.

        Raises
        ------
        SettingError
            The objective has no gradient.
        NonFiniteError
            The objective is NaN or infinite for a soft plan.
        """
        return run_search(problem, partial(self._find, progress=progress))

    def _find(self, search: Search, progress: bool) -> tuple[bool, str]:
        problem, rng = search.problem, search.problem.rng()
        see_matchings(search, progress)
        if not problem.graph.groups or (problem.objective.matches_weights and not problem.learned):
            return True, "there is nothing to permute"
        relaxation = relax(problem)
        tried: set[tuple[Plan, float]] = set()
        unfinished = 0
        # Lazily, since all but the plan to start from set out for the best plan by then.
        ends = chain([(problem.start, HEIGHTS[-1])] if problem.start else [], ((None, h) for h in cycle(HEIGHTS)))
        with progress_bar(None, f"Frank-Wolfe, {problem.objective.name}", progress) as bar:
            for plan, height in islice(ends, self.num_starts):
                if search.is_over:
                    break
                soft = _start(problem, plan or search.plan, height, tried, rng)
                matrices = {g: problem.backend.asarray(m, like=relaxation.like) for g, m in soft.items()}
                matrices, finished = self._descend(problem, relaxation, matrices, search, bar)
                unfinished += not finished
                nearest = SoftPlan(matrices, problem.graph.parents).harden()
                search.step(nearest, search.see(nearest))
        polished = polish(search, self.max_swaps, progress)
        if search.is_over:
            return True, OVER
        stopped = (
            f"{unfinished} of {self.num_starts} starts reached max_steps={self.max_steps}"
            if unfinished
            else "the gap vanished"
        )
        return not unfinished, f"{stopped}; {polished}" if polished else stopped

    def _descend(
        self, problem: Problem, relaxation: Relaxation, matrices: Matrices, search: Search, bar: Progress
    ) -> tuple[Matrices, bool]:
        """Follow the steps from a soft plan; return where they end, and whether that is a stationary point."""
        backend, curvature = relaxation.backend, None
        least_gap = max(self.tol, 8 * resolution(backend.dtype(relaxation.like)))
        for _ in range(self.max_steps):
            value, gradient = relaxation.value_and_grad(matrices)
            scores = {g: -backend.to_numpy(x).astype(np.float64) for g, x in gradient.items()}
            plan = Plan({g: linear_assignment(x) for g, x in scores.items()}, problem.graph.parents)
            search.step(plan, search.see(plan) if problem.objective.matches_weights else value)
            bar.update(f"best hard plan {search.best:.6g}")
            corner = dict(SoftPlan.from_plan(plan, relaxation.like))
            segment = {g: corner[g] - x for g, x in matrices.items()}
            slope = _inner(gradient, segment)
            if search.is_over or -slope <= least_gap * _inner({g: backend.abs(x) for g, x in gradient.items()}, corner):
                return matrices, True

            def phi(t: float, here: Matrices = matrices, segment: Matrices = segment) -> float:
                return relaxation.value(_along(here, segment, t))

            if relaxation.degree is not None:
                step = polynomial_step(phi, value, slope, relaxation.degree)
            else:
                step, curvature = backtracking_step(phi, value, slope, _inner(segment, segment), curvature)
            if step == 0:
                return matrices, True
            matrices = _along(matrices, segment, step)
        return matrices, False


def _start(
    problem: Problem, plan: Plan, height: float, tried: set[tuple[Plan, float]], rng: np.random.Generator
) -> Mapping[str, Array]:
    """Return a soft plan that high above the center towards a plan, or a random one where that was tried already."""
    # At the center itself, it does not matter towards which plan.
    key = (plan if height else Plan.identity(problem.graph), height)
    if key in tried:
        return SoftPlan.random(problem.graph, rng)
    tried.add(key)
    center = uniform_matrices(problem.graph)
    return {g: (1 - height) * center[g] + height * m for g, m in SoftPlan.from_plan(plan).items()}


def _along(start: Matrices, segment: Matrices, t: float) -> Matrices:
    return {g: x + t * segment[g] for g, x in start.items()}


def _inner(x: Matrices, y: Matrices) -> float:
    return as_number(inner_product(x, y), "an inner product")
