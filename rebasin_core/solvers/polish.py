"""A local search over hard plans, on the true objective: the last percent that a relaxation leaves."""

from collections.abc import Iterator, Mapping
from itertools import combinations, islice
from typing import TypeAlias

import numpy as np

from rebasin_core.backends.dtypes import is_floating
from rebasin_core.errors import DataError
from rebasin_core.models.data import batch_size
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.relaxation import relax
from rebasin_core.solvers.search import Search
from rebasin_core.solvers.weight_matching import descend
from rebasin_core.support.progress import Progress, progress_bar
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan

__all__ = ["Pair", "pairs", "polish", "promising_pairs", "swap_units"]

Pair: TypeAlias = tuple[str, tuple[int, ...], int, int]
"""A group, the place of its parent (empty without one), and two places of its permutation."""

# Products of weights and inputs that the search may spend by default, a minute on one core, and plans it may
# judge: many at once, and where the framework computes one after the other.
WORK, MOST_SWAPS, MOST_SWAPS_IN_A_LOOP = 2**39, 20_000, 256
# From how many of the best plans seen a search sets out at most: by swaps, and by assignments.
MOST_STARTS, MOST_DESCENTS = 32, 4
# Swaps judged in a round where there are too many to judge all, and the rounds that must be affordable to begin.
PROMISING, LEAST_ROUNDS = 32, 2


