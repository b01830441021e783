"""Local groups: which cells may take an order of their own for every element of another cell.

Each attention head has its own order of channels. A cell D is local to a cell H when every tensor that varies along D
says which element of H it belongs to, and every operation keeps that link:

* an operand that holds D holds H exactly once, in the entries of D themselves or along one other axis;
* operands that share D share that H;
* a result that keeps D keeps H;
* the notation can say it: every parameter axis of D holds H beside it, or H alone is another axis of that parameter.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rebasin_core.inference.record import Event, Operand, Recorder
from rebasin_core.inference.solve import NodeClasses
from rebasin_core.inference.tensors import Ids

__all__ = ["find_parents"]


@dataclass(frozen=True, eq=False)
class _Array:
    """Which cells stand in an array: per cell, how often in every entry."""

    counts: Mapping[int, npt.NDArray[np.int64]]
    order: Mapping[int, int]
    plain: int | None

    def beside(self, child: int, parent: int) -> bool:
        """Whether every entry that holds the child holds the parent once."""
        if parent not in self.counts:
            return False
        return bool(np.all(self.counts[parent][self.counts[child] > 0] == 1))

    def indexes(self, parent: int) -> bool:
        """Whether every entry holds the parent once."""
        return parent in self.counts and bool(np.all(self.counts[parent] == 1))


class _Arrays:
    """Descriptions of arrays by their classes, each made once."""

    def __init__(self, solution: NodeClasses, cells: Ids, rank: Ids) -> None:
        self.solution, self.cells, self.rank = solution, cells, rank
        self.sizes = np.bincount(cells)
        self.movable = (self.sizes[cells] > 1) & ~solution.pinned
        self.known: dict[bytes, _Array] = {}

    def describe(self, ids: Ids) -> _Array:
        classes = self.solution.classes[ids.reshape(-1)]
        key = classes.tobytes()
        if key not in self.known:
            self.known[key] = self._describe(self.solution.labels[classes])
        return self.known[key]

    def _describe(self, labels: npt.NDArray[np.int64]) -> _Array:
        held = (labels >= 0) & self.movable[labels]
        cells = np.where(held, self.cells[labels], -1)
        counts: dict[int, npt.NDArray[np.int64]] = {}
        order: dict[int, int] = {}
        for cell in np.unique(cells[held]).tolist():
            counts[cell] = (cells == cell).sum(axis=1)
            order[cell] = int(np.flatnonzero((cells == cell).any(axis=0))[0])
        plain = None
        if len(counts) == 1:
            (cell,) = counts
            alone = bool(np.all((labels >= 0).sum(axis=1) == 1)) and len(labels) == self.sizes[cell]
            if alone and np.array_equal(self.rank[labels[:, 0]], np.arange(len(labels))):
                plain = cell
        return _Array(counts, order, plain)


def find_parents(recorder: Recorder, solution: NodeClasses, cells: Ids, rank: Ids) -> dict[int, int]:
    """Find for every local cell the cell it is local to.

    Parameters
    ----------
    recorder, solution
        What was traced, and its classes.
    cells : array of int, shape (classes,)
        Cell of every leaf.
    rank : array of int, shape (classes,)
        Position of every leaf within its cell.

    Returns
    -------
    dict of int to int
        Parents are never local themselves.
    """
    arrays = _Arrays(solution, cells, rank)
    candidates: dict[int, set[int]] = {}
    outer: dict[int, set[int]] = {}
    for param in recorder.params.values():
        described = [arrays.describe(ids) for ids in param.ids if ids.size > 1]
        _narrow(candidates, described, is_param=True)
        for array in described:
            for child, slot in array.order.items():
                before = {cell for cell, other in array.order.items() if other < slot}
                outer.setdefault(child, set()).update(before)
    held_in: dict[int, list[Event]] = {}
    for event in recorder.events:
        for operand in event.operands:
            _narrow(candidates, [arrays.describe(ids) for ids, _ in operand.arrays], is_param=False)
        for cell in {c for o in event.operands for ids, _ in o.arrays for c in arrays.describe(ids).counts}:
            held_in.setdefault(cell, []).append(event)
    valid = {
        child: {p for p in parents if all(_links(e, child, p, arrays) for e in held_in.get(child, []))}
        for child, parents in candidates.items()
        if parents
    }
    return _choose(valid, outer)


def _narrow(candidates: dict[int, set[int]], described: Sequence[_Array], *, is_param: bool) -> None:
    """Keep for every cell of an operand the parents that this operand allows."""
    for a, array in enumerate(described):
        for child in array.counts:
            known = candidates.get(child)
            around = {cell for other in described for cell in other.counts if cell != child}
            possible = around if known is None else known & around
            candidates[child] = {p for p in possible if _holder(described, a, child, p, is_param) is not None}


def _holder(described: Sequence[_Array], a: int, child: int, parent: int, is_param: bool) -> int | None:
    """Which array of an operand tells the element of the parent for the child in array `a`."""
    with_parent = [b for b, other in enumerate(described) if parent in other.counts]
    if with_parent == [a]:
        return a if described[a].beside(child, parent) else None
    if len(with_parent) != 1 or not described[with_parent[0]].indexes(parent):
        return None
    if is_param and described[with_parent[0]].plain != parent:
        return None
    return with_parent[0]


def _holders(operand: Operand, child: int, parent: int, arrays: _Arrays) -> Iterator[tuple[frozenset[Hashable], ...]]:
    """For every array of an operand that holds the child: its places, and those of the array that tells the parent."""
    described = [arrays.describe(ids) for ids, _ in operand.arrays]
    for a, array in enumerate(described):
        if child in array.counts:
            b = _holder(described, a, child, parent, is_param=False)
            yield operand.arrays[a][1], operand.arrays[a if b is None else b][1]


def _links(event: Event, child: int, parent: int, arrays: _Arrays) -> bool:
    """Whether an operation keeps the link between a child and its parent."""
    pairs = [pair for operand in event.operands for pair in _holders(operand, child, parent, arrays)]
    for child_places, parent_places in pairs:
        if child_places != parent_places and child_places & event.kept and not parent_places <= event.kept:
            return False
    for k, (child_places, parent_places) in enumerate(pairs):
        for other_child, other_parent in pairs[:k]:
            if child_places & other_child and parent_places != other_parent:
                return False
    return True


def _choose(valid: Mapping[int, set[int]], outer: Mapping[int, set[int]]) -> dict[int, int]:
    """Choose a parent for as many cells as possible, the outer factor of a product first; parents stay plain."""
    parents: dict[int, int] = {}
    for stand_outside in (True, False):
        for child in sorted(valid):
            if child in parents or child in parents.values():
                continue
            fit = [p for p in sorted(valid[child]) if p not in parents]
            fit = [p for p in fit if (p in outer.get(child, ())) or not stand_outside]
            if fit:
                parents[child] = fit[0]
    return parents
