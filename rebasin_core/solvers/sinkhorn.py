"""Gradient descent on the logits of a soft plan (the paper, section 3)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from rebasin_core.backends.descent import minimize
from rebasin_core.backends.optimizers import Adam
from rebasin_core.backends.protocol import Array
from rebasin_core.objectives.base import Sample
from rebasin_core.solvers.base import Solution
from rebasin_core.solvers.matchings import see_matchings
from rebasin_core.solvers.polish import polish
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.search import OVER, Search, run_search
from rebasin_core.support.progress import Progress, progress_bar
from rebasin_core.support.settings import at_least, not_negative, one_of, positive
from rebasin_core.symmetry.assignment import linear_assignment
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import matrices_of

__all__ = ["Sinkhorn"]

INITS = ("weight_matching", "identity", "random")

# Numbers that the parameters and the logits of all starts may have together, and the most starts, by default.
ROOM_FOR_STARTS, MOST_STARTS = 2**17, 32


@dataclass(frozen=True, kw_only=True)
class Sinkhorn:
    """Minimize any differentiable objective over soft plans, and return the best hard plan on the way.

    The logits ``X`` of every group go through the Sinkhorn operator, ``P = S_tau(X)`` (Eq. 4, 5); B is re-based with
    the soft plan (Eq. 6), and Adam follows the implicit gradient of the objective with respect to the logits. After
    each step the hard plan ``S_0(X)``, a linear assignment on the logits, is judged on the objective's fixed
    evaluation set. Several starts descend side by side, in one vectorized call; at the end the best plans are polished
    by a local search on the true objective, where that is affordable. The best hard plan seen is returned; the
    identity and the plan of weight matching count as seen, so that it is never worse than either.

    Choose it when the objective is a loss, when the layers are narrow, or when weight matching gets stuck.

    Parameters
    ----------
    tau : float, default 1.0
        Temperature of the operator, in units of the logits.
    num_iters : int, default 20
        Iterations of the operator.
    learning_rate : float, default 0.1
        Step of Adam, in units of the logits. Adam divides by the size of the gradient, and the objective is divided by
        that of its first gradient, so that neither the scale of the objective nor the width of the layers matters.
    max_steps : int, default 300
        Gradient steps per round.
    patience : int, default 100
        End the round after this many steps without a better hard plan.
    init : {"weight_matching", "identity", "random"}, default "weight_matching"
        The plan from which the first start sets out, unless `rebasin_core.align` was given one; the others set out from
        random logits. For a loss on the line, where activations can be collected, "weight_matching" is the better one
        of weight and activation matching.
    init_scale : float, default 0.5
        Height of the initial logits on the plan they start from, and deviation of the random ones, in units of tau; 0
        starts from the uniform plan. A soft start does better than a sharp one: it lets the first steps see all plans
        at once.
    refine_scale : float, default 6.0
        `init_scale` of the rounds after the first. They set out from the best plan so far, and sharply, so that the
        hard plan changes by few units at a time: a local search, where the first round was a global one.
    num_rounds : int, default 3
        When the patience is spent, start again from the best plan so far; stop when a round after the first finds
        nothing better.
    num_starts : int, optional
        Starts side by side, in one vectorized call where the framework has one. Default: 1 for large networks, up to
        32 for tiny ones; 1 where several cost as much as one after the other (NumPy, and the eager steps of JAX and
        TensorFlow).
    final_tau : float, optional
        Temperature that the steps of a round anneal to, geometrically; default: `tau`, no annealing.
    max_swaps : int, optional
        Hard plans that the final local search may judge; 0 leaves it out. Default: by the size of the network and of
        the evaluation set, a few thousand for tiny networks, none for large ones.

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
    refine_scale: float = 6.0
    num_rounds: int = 3
    num_starts: int | None = None
    final_tau: float | None = None
    max_swaps: int | None = None
    name: ClassVar[str] = "Sinkhorn"

    def __post_init__(self) -> None:
        at_least(
            1,
            num_iters=self.num_iters,
            max_steps=self.max_steps,
            patience=self.patience,
            num_rounds=self.num_rounds,
        )
        if self.num_starts is not None:
            at_least(1, num_starts=self.num_starts)
        if self.max_swaps is not None:
            at_least(0, max_swaps=self.max_swaps)
        positive(tau=self.tau, learning_rate=self.learning_rate)
        if self.final_tau is not None:
            positive(final_tau=self.final_tau)
        not_negative(init_scale=self.init_scale, refine_scale=self.refine_scale)
        one_of(INITS, init=self.init)

    def solve(self, problem: Problem, progress: bool = True) -> Solution:
        """Return the best hard plan seen."""
        return run_search(problem, partial(self._find, progress=progress))

    def _find(self, search: Search, progress: bool) -> tuple[bool, str]:
        problem, matched = search.problem, see_matchings(search, progress)
        if not problem.graph.groups:
            return True, "there is nothing to permute"
        if search.is_over:
            return True, OVER
        rng = problem.rng()
        start = (
            problem.start
            or {
                "weight_matching": lambda: matched,
                "identity": lambda: Plan.identity(problem.graph),
                "random": lambda: Plan.random(problem.graph, rng),
            }[self.init]()
        )
        samples = problem.objective.stream(problem.rng())
        with progress_bar(self.max_steps * self.num_rounds, f"Sinkhorn, {problem.objective.name}", progress) as bar:
            for index in range(self.num_rounds):
                before, scale = search.best, self.refine_scale if index else self.init_scale
                reason = self._descend(problem, self._logits(problem, start, scale, rng), samples, search, bar)
                if search.is_over or (index and search.best >= before):
                    break
                start = search.plan
        polished = polish(search, self.max_swaps, progress)
        stopped = reason or f"reached max_steps={self.max_steps}"
        return reason is not None, f"{stopped}; {polished}" if polished else stopped

    def _logits(self, problem: Problem, start: Plan, scale: float, rng: np.random.Generator) -> dict[str, Array]:
        """Initial logits per group, shape (starts, n, n) or (starts, parent, n, n); the first start from a plan."""
        backend = problem.backend
        count, height = self.num_starts or _affordable_starts(problem), scale * self.tau
        logits = {}
        for group, perm in start.items():
            planned = height * np.eye(perm.shape[-1])[perm]
            others = height * rng.standard_normal((count - 1, *planned.shape))
            logits[group] = backend.asarray(np.concatenate([planned[None], others]), like=problem.like)
        return logits

    def _descend(
        self,
        problem: Problem,
        logits: dict[str, Array],
        samples: Iterator[Sample],
        search: Search,
        bar: Progress,
    ) -> str | None:
        """Run Adam on all starts; return why it stopped early, or None."""
        backend = problem.backend
        count = len(next(iter(logits.values())))
        every = _judging_interval(problem)
        stopped: list[str] = []
        improved = [0]  # after how many steps the best hard plan was found

        def value(x: dict[str, Array], step: int) -> Array:
            matrices = matrices_of(x, self._tau(step), self.num_iters)
            return backend.sum(search.population.soft_values(matrices, next(samples))) / count

        def judge(step: int, scaled: float, x: dict[str, Array]) -> bool:
            if step % every and step < self.max_steps - 1:
                bar.update()
                search.check()
                return False
            scores = {g: backend.to_numpy(values) for g, values in x.items()}
            plans = [
                Plan({g: linear_assignment(X[i]) for g, X in scores.items()}, problem.graph.parents)
                for i in range(count)
            ]
            before = search.best
            search.step_all(plans, scaled / scale)
            if search.best < before:
                improved.append(step + 1)
            bar.update(f"{scaled / scale:.4g}, best hard plan {search.best:.4g}")
            if search.is_over:
                stopped.append(OVER)
            elif step + 1 - improved[-1] >= self.patience:
                stopped.append(f"no better hard plan in {self.patience} steps")
            return bool(stopped)

        scale = _inverse_size(problem, value, logits)
        optimizer = Adam(self.learning_rate)
        minimize(backend, lambda x, step: value(x, step) * scale, logits, optimizer, self.max_steps, judge)
        return stopped[0] if stopped else None

    def _tau(self, step: int) -> float:
        done = step / max(1, self.max_steps - 1)
        return float(self.tau * ((self.final_tau or self.tau) / self.tau) ** done)