def polish(search: Search, max_swaps: int | None, progress: bool) -> str:
    """Improve the best plans that a search has seen; return what was done, in words.

    A distance of weights is improved by coordinate descent, one linear assignment per group, which sees every
    permutation of a group at once. Any other objective is improved by swaps of two units of one group: those that
    help, each by itself, are made together, as many as help most, until none helps. Where all swaps are too many to
    judge, only those are that promise most by the gradient. Then the next best plan seen so far is improved, as long
    as there are swaps left to judge.

    Parameters
    ----------
    search : Search
        Its best plans are the starts, its population judges, its history is continued.
    max_swaps : int or None
        Plans to judge; None: by the size of the network and of the evaluation set.
    progress : bool
        Show a progress bar.
    """
    problem = search.problem
    starts = sorted(search.values, key=lambda plan: search.values[plan])[:MOST_STARTS]
    if search.is_over or max_swaps == 0:
        return ""
    if problem.objective.matches_weights:
        for start in starts[:MOST_DESCENTS]:
            _assign(search, start)
        return "then no group of the best plans improves"
    allowed = affordable_swaps(problem) if max_swaps is None else max_swaps
    neighbors = sum(perm.size * (perm.shape[-1] - 1) // 2 for perm in search.plan.values())
    # All swaps need a round to find what helps and one to see that nothing else does.
    limit = None if LEAST_ROUNDS * neighbors <= allowed else PROMISING
    if allowed < LEAST_ROUNDS * min(neighbors, PROMISING) or not neighbors:
        return ""
    optima, left = 0, allowed
    with progress_bar(None, f"swaps, {problem.objective.name}", progress) as bar:
        for start in starts:
            spent, is_optimum = _swap(search, start, left, limit, bar)
            left -= spent
            optima += is_optimum
            if not is_optimum:
                break
    which = "no swap of two units" if limit is None else "none of the most promising swaps of two units"
    judged = f"then {allowed - left:,} swaps of two units"
    return f"{judged}, until {which} improved {optima} of the best plans" if optima else judged


def affordable_swaps(problem: Problem) -> int:
    """How many plans may be judged for `WORK`: parameters times the places where the evaluation set uses each."""
    uses = sum(_uses(sample) for _, sample in problem.objective.evaluation())
    most = MOST_SWAPS if problem.backend.vectorizes else MOST_SWAPS_IN_A_LOOP
    return int(min(most, WORK // max(1, problem.size * uses)))


def pairs(plan: Plan) -> Iterator[Pair]:
    """Every pair of places of one group; of a local group, at one place of its parent."""
    for group, perm in plan.items():
        for at in np.ndindex(perm.shape[:-1]):
            for i, j in combinations(range(perm.shape[-1]), 2):
                yield group, at, i, j


def promising_pairs(problem: Problem, plan: Plan, count: int) -> list[Pair]:
    """The pairs whose swap lowers the objective most, to first order, best first; only those that lower it.

    With the gradient ``G`` of the objective at the permutation matrix of ``p``, swapping the units at places i and j
    takes one from ``P[i, p_i]`` and ``P[j, p_j]`` and adds one to ``P[i, p_j]`` and ``P[j, p_i]``: to first order the
    objective falls by ``G[i, p_i] + G[j, p_j] - G[i, p_j] - G[j, p_i]``.
    """
    relaxation = relax(problem)
    _, gradient = relaxation.value_and_grad(dict(SoftPlan.from_plan(plan, relaxation.like)))
    found: list[tuple[float, Pair]] = []
    for group, perm in plan.items():
        G = problem.backend.to_numpy(gradient[group]).astype(float)
        for at in np.ndindex(perm.shape[:-1]):
            D = G[at][:, perm[at]]
            gain = np.triu(np.diag(D)[:, None] + np.diag(D)[None, :] - D - D.T, 1)
            best = np.argsort(-gain, axis=None, kind="stable")[:count]
            for i, j in zip(*np.unravel_index(best, gain.shape), strict=True):
                if gain[i, j] > 0:
                    found.append((float(gain[i, j]), (group, at, int(i), int(j))))
    return [pair for _, pair in sorted(found, key=lambda item: -item[0])[:count]]


def swap_units(plan: Plan, pairs: list[Pair]) -> Plan:
    """Return the plan in which the units at these places have changed places."""
    perms = {group: np.array(perm) for group, perm in plan.items()}
    for group, at, i, j in pairs:
        perm = perms[group]
        perm[(*at, i)], perm[(*at, j)] = perm[(*at, j)], perm[(*at, i)]
    return Plan(perms, plan.parents)


def _uses(sample: object) -> int:
    """How often one sample of an objective uses a weight: once per input and, in images and sequences, per place.

    How many places there are is not asked of the network: at most as many as the inputs have entries per channel, which
    are counted as the shortest axis; a vector of numbers is one place, a vector of indices as many as it is long.
    """
    while isinstance(sample, tuple) and sample and isinstance(sample[0], tuple):  # a batch and a place on the line
        sample = sample[0]
    if not isinstance(sample, tuple):
        return 1
    try:
        inputs, count = sample[0], batch_size(sample)
    except (TypeError, DataError, IndexError):
        return 1
    while isinstance(inputs, (tuple, list, Mapping)) and inputs:
        inputs = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs[0]
    axes = tuple(getattr(inputs, "shape", ()))[1:]
    if len(axes) > 1:
        return int(count * np.prod(axes) // max(1, min(axes)))
    indices = bool(axes) and not is_floating(str(inputs.dtype))
    return count * (int(axes[0]) if indices else 1)


def _assign(search: Search, plan: Plan) -> None:
    problem = search.problem
    networks = problem.params_a, problem.params_b
    sweeps = descend(problem.graph, *networks, plan, problem.rng(), problem.backend, tell=search.consider)
    for better, _ in islice(sweeps, 100):
        search.step(better, search.see(better))


def _swap(search: Search, plan: Plan, left: int, limit: int | None, bar: Progress) -> tuple[int, bool]:
    """Make the swaps that help until none does; return the plans judged and whether a local optimum was reached."""
    value, spent = search.see(plan), 0
    while True:
        candidates = list(pairs(plan)) if limit is None else promising_pairs(search.problem, plan, limit)
        if spent + len(candidates) > left:
            return spent, False
        values = search.see_all([swap_units(plan, [pair]) for pair in candidates])
        helping = [candidates[i] for i in np.argsort(values, kind="stable") if values[i] < value]
        spent += len(candidates)
        if not helping:
            return spent, True
        plans = [swap_units(plan, chosen) for chosen in _prefixes(_apart(helping))]
        values = search.see_all(plans)
        spent += len(plans) - 1
        best = int(np.argmin(values))
        plan, value = plans[best], values[best]
        search.step(plan, value)
        bar.update(f"best hard plan {search.best:.4g}")


def _apart(candidates: list[Pair]) -> list[Pair]:
    """The pairs, in order, that share no unit with an earlier one."""
    taken: set[tuple[str, tuple[int, ...], int]] = set()
    kept = []
    for group, at, i, j in candidates:
        units = {(group, at, i), (group, at, j)}
        if not units & taken:
            taken |= units
            kept.append((group, at, i, j))
    return kept


def _prefixes(chosen: list[Pair]) -> Iterator[list[Pair]]:
    """The first 1, 2, 4, ... pairs, and all of them."""
    size = 1
    while size < len(chosen):
        yield chosen[:size]
        size *= 2
    yield chosen
