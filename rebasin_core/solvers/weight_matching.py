"""Weight matching: coordinate descent over groups, a linear assignment each (Git Re-Basin, 2209.04836)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import ClassVar

import numpy as np

from rebasin_core.backends.dtypes import resolution
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.backends.scalars import as_number
from rebasin_core.objectives.base import Params
from rebasin_core.objectives.weights import inner_product
from rebasin_core.solvers.base import Solution
from rebasin_core.solvers.first_guess import first_guess_and_params
from rebasin_core.solvers.fits import misfit
from rebasin_core.solvers.lazy import LazyParams, reorder_params, widen_params
from rebasin_core.solvers.pair_swaps import helpful_swaps
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.scores import Scores, product
from rebasin_core.solvers.search import OVER, Search, run_search
from rebasin_core.support.progress import progress_bar
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.action import occurrence_pairs
from rebasin_core.symmetry.assignment import linear_assignment
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["WeightMatching", "descend"]

# Starts by default, where the weights that move hold at most so many numbers.
MOST_STARTS, SMALL = 3, 2**20


@dataclass(frozen=True, kw_only=True)
class WeightMatching:
    """Maximize the inner product of the weights, one group at a time.

    ``|A - pi(B)|^2 = |A|^2 + |B|^2 - 2 <A, pi(B)>``, and the inner product is linear in one group's permutation when
    the others are held, so that a linear assignment finds the best one exactly. Sweeps over the groups in random
    order go on until no group moves. A group that appears twice in one parameter, such as the units of a recurrent
    layer, makes it quadratic: there swaps of two units follow. The result is a local optimum of either move: several
    starts are made, and the best is returned.

    A plan to start from is the first start, if there is one. The next is `first_guess`, which takes the groups in the
    order of how certain they are and finds planted permutations of deep residual networks, which the identity and
    random plans miss. Then comes the identity, for networks that lie close already; all others are random.

    Choose it for wide networks: it needs no data, no gradient of yours, and takes seconds.

    Parameters
    ----------
    num_starts : int, optional
        How many starting plans. Default: 3 up to a million numbers in weights that move, 1 for larger networks,
        where a start takes seconds.
    max_sweeps : int, default 100
        Sweeps over all groups, per start.

    Raises
    ------
    SettingError
        A setting is out of its range.

    References
    ----------
    .. [1] S. Ainsworth, J. Hayase, S. Srinivasa. Git Re-Basin: Merging Models modulo Permutation Symmetries. ICLR 2023,
       Algorithm 1.

    Examples
    --------
    >>> import rebasin_core as rb
    >>> rng = np.random.default_rng(0)
    >>> a = {"w1": rng.normal(size=(8, 4)), "w2": rng.normal(size=(2, 8))}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, a)
    >>> b = rb.permute(a, rb.Plan.random(graph), graph)
    >>> rb.align(a, b, graph=graph, solver=WeightMatching(), progress=False).objective
    0.0
    """

    num_starts: int | None = None
    max_sweeps: int = 100
    name: ClassVar[str] = "weight matching"

    def __post_init__(self) -> None:
        at_least(1, max_sweeps=self.max_sweeps)
        if self.num_starts is not None:
            at_least(1, num_starts=self.num_starts)

    def solve(self, problem: Problem, progress: bool = True) -> Solution:
        """Return the best plan of all starts.

        Raises
        ------
        SettingError
            The objective is not a distance of weights.
        """
        if not problem.objective.matches_weights:
            needs = "a distance of weights, objectives.L2() or objectives.Cosine()"
            raise misfit("WeightMatching", needs, problem.objective)
        return run_search(problem, partial(self._find, progress=progress))

    def _find(self, search: Search, progress: bool) -> tuple[bool, str]:
        problem, rng = search.problem, search.problem.rng()
        unfinished, count = 0, self.num_starts or (MOST_STARTS if problem.size <= SMALL else 1)
        with progress_bar(None, "weight matching", progress) as bar:
            for start in range(count):
                graph, backend = problem.graph, problem.backend
                # A network that is not in memory needs no memory for what comes of it either.
                scores = Scores(graph, backend, keeps=not isinstance(problem.params_b, LazyParams))
                plan, here = _start(search, start, rng, scores)
                networks = problem.params_a, problem.params_b
                sweeps = descend(graph, *networks, plan, rng, backend, scores, here, search.consider)
                for sweep, (plan, moved) in enumerate(islice(sweeps, self.max_sweeps), 1):
                    # Judging reads all weights again, and every plan is better than the last: the last one says it all.
                    if problem.size <= SMALL or not moved or sweep == self.max_sweeps:
                        search.step(plan, search.see(plan))
                    bar.update(f"start {start + 1} of {count}, {problem.objective.name} {search.best:.6g}")
                    if search.is_over:
                        return True, OVER
                unfinished += moved
        if unfinished:
            return False, f"{unfinished} of {count} starts reached max_sweeps={self.max_sweeps}"
        return True, "no group improves any more"


def _start(
    search: Search, index: int, rng: np.random.Generator, scores: Scores
) -> tuple[Plan, Params | LazyParams | None]:
    """A plan, and the learned parameters of B as it puts them, where they are at hand."""
    problem = search.problem
    if problem.start is not None:
        if index == 0:
            return problem.start, None
        index -= 1
    if index == 0:
        networks = problem.params_a, problem.params_b
        return first_guess_and_params(problem.graph, *networks, problem.backend, scores, search.consider)
    return Plan.identity(problem.graph) if index == 1 else Plan.random(problem.graph, rng), None


def descend(
    graph: PermutationGraph,
    params_a: Mapping[str, Array],
    params_b: Mapping[str, Array],
    plan: Plan,
    rng: np.random.Generator,
    backend: Backend,
    scores: Scores | None = None,
    here: Params | LazyParams | None = None,
    tell: Callable[[Plan], None] | None = None,
) -> Iterator[tuple[Plan, bool]]:
    """Improve a plan, sweep by sweep, until nothing changes; yield the plan after each and whether it changed.

    The similarity ``<A, pi(B)>`` over the learned parameters never falls. A group is looked at again only after a group
    that shares a parameter with it has moved: until then, its assignment is still the best one. A group that appears
    several times in one parameter makes the similarity quadratic: there an assignment is only a direction, taken if it
    is measured to help, and swaps of two units follow where it does not. From whoever made the plan, `scores` may hold
    what is known of them there, and `here` the learned parameters of B as it puts them; both are brought up to date.
    `tell` is called with the plan after every group: a sweep over a large network takes minutes.
    """
    scores = scores or Scores(graph, backend)
    touching = {g: [name for name in graph.learned if g in graph.axes[name].groups] for g in graph.groups}
    neighbors = {g: {h for name in names for h in graph.axes[name].groups} - {g} for g, names in touching.items()}
    if here is None:
        here = params_b.at(plan) if isinstance(params_b, LazyParams) else plan.apply(params_b, graph)
    stale = {g for g in graph.groups if touching[g]}
    moved = True
    while moved:
        moved = False
        for group in rng.permutation(list(graph.groups)):
            if group not in stale:
                continue
            stale.discard(group)
            for perm, arrays in _steps(graph, params_a, here, group, touching[group], backend, scores):
                plan = plan.reorder(group, perm)
                here.update(arrays)
                stale |= neighbors[group]
                moved = True
            if tell is not None:
                tell(plan)
        yield plan, moved


def _steps(
    graph: PermutationGraph,
    params_a: Mapping[str, Array],
    here: Params | LazyParams,
    group: str,
    names: list[str],
    backend: Backend,
    known: Scores,
) -> Iterator[tuple[np.ndarray, Params | LazyParams]]:
    """Reorderings of one group that help, one after the other, each with the parameters it moves.

    `here` holds the parameters in their present order, and is brought up to date by the caller after every step.
    """
    fixed = widen_params(backend, params_a, names)
    while True:
        moving = widen_params(backend, here, names)
        similarity, doubled = known.linear(group, names, lambda name: (graph.axes[name], fixed[name], moving[name]))  # noqa: B023
        for spec, a, b in doubled:
            for pair in occurrence_pairs(backend, a, b, spec, graph.groups, group):
                part = product(backend, *pair)
                similarity = part if similarity is None else similarity + part
        # What rounding alone may do to a sum of this many products of this size.
        unit = resolution(backend.dtype(similarity))
        scores = backend.to_numpy(similarity)
        del similarity
        noise = unit * float(np.abs(scores).sum(axis=-1, dtype=np.float64).max())
        swaps = partial(helpful_swaps, backend, scores, fixed, moving, graph, group)
        before = _inner(fixed, moving) if doubled else 0.0
        for perm in _proposals(scores, noise, swaps if doubled and group not in graph.parents else None):
            arrays = reorder_params(backend, here, names, graph, group, perm)
            if not doubled or _inner(fixed, arrays) - before > noise:
                after = widen_params(backend, arrays, names)
                known.move(group, perm, names, (fixed, moving, after))
                yield perm, arrays
                break
        else:
            return
        if not doubled:
            return


def _proposals(
    scores: np.ndarray, noise: float, swaps: Callable[[], list[tuple[int, int]]] | None
) -> Iterator[np.ndarray]:
    """Orders of one group that promise to help: the best assignment; where that may fail, swaps, ever fewer at once."""
    perm = linear_assignment(scores)
    # Unit by unit, so that the identity gains nothing at all, not even by rounding.
    picked = np.take_along_axis(scores, perm[..., None], axis=-1)[..., 0]
    gains = np.subtract(picked, np.diagonal(scores, axis1=-2, axis2=-1), dtype=np.float64)
    if gains.sum() > noise:
        yield perm
    chosen = swaps() if swaps else []
    while chosen:
        perm = np.arange(len(scores))
        first, second = np.transpose(chosen)
        perm[first], perm[second] = second, first
        yield perm
        chosen = chosen[: len(chosen) // 2]


def _inner(a: Mapping[str, Array], b: Mapping[str, Array]) -> float:
    return as_number(inner_product(a, b), "an inner product")
