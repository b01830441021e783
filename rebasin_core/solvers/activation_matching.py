"""Activation matching: one linear assignment per group, on how alike the units behave (Git Re-Basin, section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rebasin_core.backends.protocol import Array
from rebasin_core.solvers.base import Solution
from rebasin_core.solvers.fits import misfit
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.search import Search, run_search
from rebasin_core.support.progress import progress_bar
from rebasin_core.symmetry.assignment import linear_assignment
from rebasin_core.symmetry.plan import Plan

__all__ = ["ActivationMatching", "assign_groups"]


@dataclass(frozen=True)
class ActivationMatching:
    """Pair every unit of A with the unit of B whose activations agree with it on the same inputs.

    A group's permutation only reorders its own activations, so that each group is matched by itself, exactly, by one
    linear assignment. Groups of which no activations were collected stay as they are in the plan to start from.

    Choose it with `objectives.Activations`: one pass over the data, no gradient, no sweeps.

    References
    ----------
    .. [1] S. Ainsworth, J. Hayase, S. Srinivasa. Git Re-Basin: Merging Models modulo Permutation Symmetries. ICLR 2023,
       section 3.1.
    """

    name: ClassVar[str] = "activation matching"

    def solve(self, problem: Problem, progress: bool = True) -> Solution:
        """Return the plan of the assignments.

        Raises
        ------
        SettingError
            The objective does not say how alike units are.
        """
        similarity = problem.objective.similarity
        if similarity is None:
            raise misfit("ActivationMatching", "objectives.Activations(data)", problem.objective)

        def find(search: Search) -> tuple[bool, str]:
            plan = assign_groups(problem, similarity(problem.params_a, problem.params_b), progress)
            search.step(plan, search.see(plan))
            return True, "one assignment per group is exact"

        return run_search(problem, find)


def assign_groups(problem: Problem, scores: Mapping[str, Array], progress: bool) -> Plan:
    """Return the plan of one linear assignment per group that has scores; the other groups stay."""
    plan = problem.start or Plan.identity(problem.graph)
    with progress_bar(len(scores), "activation matching", progress) as bar:
        for group, matrix in scores.items():
            plan = plan.replace(group, linear_assignment(problem.backend.to_numpy(matrix).astype(float)))
            bar.update()
    return plan
