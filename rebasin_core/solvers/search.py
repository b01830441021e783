"""The bookkeeping every search over plans shares: what was seen, what was best, and when."""

import math
from collections.abc import Sequence

from rebasin_core.solvers.base import HistoryEntry, Solution
from rebasin_core.solvers.population import Population
from rebasin_core.solvers.problem import Problem
from rebasin_core.symmetry.plan import Plan

__all__ = ["OVER", "Search"]

OVER = "the objective cannot be lower"


class Search:
    """The best hard plan seen so far; a plan seen before is not judged again."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.population = Population(problem)
        self.values: dict[Plan, float] = {}
        self.plan = Plan.identity(problem.graph)
        self.best = math.inf
        # Plans judged one by one: values of vectorised calls may differ from theirs in the last digits.
        self._exact: dict[Plan, float] = {self.plan: problem.initial}
        self._keep(self.plan, problem.initial)
        self.steps = 0
        self.last_improvement = 0
        self.history: list[HistoryEntry] = [HistoryEntry(0, self.best, self.best, self.best)]

    @property
    def is_over(self) -> bool:
        """Whether the best value is the lowest that the objective can have."""
        least = self.problem.objective.least
        return least is not None and self.best <= least

    def see(self, plan: Plan) -> float:
        """Judge a plan and remember it if it is the best."""
        if plan not in self.values:
            self._exact[plan] = self.problem.judge(plan)
            self._keep(plan, self._exact[plan])
        return self.values[plan]

    def see_all(self, plans: Sequence[Plan]) -> list[float]:
        """Judge several plans, those not seen before in one vectorised call."""
        unseen = [plan for plan in dict.fromkeys(plans) if plan not in self.values]
        for plan, value in zip(unseen, self.population.judge(unseen), strict=True):
            self._keep(plan, value)
        return [self.values[plan] for plan in plans]

    def step(self, plan: Plan, soft_value: float) -> None:
        """Judge the plan of one gradient step and write the step down."""
        self.step_all([plan], soft_value)

    def step_all(self, plans: Sequence[Plan], soft_value: float) -> None:
        """Judge the plans of one step of several searches side by side and write the step down."""
        before = self.best
        hard = min(self.see_all(plans))
        self.steps += 1
        if self.best < before:
            self.last_improvement = self.steps
        self.history.append(HistoryEntry(self.steps, soft_value, hard, self.best))

    def solution(self, converged: bool, reason: str) -> Solution:
        """Return the best plan."""
        plan, value = self.plan, self.best
        if plan not in self._exact:
            self._exact[plan] = self.problem.judge(plan)
            plan, value = min(self._exact.items(), key=lambda item: item[1])
        return Solution(plan, value, tuple(self.history), converged, reason)

    def _keep(self, plan: Plan, value: float) -> None:
        self.values[plan] = value
        if value < self.best:
            self.plan, self.best = plan, value
