"""The straight-through estimator: weight matching to weights that follow a gradient (Git Re-Basin, 2209.04836)."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from rebasin_core.backends.descent import minimize
from rebasin_core.backends.optimizers import Adam
from rebasin_core.backends.protocol import Array
from rebasin_core.objectives.base import Params
from rebasin_core.solvers.base import Solution
from rebasin_core.solvers.fits import check_differentiable
from rebasin_core.solvers.matchings import see_matchings
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.search import OVER, Search, run_search
from rebasin_core.solvers.weight_matching import descend
from rebasin_core.support.progress import progress_bar
from rebasin_core.support.settings import at_least, positive
from rebasin_core.symmetry.plan import Plan

__all__ = ["StraightThrough"]


@dataclass(frozen=True, kw_only=True)
class StraightThrough:
    """Minimize any differentiable objective over hard plans, with the gradient of weights that stand in for them.

    Surrogate weights, at first those of A, are projected onto the orders of B's units: weight matching finds the plan
    pi that brings B nearest to them. The objective looks at ``pi(B)``, and its gradient passes straight through the
    projection to the surrogate, which Adam moves. With `Midpoint` this is the method of the paper; any other objective
    will do. The objective only ever sees hard plans, unlike with `Sinkhorn` and `FrankWolfe`; the price is a gradient
    that is not one.

    Every plan on the way is judged, and the best is returned; the identity and the plan of weight matching count as
    seen. The first projection sets out from the plan to start from, if there is one.

    Choose it when soft plans mislead (the mixed network is good, the nearest hard plan is not), and for wide networks
    with data at hand, whose step costs one gradient of the model and a short weight matching.

    Parameters
    ----------
    learning_rate : float, default 0.05
        Step of Adam, in units of the root mean square of each parameter of A.
    max_steps : int, default 300
        Gradient steps.
    patience : int, default 100
        Stop after this many steps without a better plan.

    Raises
    ------
    SettingError
        A setting is out of its range.

    Notes
    -----
    One step, with S the surrogate and ``stop`` what no gradient goes through: ``pi = argmin |S - pi(B)|``, by
    coordinate descent from the last step's plan; then Adam on S with the gradient of
    ``C(A, S + stop(pi(B) - S))``.

    References
    ----------
    .. [1] S. Ainsworth, J. Hayase, S. Srinivasa. Git Re-Basin: Merging Models modulo Permutation Symmetries. ICLR 2023,
       Algorithm 3.

    Examples
    --------
    >>> import autograd.numpy as anp, rebasin_core as rb
    >>> rng = np.random.default_rng(0)
    >>> a = {"w1": rng.normal(size=(6, 3)), "w2": rng.normal(size=(1, 6))}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, a)
    >>> b = rb.permute(a, rb.Plan.random(graph), graph)
    >>> def forward(p, x):
    ...     return anp.dot(anp.tanh(anp.dot(x, p["w1"].T)), p["w2"].T)
    >>> x = rng.normal(size=(32, 3))
    >>> objective = rb.objectives.Midpoint(lambda y, t: anp.mean((y - t) ** 2), (x, forward(a, x)))
    >>> solver = rb.solvers.StraightThrough(max_steps=5)
    >>> rb.align(a, b, graph=graph, objective=objective, solver=solver, forward=forward, progress=False).objective
    0.0
    """

    learning_rate: float = 0.05
    max_steps: int = 300
    patience: int = 100
    name: ClassVar[str] = "straight-through"

    def __post_init__(self) -> None:
        at_least(1, max_steps=self.max_steps, patience=self.patience)
        positive(learning_rate=self.learning_rate)

    def solve(self, problem: Problem, progress: bool = True) -> Solution:
        """Return the best plan seen.

        Raises
        ------
        SettingError
            The objective has no gradient.
        NonFiniteError
            The objective or its gradient is NaN or infinite.
        """
        return run_search(problem, partial(self._find, progress=progress))

    def _find(self, search: Search, progress: bool) -> tuple[bool, str]:
        problem, matched = search.problem, see_matchings(search, progress)
        if not problem.learned:
            return True, "there is nothing to permute"
        with progress_bar(self.max_steps, f"straight-through, {problem.objective.name}", progress) as bar:
            projection = _Projection(problem, problem.start or matched)
            samples = problem.objective.stream(problem.rng())
            reason = ""

            def value(surrogate: dict[str, Array], step: int) -> Array:
                rebased = projection.rebased(surrogate)
                return check_differentiable(
                    problem.objective.value(problem.params_a, rebased, next(samples)), problem.objective
                )

            def judge(step: int, loss: float, surrogate: dict[str, Array]) -> bool:
                nonlocal reason
                search.step(projection.plan, loss)
                bar.update(f"{loss:.4g}, best plan {search.best:.4g}")
                if search.is_over:
                    reason = OVER
                elif search.steps - search.last_improvement >= self.patience:
                    reason = f"no better plan in {self.patience} steps"
                return bool(reason)

            optimizer = Adam(self.learning_rate)
            minimize(problem.backend, value, projection.surrogate(), optimizer, self.max_steps, judge)
        return bool(reason), reason or f"reached max_steps={self.max_steps}"


class _Projection:
    """The plan nearest to the surrogate weights, from step to step; the surrogate in units of A's weights."""

    def __init__(self, problem: Problem, plan: Plan) -> None:
        self.problem = problem
        self.plan = plan
        self.rng = problem.rng()
        sizes = {name: _root_mean_square(problem, name) for name in problem.learned}
        # A parameter of zeros, such as a bias that was never trained, has no unit of its own.
        fallback = max(sizes.values()) or 1.0
        self.units = {name: size or fallback for name, size in sizes.items()}

    def surrogate(self) -> dict[str, Array]:
        """Weights of A, the first surrogate."""
        return {name: self.problem.params_a[name] / unit for name, unit in self.units.items()}

    def rebased(self, surrogate: dict[str, Array]) -> Params:
        """Project, and return the re-based B as a function of the surrogate whose derivative is the identity."""
        problem, stop = self.problem, self.problem.backend.stop_gradient
        weights = {name: unit * surrogate[name] for name, unit in self.units.items()}
        target = problem.params_a | {name: stop(x) for name, x in weights.items()}
        # From the last plan: the surrogate moved a little, so that few groups are stale for long.
        for plan, _ in descend(problem.graph, target, problem.params_b, self.plan, self.rng, problem.backend):
            self.plan = plan
        rebased = self.plan.apply(problem.params_b, problem.graph)
        # The difference is zero bit by bit: what the objective sees is B, not B to rounding.
        return rebased | {name: rebased[name] + (x - stop(x)) for name, x in weights.items()}


def _root_mean_square(problem: Problem, name: str) -> float:
    values = problem.backend.to_numpy(problem.params_a[name]).astype(np.float64)
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0
