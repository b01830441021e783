"""The bookkeeping every search over plans shares: what was seen, what was best, when it stops, and what was told."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from rebasin_core.solvers.base import HistoryEntry, Solution
from rebasin_core.solvers.population import Population
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.watch import INTERRUPTED, SearchEnded
from rebasin_core.symmetry.plan import Plan

__all__ = ["OVER", "Search", "run_search"]

OVER = "the objective cannot be lower"


class Search:
    """The best hard plan seen so far; a plan seen before is not judged again.

    The identity, and the plan that the problem starts from, count as seen.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.population = Population(problem)
        self.values: dict[Plan, float] = {}
        self.plan = Plan.identity(problem.graph)
        self.best = math.inf
        # Plans judged one by one: values of vectorized calls may differ from theirs in the last digits.
        self._exact: dict[Plan, float] = {self.plan: problem.initial}
        self._keep(self.plan, problem.initial)
        if problem.start is not None:
            self.see(problem.start)
        self._unjudged: Plan | None = None
        self.steps = 0
        self.last_improvement = 0
        self.history: list[HistoryEntry] = []
        self._write(problem.initial, problem.initial)

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
        """Judge several plans, those not seen before in vectorized calls."""
        unseen = [plan for plan in dict.fromkeys(plans) if plan not in self.values]
        at_once = self.population.at_once
        for start in range(0, len(unseen), at_once):
            some = unseen[start : start + at_once]
            for plan, value in zip(some, self.population.judge(some), strict=True):
                self._keep(plan, value)
            self.check()
        return [self.values[plan] for plan in plans]

    def step(self, plan: Plan, soft_value: float) -> None:
        """Judge the plan of one gradient step and write the step down."""
        self.step_all([plan], soft_value)

    def step_all(self, plans: Sequence[Plan], soft_value: float) -> None:
        """Judge the plans of one step of several searches side by side, and write the step down."""
        before = self.best
        hard = min(self.see_all(plans))
        self.steps += 1
        self._unjudged = None
        if self.best < before:
            self.last_improvement = self.steps
        self._write(soft_value, hard)
        self.tell()
        self.check()

    def consider(self, plan: Plan) -> None:
        """Take note of a plan on the way to the next one that is judged: if the search ends here, it counts."""
        self._unjudged = plan
        self.check()

    def check(self) -> None:
        """Leave the search where its time is up; solvers call it wherever a step may take long."""
        self.problem.watch.check()

    def tell(self) -> None:
        """Tell the user's callback the last step; it may end the search by returning True."""
        if self.problem.callback is not None:
            answer = self.problem.callback(self.history[-1])
            if isinstance(answer, (bool, np.bool_)) and answer:
                self.problem.watch.end("stopped by callback")

    def solution(self, converged: bool, reason: str) -> Solution:
        """Return the best plan, that included at which the search had to end before its step was over."""
        if self._unjudged is not None:
            self.see(self._unjudged)
        if self.best < self.history[-1].best:  # found outside of the steps, such as by weight matching before them
            self.steps += 1
            self._write(self.best, self.best)
            if self.problem.callback is not None:
                self.problem.callback(self.history[-1])
        plan, value = self.plan, self.best
        if plan not in self._exact:
            self._exact[plan] = self.problem.judge(plan)
            plan, value = min(self._exact.items(), key=lambda item: item[1])
        return Solution(plan, value, tuple(self.history), converged, reason)

    def _write(self, value: float, hard: float) -> None:
        self.history.append(HistoryEntry(self.steps, value, hard, self.best))

    def _keep(self, plan: Plan, value: float) -> None:
        self.values[plan] = value
        if value < self.best:
            self.plan, self.best = plan, value


def run_search(problem: Problem, find: Callable[[Search], tuple[bool, str]]) -> Solution:
    """Search, and return the best plan seen, also where a clock, a callback or a person ends the search.

    Parameters
    ----------
    problem : Problem
        What to solve; its watch and its callback may end the search.
    find : callable
        ``find(search) -> (converged, stop_reason)``: the solver's own loop, which judges plans by `search`.

    Raises
    ------
    KeyboardInterrupt
        It came before the first plan was judged.
    """
    search = Search(problem)
    try:
        search.tell()
        search.check()
        converged, reason = find(search)
        return search.solution(converged, reason)
    except SearchEnded:
        pass
    except KeyboardInterrupt:
        problem.watch.reason = INTERRUPTED
    return search.solution(False, problem.watch.reason)
