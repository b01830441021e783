"""How alike the units of a group are, the other groups being as they are: the scores that assignment maximizes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.symmetry.action import occurrence_pairs, occurrences
from rebasin_core.symmetry.axes import AxesSpec, Fixed, Group
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["Move", "Reading", "Scores", "product"]

Reading: TypeAlias = tuple[AxesSpec, Array, Array]
"""Axes of a parameter, and what it holds in A and in B."""

Move: TypeAlias = tuple[Mapping[str, Array], Mapping[str, Array], Mapping[str, Array]]
"""Parameters of A, and of B before and after a group was reordered."""

# Columns up to which parameters beside each other make one product: a product that thin only writes its result.
THIN = 64

# Share of units that moved up to which the difference is computed, and not the whole.
FEW = 0.7


class Scores:
    """Derivative of ``<A, B>`` by the matrix of one group, ``sum_w A_w B_w^T``, over the parameters it appears in.

    What a parameter contributes is kept until another group that appears in it moves, and mended where few units of
    that one do; a move of the group itself only puts columns in another order. A contribution with more numbers than
    its parameter is not worth the memory.

    Parameters
    ----------
    graph : PermutationGraph
        What may be permuted.
    backend : Backend
        Of the parameters.
    keeps : bool, default True
        Whether to keep anything at all: it takes memory for as much as the parameters again.
    """

    def __init__(self, graph: PermutationGraph, backend: Backend, keeps: bool = True) -> None:
        self._graph, self._backend, self._keeps = graph, backend, keeps
        self._kept: dict[tuple[str, str], Array] = {}

    def linear(
        self, group: str, names: Sequence[str], read: Callable[[str], Reading]
    ) -> tuple[Array | None, list[Reading]]:
        """Return what the parameters contribute in which the group appears once, and the others as they were read.

        Parameters
        ----------
        group : str
            Its name.
        names : sequence of str
            The parameters it appears in.
        read : callable
            ``read(name) -> (axes, A_w, B_w)``: a parameter, that of B in its present order. Not called
            for one that is known.

        Returns
        -------
        scores : array, shape (n, n) or (parent, n, n), or None
            Of all units of A with all units of B; None where there is no such parameter.
        quadratic : list of (AxesSpec, array, array)
            The parameters in which the group appears several times.
        """
        backend = self._backend
        total: Array | None = None
        quadratic: list[Reading] = []
        thin: list[tuple[Array, Array]] = []
        for name in names:
            if (group, name) in self._kept:
                total = self._plus(total, self._kept[group, name])
                continue
            spec, a, b = read(name)
            rows = occurrences(backend, a, spec, self._graph.groups, group)
            if len(rows) > 1:
                quadratic.append((spec, a, b))
                continue
            # An array is forgotten as soon as it has served: of a network in a file, these are all there is in memory.
            count = math.prod(backend.shape(a))
            del a
            columns = occurrences(backend, b, spec, self._graph.groups, group)
            del b
            if backend.shape(rows[0])[-1] <= THIN:
                thin.append((rows[0], columns[0]))
            else:
                contribution = product(backend, rows[0], columns[0])
                del rows, columns
                self._keep(group, name, contribution, count)
                total = self._plus(total, contribution)
        if thin:
            rows, columns = (backend.concat(list(side), -1) for side in zip(*thin, strict=True))
            total = self._plus(total, product(backend, rows, columns))
        return total, quadratic

    def move(self, group: str, perm: np.ndarray, names: Sequence[str], arrays: Move | None = None) -> None:
        """Take into account that one group was reordered.

        Parameters
        ----------
        group : str
            Its name.
        perm : ndarray
            Its new order.
        names : sequence of str
            The parameters it appears in.
        arrays : three dict of str to array, optional
            The parameters of A, of B before and of B after: with them, what a parameter contributes to other groups is
            brought up to date where that is less work than a new product, that is where few units moved.
        """
        moved = np.flatnonzero(perm != np.arange(perm.shape[-1])) if perm.ndim == 1 else None
        few = arrays is not None and moved is not None and len(moved) <= FEW * len(perm)
        for name in names:
            spec = self._graph.axes[name]
            at = _whole(spec, group)
            for other in spec.groups:
                if other == group or (other, name) not in self._kept:
                    continue
                kept = self._kept.pop((other, name))
                if few and arrays is not None and at is not None:
                    three = [params[name] for params in arrays]
                    self._kept[other, name] = kept + self._difference(other, spec, at, moved, three)
            kept = self._kept.get((group, name))
            if kept is not None:
                index = self._backend.asarray(perm, like=kept, dtype="int64")
                self._kept[group, name] = self._backend.take(kept, index, 1)

    def _difference(self, other: str, spec: AxesSpec, at: int, moved: Any, arrays: list[Array]) -> Array:
        """What units that moved along an axis add to a contribution to `other`; the rest of its sum is as it was."""
        backend = self._backend
        index = backend.asarray(moved, like=arrays[0], dtype="int64")
        a, before, change = (backend.take(x, index, at) for x in arrays)
        change -= before  # in place, where the framework can
        rest = AxesSpec.of(*(Fixed() if i == at else axis for i, axis in enumerate(spec.axes)))
        (pair,) = occurrence_pairs(backend, a, change, rest, self._graph.groups, other)
        return product(backend, *pair)

    def _plus(self, total: Array | None, contribution: Array) -> Array:
        if total is None:
            return contribution
        if self._keeps:  # the total may be one that is kept
            return total + contribution
        total += contribution
        return total

    def _keep(self, group: str, name: str, contribution: Array, count: int) -> None:
        # Local groups go with their parent, which moves whole blocks of theirs.
        if self._keeps and math.prod(contribution.shape) <= count and group not in self._graph.parents:
            self._kept[group, name] = contribution


def _whole(spec: AxesSpec, group: str) -> int | None:
    """The axis that a group makes up alone, where it stands nowhere else; None where there is none such."""
    if [node.name for node in spec.group_nodes].count(group) > 1:
        return None
    return next((i for i, axis in enumerate(spec.axes) if axis == Group(group)), None)


def product(backend: Backend, a: Array, b: Array) -> Array:
    """``a @ b.T``, over the last two axes."""
    return backend.matmul(a, b, transpose_y=True)
