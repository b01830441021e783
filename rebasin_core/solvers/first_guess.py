"""Where weight matching sets out: from nothing known, one group after the other, the most certain first."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.objectives.weights import inner_product
from rebasin_core.solvers.lazy import LazyParams, reorder_params, widen_params
from rebasin_core.solvers.scores import Reading, Scores
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.assignment import linear_assignment
from rebasin_core.symmetry.axes import AxesSpec, Axis, Fixed, Group, Product, size
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["first_guess", "first_guess_and_params", "uniform_matrices"]


def first_guess(
    graph: PermutationGraph,
    params_a: Mapping[str, Array],
    params_b: Mapping[str, Array],
    backend: Backend,
    scores: Scores | None = None,
) -> Plan:
    """Match every group once, by what can be said of it while the groups beside it are still unknown.

    An unknown group mixes its units evenly, by the center of the doubly stochastic matrices. What is left of a weight
    matrix is its row sums: they are the same whatever the permutation of the columns, so that they tell the rows apart
    before anything is known of the columns. Of all groups, the one whose assignment stands out most from chance is
    fixed, then those beside it are looked at again.

    The order is what coordinate descent from the identity lacks: there, a block of a residual network is matched to a
    stream that is still in a wrong order, and holds it there ever after.

    Parameters
    ----------
    graph : PermutationGraph
        What may be permuted.
    params_a, params_b : dict of str to array
        The fixed network and the one to re-base.
    backend : Backend
        Theirs.
    scores : Scores, optional
        Where to leave what came out on the way of the scores at the plan, for `descend`.

    Returns
    -------
    Plan
        A start for `descend`, seldom a local optimum.

    Notes
    -----
    ``S = d <A, pi_P(B)> / dP`` of the group, all of whose occurrences are mixed evenly, holds what every pair of units
    adds to the similarity. With ``D`` its double-centerd form (adding a number to a row or a column favours no
    permutation), an assignment stands out by the mean of the entries it picks over the root mean square of the others.

    Examples
    --------
    >>> import rebasin_core as rb
    >>> from rebasin_core.backends import get_backend
    >>> rng = np.random.default_rng(0)
    >>> a = {"w1": rng.normal(size=(8, 3)), "w2": rng.normal(size=(9, 8)), "w3": rng.normal(size=(2, 9))}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h1 .", "w2": "h2 h1", "w3": ". h2"}, a)
    >>> plan = rb.Plan.random(graph, seed=1)
    >>> first_guess(graph, a, rb.permute(a, plan, graph), get_backend(a["w1"])) == plan.inverse()
    True
    """
    return first_guess_and_params(graph, params_a, params_b, backend, scores)[0]


def first_guess_and_params(
    graph: PermutationGraph,
    params_a: Mapping[str, Array],
    params_b: Mapping[str, Array],
    backend: Backend,
    scores: Scores | None = None,
    tell: Callable[[Plan], None] | None = None,
) -> tuple[Plan, dict[str, Array] | LazyParams]:
    """`first_guess`, and the learned parameters of B in its order; `tell` is called with the plan after every group."""
    names, known = graph.learned, scores or Scores(graph, backend)
    a, b = (widen_params(backend, params, names) for params in (params_a, params_b))
    touching = {g: [name for name in names if g in graph.axes[name].groups] for g in graph.groups}
    unknown = {g for g in graph.groups if touching[g]}
    plan = Plan.identity(graph)
    found: dict[str, tuple[float, np.ndarray]] = {}
    while unknown:
        # A local group orders what its parent's places hold, so that it waits for its parent.
        ready = [g for g in graph.groups if g in unknown and graph.parents.get(g) not in unknown]
        for group in ready:
            if group not in found:
                found[group] = _match(graph, a, b, touching[group], group, unknown, backend, known)
        # Rounded, so that groups of two units, all equally certain, go in the order of the graph on every machine.
        group = max(ready, key=lambda g: round(found[g][0], 6))
        perm = found.pop(group)[1]
        unknown.remove(group)
        plan = plan.replace(group, perm)
        known.move(group, perm, touching[group])
        b.update(reorder_params(backend, b, touching[group], graph, group, perm))
        for name in touching[group]:
            for beside in graph.axes[name].groups:
                found.pop(beside, None)
        if tell is not None:
            tell(plan)
    return plan, b


def uniform_matrices(graph: PermutationGraph) -> dict[str, np.ndarray]:
    """Per group, the center of the doubly stochastic matrices: every entry 1 / n."""
    return {g: _uniform_matrix(graph, g) for g in graph.groups}


def _uniform_matrix(graph: PermutationGraph, group: str) -> np.ndarray:
    n = graph.groups[group]
    batch = (graph.groups[graph.parents[group]],) if group in graph.parents else ()
    return np.full((*batch, n, n), 1.0 / n)


def _match(
    graph: PermutationGraph,
    a: Mapping[str, Array],
    b: Mapping[str, Array],
    names: list[str],
    group: str,
    unknown: set[str],
    backend: Backend,
    known: Scores,
) -> tuple[float, np.ndarray]:
    """How much the best assignment of one group stands out from chance, and the assignment."""

    def read(name: str) -> Reading:
        spec, x, y = _without_unknown_axes(graph, graph.axes[name], a[name], b[name], group, unknown, backend)
        others = [g for g in spec.groups if g in unknown and g != group]
        mixed = {g: backend.asarray(_uniform_matrix(graph, g), like=y) for g in others}
        return spec, x, act(backend, y, spec, graph.groups, mixed)

    linear, quadratic = known.linear(group, names, read)
    scores = np.zeros_like(_uniform_matrix(graph, group)) if linear is None else backend.to_numpy(linear)
    del linear

    def similarity(soft: dict[str, Array]) -> Array:
        total: Array = 0.0
        for spec, x, y in quadratic:
            matrix = backend.astype(soft[group], backend.dtype(y))
            total = total + inner_product({"": x}, {"": act(backend, y, spec, graph.groups, {group: matrix})})
        return total

    if quadratic:
        center = backend.asarray(_uniform_matrix(graph, group), like=quadratic[0][2])
        scores = scores + backend.to_numpy(backend.value_and_grad(similarity, {group: center})[1][group])
    perm = linear_assignment(scores)
    scores = scores.astype(np.float64, copy=False)
    # In place: the scores of a wide group are the most that there is of it in memory.
    scores -= scores.mean(axis=-1, keepdims=True)
    scores -= scores.mean(axis=-2, keepdims=True)
    picked = np.take_along_axis(scores, perm[..., None], axis=-1)
    others = np.square(scores, out=scores).sum() - (picked**2).sum()
    spread = np.sqrt(max(others, 0.0) / max(scores.size - picked.size, 1))
    return float(picked.mean() / spread) if spread > 0 else 0.0, perm


def _without_unknown_axes(
    graph: PermutationGraph,
    spec: AxesSpec,
    fixed: Array,
    moving: Array,
    group: str,
    unknown: set[str],
    backend: Backend,
) -> tuple[AxesSpec, Array, Array]:
    """Sum out axes of unknown groups, and factors of axes.

    Mixing evenly is a projection, so that ``<A, E B> = <E A, E B>``, and along an axis what is left of E A and E B is
    the same in all n places: the inner product of their sums, over n.
    """
    parents = {graph.parents.get(g) for g in spec.groups}

    def is_summed(axis: Axis) -> bool:
        if not isinstance(axis, Group) or axis.parent is not None:
            return False
        return axis.name in unknown and axis.name != group and axis.name not in parents

    axes = list(spec.axes)
    for i, axis in enumerate(spec.axes):
        factors = axis.factors if isinstance(axis, Product) else (axis,)
        rest = [factor for factor in factors if not is_summed(factor)]
        if len(rest) == len(factors):
            continue
        lengths = [size(factor, graph.groups) for factor in factors]
        away = tuple(i + j for j, factor in enumerate(factors) if is_summed(factor))
        kept = math.prod(size(factor, graph.groups) for factor in rest)
        shape = backend.shape(fixed)
        split, merged = ((*shape[:i], *middle, *shape[i + 1 :]) for middle in (lengths, [kept]))
        fixed, moving = (
            backend.reshape(backend.sum(backend.reshape(x, split), axis=away), merged) for x in (fixed, moving)
        )
        moving = moving / (math.prod(lengths) / kept)
        axes[i] = Product(tuple(rest)) if len(rest) > 1 else rest[0] if rest else Fixed()
    return AxesSpec.of(*axes), fixed, moving
