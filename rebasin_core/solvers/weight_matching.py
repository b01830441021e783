"""Weight matching: coordinate descent over groups, a linear assignment each (Git Re-Basin, 2209.04836)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from rebasin_core.actions import act, occurrence_pairs
from rebasin_core.assignment import linear_assignment
from rebasin_core.backends.protocol import Backend
from rebasin_core.errors import SettingError
from rebasin_core.graph import PermutationGraph
from rebasin_core.objectives.base import Params
from rebasin_core.plan import Plan
from rebasin_core.precision import resolution, widened
from rebasin_core.problem import Problem
from rebasin_core.progress import progress_bar
from rebasin_core.settings import at_least
from rebasin_core.solvers.base import HistoryEntry, Solution

__all__ = ["WeightMatching", "descend"]


@dataclass(frozen=True)
class WeightMatching:
    """Maximise the inner product of the weights, one group at a time.

    ``|A - pi(B)|^2 = |A|^2 + |B|^2 - 2 <A, pi(B)>``, and the inner product is linear in one group's permutation when
    the others are held, so that a linear assignment finds the best one exactly. Sweeps over the groups in random
    order go on until no group moves. The result is a local optimum: later starts set out from random plans, and the
    best is returned.

    Choose it for wide networks: it needs no data, no gradient, and takes seconds.

    Parameters
    ----------
    num_starts : int, default 3
        How many starting plans; the first is the identity, the others are random.
    max_sweeps : int, default 100
        Sweeps over all groups, per start.

    References
    ----------
    .. [1] S. Ainsworth, J. Hayase, S. Srinivasa. Git Re-Basin: Merging Models modulo Permutation Symmetries. ICLR 2023,
       Algorithm 1.
    """

    num_starts: int = 3
    max_sweeps: int = 100
    name: str = "weight matching"

    def __post_init__(self) -> None:
        at_least(1, num_starts=self.num_starts, max_sweeps=self.max_sweeps)

    def solve(self, problem: Problem, progress: bool = False) -> Solution:
        """Return the best plan of all starts.

        Raises
        ------
        SettingError
            The objective is not a distance of weights.
        """
        if not problem.objective.matches_weights:
            raise SettingError(
                f"WeightMatching minimises a distance of weights, objectives.L2() or objectives.Cosine(); it cannot "
                f"minimise {problem.objective.name!r}. Use solvers.Sinkhorn(), which minimises any differentiable "
                f"objective"
            )
        rng = problem.rng()
        best_plan = Plan.identity(problem.graph)
        best = problem.judge(best_plan)
        history = [HistoryEntry(0, best, best, best)]
        unfinished = 0
        with progress_bar(None, "weight matching", progress) as bar:
            for start in range(self.num_starts):
                plan = Plan.identity(problem.graph) if start == 0 else Plan.random(problem.graph, rng)
                sweeps = descend(problem.graph, problem.params_a, problem.params_b, plan, rng, problem.backend)
                moved = False
                for plan, moved in islice(sweeps, self.max_sweeps):  # noqa: B007, read behind the loop
                    value = problem.judge(plan)
                    if value < best:
                        best_plan, best = plan, value
                    history.append(HistoryEntry(len(history), value, value, best))
                    bar.update(f"start {start + 1} of {self.num_starts}, {problem.objective.name} {best:.6g}")
                unfinished += moved
        reason = (
            f"{unfinished} starts reached max_sweeps={self.max_sweeps}" if unfinished else "no group improves any more"
        )
        return Solution(best_plan, best, tuple(history), not unfinished, reason)


def descend(
    graph: PermutationGraph, params_a: Params, params_b: Params, plan: Plan, rng: np.random.Generator, backend: Backend
) -> Iterator[tuple[Plan, bool]]:
    """Improve a plan, sweep by sweep, until nothing changes; yield the plan after each and whether it changed.

    The similarity ``<A, pi(B)>`` over the learned parameters never falls: a group that stands several times in one
    parameter makes it quadratic, and there a step is taken only if it is measured to help. A group is looked at again
    only after a group that shares a parameter with it has moved.
    """
    touching = {g: [name for name in graph.learned if g in graph.axes[name].groups] for g in graph.groups}
    neighbours = {g: {h for name in names for h in graph.axes[name].groups} for g, names in touching.items()}
    here = plan.apply(params_b, graph)
    stale = set(graph.groups)
    moved = True
    while moved:
        moved = False
        for group in rng.permutation(list(graph.groups)):
            if group not in stale:
                continue
            stale.discard(group)
            step = _best_step(graph, params_a, here, group, touching[group], backend)
            if step is None:
                continue
            delta, arrays = step
            plan = plan.compose(delta)
            here.update(arrays)
            stale |= neighbours[group]
            moved = True
        yield plan, moved


def _best_step(
    graph: PermutationGraph, params_a: Params, here: Params, group: str, names: list[str], backend: Backend
) -> tuple[Plan, Params] | None:
    """Best reordering of one group of the parameters as they lie now, and those it moves; None if none helps."""
    if not names:
        return None
    fixed = {name: widened(backend, params_a[name]) for name in names}
    moving = {name: widened(backend, here[name]) for name in names}
    pairs = [
        pair
        for name in names
        for pair in occurrence_pairs(backend, fixed[name], moving[name], graph.axes[name], graph.groups, group)
    ]
    similarity = sum(backend.matmul(a, backend.matrix_transpose(b)) for a, b in pairs)
    scores = backend.to_numpy(similarity).astype(np.float64)
    perm = linear_assignment(scores)
    # What rounding alone may do to a sum of this many products of this size.
    noise = resolution(backend.dtype(similarity)) * float(np.abs(scores).sum(axis=-1).max())
    gain = np.take_along_axis(scores, perm[..., None], axis=-1).sum() - np.trace(scores, axis1=-2, axis2=-1).sum()
    if gain <= noise:
        return None
    delta = Plan.identity(graph).replace(group, perm)
    action = {group: backend.asarray(perm, like=here[names[0]], dtype="int64")}
    arrays = {name: act(backend, here[name], graph.axes[name], graph.groups, action) for name in names}
    if len(pairs) > len(names):
        before = sum(_inner(backend, fixed[name], moving[name]) for name in names)
        after = sum(_inner(backend, fixed[name], widened(backend, arrays[name])) for name in names)
        if after - before <= noise:
            return None
    return delta, arrays


def _inner(backend: Backend, a: object, b: object) -> float:
    return float(backend.to_numpy(backend.sum(a * b)))  # type: ignore[operator]