def _inverse_size(problem: Problem, value: Callable[[dict[str, Array], int], Array], logits: dict[str, Array]) -> float:
    """One over the root mean square of the first gradient, so that no gradient is small beside Adam's epsilon."""
    _, gradient = problem.backend.value_and_grad(lambda x: value(x, 0), logits)
    arrays = [problem.backend.to_numpy(g).astype(float) for g in gradient.values()]
    size = math.sqrt(sum(float((g**2).sum()) for g in arrays) / sum(g.size for g in arrays))
    return 1.0 / size if math.isfinite(size) and size > 0 else 1.0


def _judging_interval(problem: Problem) -> int:
    """Steps between judged plans: judging goes through the whole evaluation set, a step through one sample of it.

    Assigning takes n^3 at worst, a step n^2 per iteration, so that very wide layers are judged less often, too.
    """
    samples = sum(1 for _ in problem.objective.evaluation())
    widest: int = max(problem.graph.groups.values())
    return max(1, samples // 4, (widest // 512) * (widest // 512))


def _affordable_starts(problem: Problem) -> int:
    if not problem.backend.vectorizes:
        return 1
    logits = sum(perm.size * perm.shape[-1] for perm in Plan.identity(problem.graph).values())
    return int(min(MOST_STARTS, max(1, ROOM_FOR_STARTS // max(1, problem.size + logits))))
