"""Many plans of one problem, judged and differentiated in one vectorized call."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rebasin_core.backends.protocol import Array
from rebasin_core.objectives.base import Params, Sample
from rebasin_core.solvers.fits import check_differentiable
from rebasin_core.solvers.problem import Problem
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan

__all__ = ["Population"]

# Numbers in the copies of the parameters that one call may hold.
ROOM = 2**22


class Population:
    """Values of several plans at once, by the framework's vectorizing transformation.

    An objective that the framework cannot vectorize (it reads values, or branches on them) is computed plan by plan
    instead, with the same results.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.vectorized = True

    def soft_values(self, matrices: Mapping[str, Array], sample: Sample) -> Array:
        """Objective of every soft plan on one sample, shape (plans,); differentiable in the matrices.

        Parameters
        ----------
        matrices : mapping of str to array, shape (plans, n, n) or (plans, parent, n, n)
            Doubly stochastic matrices per group.
        sample : object
            One of the objective's.
        """
        parents = self.problem.graph.parents

        def value(row: dict[str, Array]) -> Array:
            found = self.problem.soft_value(SoftPlan(row, parents), sample)
            return check_differentiable(found, self.problem.objective)

        return self._map(value, dict(matrices))

    @property
    def at_once(self) -> int:
        """How many plans may be judged in one call."""
        return max(1, ROOM // max(1, self.problem.size))

    def judge(self, plans: Sequence[Plan]) -> list[float]:
        """Objective of every hard plan on the fixed evaluation set, as `Problem.judge` computes it, to rounding.

        At most `at_once` of them, since each needs a copy of the parameters.
        """
        if len(plans) <= 1 or not self.vectorized:
            return [self.problem.judge(plan) for plan in plans]
        problem, backend = self.problem, self.problem.backend
        perms = {
            group: backend.asarray(np.stack([plan[group] for plan in plans]), like=problem.like, dtype="int64")
            for group in problem.graph.groups
        }
        total, weight = np.zeros(len(plans)), 0.0
        for w, sample in problem.objective.evaluation():

            def value(row: dict[str, Array], sample: Sample = sample) -> Array:
                return problem.objective.value(problem.params_a, self._rebased(row), sample)

            total += w * backend.to_numpy(self._map(value, perms)).astype(float)
            weight += w
        if not np.isfinite(total).all():
            return [problem.judge(plan) for plan in plans]  # which says what is wrong
        return [float(x) for x in total / weight]

    def _rebased(self, perms: dict[str, Array]) -> Params:
        graph, backend = self.problem.graph, self.problem.backend
        return {
            name: act(backend, x, graph.axes[name], graph.groups, perms) for name, x in self.problem.params_b.items()
        }

    def _map(self, fun: Callable[[dict[str, Array]], Array], x: dict[str, Array]) -> Array:
        backend = self.problem.backend
        count = len(next(iter(x.values())))
        if count > 1 and self.vectorized:
            try:
                return backend.vmap(fun, x)
            except Exception:  # whatever a framework raises on code it cannot vectorize; the loop raises what is real
                self.vectorized = False
        return backend.stack([fun({group: values[i] for group, values in x.items()}) for i in range(count)])
