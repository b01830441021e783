"""Swaps of two units of a group that appears twice in one parameter, where an assignment no longer helps."""

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np

from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.symmetry.axes import AxesSpec, Axis, Gather, Group, Product, Sum, size
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["helpful_swaps"]


def helpful_swaps(
    backend: Backend,
    scores: np.ndarray,
    fixed: Mapping[str, Array],
    moving: Mapping[str, Array],
    graph: PermutationGraph,
    group: str,
) -> list[tuple[int, int]]:
    """Pairs of units to swap, each unit at most once, the swap with the highest gain first.

    Parameters
    ----------
    backend : Backend
        Of the parameters.
    scores : ndarray, shape (n, n)
        Derivative of the similarity ``<A, pi_P(B)>`` by the group's matrix, with B in its present order.
    fixed, moving : dict of str to array
        The parameters of A, and of B in its present order, in which the group appears.
    graph : PermutationGraph
        Their axes.
    group : str
        A plain group.

    Returns
    -------
    list of (int, int)
        The first swap alone raises the similarity by exactly its gain, unless the group appears more than twice in one
        parameter; the others are helpful alone, and may not be together.

    Notes
    -----
    Swapping i and j is ``P = I - u u^T`` with ``u = e_i - e_j``. The similarity is quadratic in P where the group
    stands twice, so that its second-order expansion is exact:

    ``gain = -u^T S u + sum_r (u^T A_r u) (u^T B_r u)``,

    with S the scores and r over the entries of all other axes. Here ``u^T M u = M_ii + M_jj - M_ij - M_ji``.
    """
    gains = -_curvature(scores.astype(np.float64))
    for name in fixed:
        if [node.name for node in graph.axes[name].group_nodes].count(group) < 2:
            continue  # linear: all in the scores
        both = np.stack([backend.to_numpy(x[name]) for x in (fixed, moving)]).astype(np.float64)
        for block, places in _blocks(both, graph.axes[name].axes, 0, (), graph.groups, group):
            for first, second in combinations(places, 2):
                slices = np.moveaxis(block, (first, second), (-2, -1)).reshape(2, -1, *scores.shape)
                for a, b in slices.swapaxes(0, 1):
                    gains += _curvature(a) * _curvature(b)
    chosen: list[tuple[int, int]] = []
    free = np.ones(len(scores), dtype=bool)
    i, j = np.triu_indices(len(scores), 1)
    helpful = np.flatnonzero(gains[i, j] > 0)
    for k in helpful[np.argsort(-gains[i, j][helpful], kind="stable")]:
        if free[i[k]] and free[j[k]]:
            free[[i[k], j[k]]] = False
            chosen.append((int(i[k]), int(j[k])))
        if free.sum() < 2:
            break
    return chosen


def _curvature(matrix: np.ndarray) -> np.ndarray:
    """``u^T M u`` for every pair of units."""
    diagonal = np.diagonal(matrix)
    return np.asarray(diagonal[:, None] + diagonal - matrix - matrix.T)


def _blocks(
    x: np.ndarray, axes: tuple[Axis, ...], at: int, places: tuple[int, ...], sizes: Mapping[str, int], group: str
) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """Cut an array at the sums of its notation until `group` stands on whole axes only; yield parts and those axes.

    The array has one axis more, in front, than `axes`; those before `at` are done.
    """
    if at == len(axes):
        yield x, places
        return
    axis = axes[at]
    if group not in AxesSpec.of(axis).groups:
        yield from _blocks(x, axes, at + 1, places, sizes, group)
        return
    before, after = axes[:at], axes[at + 1 :]
    match axis:
        case Product(factors):
            shape = (*x.shape[: at + 1], *(size(f, sizes) for f in factors), *x.shape[at + 2 :])
            yield from _blocks(x.reshape(shape), (*before, *factors, *after), at, places, sizes, group)
        case Sum(terms):
            ends = np.cumsum([size(term, sizes) for term in terms])[:-1]
            for part, term in zip(np.split(x, ends, axis=at + 1), terms, strict=True):
                yield from _blocks(part, (*before, term, *after), at, places, sizes, group)
        case Gather(inner, order):
            there = np.take(x, np.argsort(order), axis=at + 1)
            yield from _blocks(there, (*before, inner, *after), at, places, sizes, group)
        case Group():
            yield from _blocks(x, axes, at + 1, (*places, at + 1), sizes, group)
