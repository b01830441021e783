"""Where weight matching sets out: from nothing known, one group after the other, the most certain first."""

import numpy as np

from rebasin_core.actions import act
from rebasin_core.assignment import linear_assignment
from rebasin_core.axes import AxesSpec, Fixed, Group
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.graph import PermutationGraph
from rebasin_core.objectives.base import Params
from rebasin_core.objectives.weights import inner_product
from rebasin_core.plan import Plan
from rebasin_core.precision import widened
from rebasin_core.soft_plan import SoftPlan
from rebasin_core.solvers.scores import Reading, Scores

__all__ = ["first_guess", "uniform_matrices"]


def first_guess(
    graph: PermutationGraph, params_a: Params, params_b: Params, backend: Backend, scores: Scores | None = None
) -> Plan:
    """Match every group once, by what can be said of it while the groups beside it are still unknown.

    An unknown group mixes its units evenly, by the centre of the doubly stochastic matrices. What is left of a weight
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
    adds to the similarity. With ``D`` its double-centred form (adding a number to a row or a column favours no
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
    names, known = graph.learned, scores or Scores(graph, backend)
    a, b = ({name: widened(backend, params[name]) for name in names} for params in (params_a, params_b))
    touching = {g: [name for name in names if g in graph.axes[name].groups] for g in graph.groups}
    unknown = {g: m for g, m in uniform_matrices(graph).items() if touching[g]}
    plan = Plan.identity(graph)
    found: dict[str, tuple[float, np.ndarray]] = {}
    while unknown:
        # A local group orders what its parent's places hold, so that it waits for its parent.
        ready = [g for g in unknown if graph.parents.get(g) not in unknown]
        for group in ready:
            if group not in found:
                found[group] = _match(graph, a, b, touching[group], group, unknown, backend, known)
        # Rounded, so that groups of two units, all equally certain, go in the order of the graph on every machine.
        group = max(ready, key=lambda g: round(found[g][0], 6))
        perm = found.pop(group)[1]
        del unknown[group]
        plan = plan.replace(group, perm)
        known.move(group, perm, touching[group])
        for name in touching[group]:
            action = backend.asarray(perm, like=b[name], dtype="int64")
            b[name] = act(backend, b[name], graph.axes[name], graph.groups, {group: action})
            for beside in graph.axes[name].groups:
                found.pop(beside, None)
    return plan


def uniform_matrices(graph: PermutationGraph) -> dict[str, np.ndarray]:
    """Per group, the centre of the doubly stochastic matrices: every entry 1 / n."""
    return {g: np.full(m.shape, 1.0 / m.shape[-1]) for g, m in SoftPlan.identity(graph).items()}


def _match(
    graph: PermutationGraph,
    a: Params,
    b: Params,
    names: list[str],
    group: str,
    unknown: dict[str, np.ndarray],
    backend: Backend,
    known: Scores,
) -> tuple[float, np.ndarray]:
    """How much the best assignment of one group stands out from chance, and the assignment."""

    def read(name: str) -> Reading:
        spec, x, y = _without_unknown_axes(graph, graph.axes[name], a[name], b[name], group, unknown, backend)
        mixed = {g: backend.asarray(unknown[g], like=y) for g in spec.groups if g in unknown and g != group}
        return spec, x, act(backend, y, spec, graph.groups, mixed)

    linear, quadratic = known.linear(group, names, read)
    scores = np.zeros(unknown[group].shape) if linear is None else backend.to_numpy(linear)

    def similarity(soft: dict[str, Array]) -> Array:
        total: Array = 0.0
        for spec, x, y in quadratic:
            matrix = backend.astype(soft[group], backend.dtype(y))
            total = total + inner_product({"": x}, {"": act(backend, y, spec, graph.groups, {group: matrix})})
        return total

    if quadratic:
        centre = backend.asarray(unknown[group], like=b[names[0]])
        scores = scores + backend.to_numpy(backend.value_and_grad(similarity, {group: centre})[1][group])
    scores = scores.astype(np.float64)
    perm = linear_assignment(scores)
    centred = scores - scores.mean(axis=-1, keepdims=True)
    centred -= centred.mean(axis=-2, keepdims=True)
    picked = np.take_along_axis(centred, perm[..., None], axis=-1)
    others = (centred**2).sum() - (picked**2).sum()
    spread = np.sqrt(max(others, 0.0) / max(centred.size - picked.size, 1))
    return float(picked.mean() / spread) if spread > 0 else 0.0, perm


def _without_unknown_axes(
    graph: PermutationGraph,
    spec: AxesSpec,
    fixed: Array,
    moving: Array,
    group: str,
    unknown: dict[str, np.ndarray],
    backend: Backend,
) -> tuple[AxesSpec, Array, Array]:
    """Sum out whole axes of unknown groups.

    Mixing evenly is a projection, so that ``<A, E B> = <E A, E B>``, and along a whole axis what is left of E A and
    E B is the same in all n places: the inner product of their sums, over n.
    """
    axes = list(spec.axes)
    for i, axis in enumerate(axes):
        if isinstance(axis, Group) and axis.parent is None and axis.name in unknown and axis.name != group:
            if any(graph.parents.get(g) == axis.name for g in spec.groups):
                continue
            axes[i] = Fixed()
            fixed = backend.sum(fixed, axis=i, keepdims=True)
            moving = backend.sum(moving, axis=i, keepdims=True) / graph.groups[axis.name]
    return AxesSpec.of(*axes), fixed, moving
