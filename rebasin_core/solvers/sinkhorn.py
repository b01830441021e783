"""Gradient descent on the logits of a soft plan (the paper, section 3)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from rebasin_core.assignment import linear_assignment
from rebasin_core.backends.protocol import Array
from rebasin_core.errors import SettingError
from rebasin_core.objectives.base import Sample
from rebasin_core.objectives.weights import L2
from rebasin_core.plan import Plan
from rebasin_core.problem import Problem
from rebasin_core.progress import Progress, progress_bar
from rebasin_core.settings import at_least
from rebasin_core.soft_plan import SoftPlan
from rebasin_core.solvers.activation_matching import ActivationMatching
from rebasin_core.solvers.base import HistoryEntry, Solution
from rebasin_core.solvers.weight_matching import WeightMatching

__all__ = ["Sinkhorn"]

INITS = ("weight_matching", "identity", "random")


@dataclass(frozen=True)
class Sinkhorn:
    """Minimise any differentiable objective over soft plans, and return the best hard plan on the way.

    The logits ``X`` of every group go through the Sinkhorn operator, ``P = S_tau(X)`` (Eq. 4, 5); B is re-based with
    the soft plan (Eq. 6), and Adam follows the implicit gradient of the objective with respect to the logits. After
    each step the hard plan ``S_0(X)``, a linear assignment on the logits, is judged on the objective's fixed
    evaluation set. The best hard plan seen is returned; the identity and the plan of weight matching count as seen,
    so that it is never worse than either.

    Choose it when the objective is a loss, when the layers are narrow, or when weight matching gets stuck.

    Parameters
    ----------
    tau : float, default 1.0
        Temperature of the operator, in units of the logits.
    num_iters : int, default 20
        Iterations of the operator.
    learning_rate : float, default 0.1
        Step of Adam, in units of the logits; Adam divides by the size of the gradient, so that it does not depend on
        the scale of the objective.
    max_steps : int, default 300
        Gradient steps.
    patience : int, default 100
        Stop after this many steps without a better hard plan.
    init : {"weight_matching", "identity", "random"}, default "weight_matching"
        Where the logits start.
    init_scale : float, default 0.5
        Height of the initial logits on the plan they start from, in units of tau; 0 starts from the uniform plan. A
        soft start does better than a sharp one: it lets the first steps see all plans at once.
    num_rounds : int, default 3
        When the patience is spent, start again from the best plan so far; stop when a round finds nothing better.

    Raises
    ------
    SettingError
        A setting is out of its range.
    """

    tau: float = 1.0
    num_iters: int = 20
    learning_rate: float = 0.1
    max_steps: int = 300
    patience: int = 100
    init: str = "weight_matching"
    init_scale: float = 0.5
    num_rounds: int = 3
    name: str = "Sinkhorn"

    def __post_init__(self) -> None:
        at_least(
            1,
            num_iters=self.num_iters,
            max_steps=self.max_steps,
            patience=self.patience,
            num_rounds=self.num_rounds,
        )
        for setting in ("tau", "learning_rate"):
            value = getattr(self, setting)
            if not (_is_number(value) and value > 0):
                raise SettingError(f"expected {setting} as a positive number, got {value!r}")
        if not (_is_number(self.init_scale) and self.init_scale >= 0):
            raise SettingError(f"expected init_scale as a number of at least 0, got {self.init_scale!r}")
        if self.init not in INITS:
            raise SettingError(f"expected init as one of {', '.join(map(repr, INITS))}, got {self.init!r}")

    def solve(self, problem: Problem, progress: bool = False) -> Solution:
        """Return the best hard plan seen."""
        search = _Search(problem)
        matched = WeightMatching().solve(replace(problem, objective=L2().on(problem.graph)), progress).plan
        search.see(matched)
        if problem.objective.similarity is not None:
            search.see(ActivationMatching().solve(problem, progress).plan)
        start = {
            "weight_matching": lambda: matched,
            "identity": lambda: Plan.identity(problem.graph),
            "random": lambda: Plan.random(problem.graph, problem.rng()),
        }[self.init]()
        if not problem.graph.groups:
            return search.solution(True, "there is nothing to permute")
        samples = problem.objective.stream(problem.rng())
        with progress_bar(self.max_steps * self.num_rounds, f"Sinkhorn, {problem.objective.name}", progress) as bar:
            for _ in range(self.num_rounds):
                before = search.best
                reason = self._descend(problem, start, samples, search, bar)
                if search.best >= before:
                    break
                start = search.plan
        return search.solution(reason is not None, reason or f"reached max_steps={self.max_steps}")

    def _descend(
        self, problem: Problem, start: Plan, samples: Iterator[Sample], search: "_Search", bar: Progress
    ) -> str | None:
        """Run Adam from a plan; return why it stopped early, or None."""
        backend, parents = problem.backend, problem.graph.parents
        first = search.steps
        stopped: list[str] = []

        def value(logits: dict[str, Array], step: int) -> Array:
            soft = SoftPlan.from_logits(logits, parents, self.tau, self.num_iters)
            result = problem.soft_value(soft, next(samples))
            if isinstance(result, (int, float, np.ndarray)):
                raise SettingError(
                    f"the objective {problem.objective.name!r} has no gradient: it returned a plain "
                    f"{type(result).__name__}, which does not depend on the re-based weights. Compute with the "
                    f"framework's functions (for NumPy arrays, autograd.numpy), and do not convert to a float"
                )
            return result

        def judge(step: int, soft_value: float, logits: dict[str, Array]) -> bool:
            hard = Plan({g: linear_assignment(backend.to_numpy(x)) for g, x in logits.items()}, parents)
            search.step(hard, soft_value)
            bar.update(f"{soft_value:.4g}, best hard plan {search.best:.4g}")
            if search.steps - max(search.last_improvement, first) >= self.patience:
                stopped.append(f"no better hard plan in {self.patience} steps")
            return bool(stopped)

        like = problem.params_b[(problem.learned or list(problem.params_b))[0]]
        height = self.init_scale * self.tau
        logits = {g: backend.asarray(height * np.eye(p.shape[-1])[p], like=like) for g, p in start.items()}
        backend.adam(value, logits, self.learning_rate, self.max_steps, judge)
        return stopped[0] if stopped else None


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


class _Search:
    """The best hard plan seen so far; a plan seen before is not judged again."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.values: dict[Plan, float] = {}
        self.plan = Plan.identity(problem.graph)
        self.best = math.inf
        self.see(self.plan)
        self.steps = 0
        self.last_improvement = 0
        self.history: list[HistoryEntry] = [HistoryEntry(0, self.best, self.best, self.best)]

    def see(self, plan: Plan) -> float:
        """Judge a plan and remember it if it is the best."""
        if plan not in self.values:
            self.values[plan] = self.problem.judge(plan)
            if self.values[plan] < self.best:
                self.plan, self.best = plan, self.values[plan]
        return self.values[plan]

    def step(self, plan: Plan, soft_value: float) -> None:
        """Judge the plan of one gradient step and write the step down."""
        before = self.best
        hard = self.see(plan)
        self.steps += 1
        if self.best < before:
            self.last_improvement = self.steps
        self.history.append(HistoryEntry(self.steps, soft_value, hard, self.best))

    def solution(self, converged: bool, reason: str) -> Solution:
        """Return the best plan."""
        return Solution(self.plan, self.best, tuple(self.history), converged, reason)
