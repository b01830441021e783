"""Which leaves may be exchanged: color refinement, and a proof by generators.

Two leaves are in one *cell* when they stand in the same arrays in the same way, beside leaves of the same cells.
Every cell is then a candidate group. The candidate is proven by letting two generators of its symmetric group, a
transposition and a cycle, act on every array it appears in: labels must be mapped onto themselves as a multiset, and
the movement must commute with every rearrangement. A cell that fails stays.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from rebasin_core.inference.record import Rearrangement, Recorder
from rebasin_core.inference.solve import NodeClasses
from rebasin_core.inference.tensors import Ids

__all__ = ["find_cells"]

Labels = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def find_cells(recorder: Recorder, solution: NodeClasses) -> Ids:
    """Find the cell of every leaf; leaves that stay, and classes that are no leaves, have cells of their own.

    Returns
    -------
    array of int, shape (classes,)
        Equal numbers for leaves that may be exchanged. Leaves of cells that failed are pinned in `solution`.
    """
    arrays = _distinct_arrays(recorder, solution)
    while True:
        cells = _refine(arrays, solution.pinned)
        failed = _failing(recorder, solution, arrays, cells)
        if not failed:
            return cells
        for cell in failed:
            leaves = np.flatnonzero(cells == cell)
            solution.pin(leaves, "stands in repeated or incomplete products, whose order cannot be told apart")


def _distinct_arrays(recorder: Recorder, solution: NodeClasses) -> list[Labels]:
    """Labels of every array that was read, and of every parameter axis, each once."""
    found: dict[bytes, Labels] = {}
    sources = [*recorder.reads.values(), *(ids for p in recorder.params.values() for ids in p.ids)]
    for ids in sources:
        classes = solution.classes[ids.reshape(-1)]
        # The order along an array does not matter here, so arrays that differ by it count once.
        key = np.sort(classes)
        found.setdefault(key.tobytes(), solution.labels[key])
    return list(found.values())


def _mix(x: Hashes) -> Hashes:
    """Scramble 64-bit integers (the finalizer of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash_rows(labels: Labels, values: Hashes) -> Hashes:
    """Hash every row of labels by the values of its leaves, slot by slot."""
    result = np.zeros(len(labels), dtype=np.uint64)
    for k in range(labels.shape[1]):
        result += _slot_hash(labels[:, k], values[:, k], k)
    return result


def _slot_hash(leaves: Ids, values: Hashes, slot: int) -> Hashes:
    salt = np.uint64((slot + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1))
    return np.where(leaves < 0, np.uint64(0), _mix(values + salt))


def _refine(arrays: Sequence[Labels], pinned: npt.NDArray[np.bool_]) -> Ids:
    """Color leaves by where they stand and beside what, until the colors are stable."""
    numbers = np.arange(pinned.size, dtype=np.uint64)
    colors = np.where(pinned, _mix(numbers + np.uint64(1)), np.uint64(0))
    rows = np.concatenate(arrays) if arrays else np.zeros((0, 1), dtype=np.int64)
    array_number = np.repeat(np.arange(len(arrays), dtype=np.uint64), [len(a) for a in arrays])
    salt = _mix(array_number + np.uint64(0x51ED270B))
    count = -1
    while True:
        distinct = np.unique(colors)
        if distinct.size == count:
            break
        count = distinct.size
        total = _hash_rows(rows, colors[rows])
        gathered = np.zeros(pinned.size, dtype=np.uint64)
        for k in range(rows.shape[1]):
            held = rows[:, k] >= 0
            others = total[held] - _slot_hash(rows[held, k], colors[rows[held, k]], k)
            np.add.at(gathered, rows[held, k], _mix(others + salt[held] + np.uint64(k + 1)))
        colors = _mix(colors + _mix(gathered))
    return np.unique(colors, return_inverse=True)[1].astype(np.int64)


def _failing(recorder: Recorder, solution: NodeClasses, arrays: Sequence[Labels], cells: Ids) -> set[int]:
    """Cells one of whose generators breaks an array or a rearrangement."""
    groups = _Cells(cells, solution.pinned)
    failed: set[int] = set()
    for labels in arrays:
        if (labels[:, 1:] >= 0).any():
            failed.update(cell for cell in groups.inside(labels) if not _keeps(labels, groups, cell))
    for rearrangement in recorder.rearrangements:
        source, target = (solution.label_array(ids) for ids in (rearrangement.source, rearrangement.target))
        if _unique(source) and _unique(target):
            # Without repetitions the labels say where every place goes, on both sides alike.
            continue
        for cell in groups.inside(np.concatenate([source, target])):
            if cell not in failed and not _commutes(rearrangement, source, target, groups, cell):
                failed.add(cell)
    return failed


class _Cells:
    """Cells with their leaves at hand, so that letting one act costs no more than the array it acts on."""

    def __init__(self, cells: Ids, pinned: npt.NDArray[np.bool_]) -> None:
        self.cells = cells
        sizes = np.bincount(cells)
        self.movable = (sizes[cells] > 1) & ~pinned
        self.order = np.argsort(cells, kind="stable")
        self.start = np.concatenate([[0], np.cumsum(sizes)])

    def leaves(self, cell: int) -> Ids:
        """Leaves of a cell, ascending."""
        return self.order[self.start[cell] : self.start[cell + 1]]

    def inside(self, labels: Labels) -> list[int]:
        """Cells that may move and stand in an array."""
        leaves = np.unique(labels[labels >= 0])
        found: list[int] = np.unique(self.cells[leaves[self.movable[leaves]]]).tolist()
        return found

    def generated(self, labels: Labels, cell: int) -> Iterator[Labels]:
        """Yield the labels after each of two permutations that generate the symmetric group of a cell."""
        leaves = self.leaves(cell)
        held = (labels >= 0) & (self.cells[labels] == cell)
        position = np.searchsorted(leaves, labels[held])
        swap = np.arange(leaves.size)
        swap[:2] = [1, 0]
        for permutation in (swap, np.roll(np.arange(leaves.size), 1))[: 1 if leaves.size == 2 else 2]:
            moved = labels.copy()
            moved[held] = leaves[permutation[position]]
            yield moved


def _hash_labels(labels: Labels) -> Hashes:
    return _hash_rows(labels, _mix(labels.astype(np.uint64) + np.uint64(7)))


def _unique(labels: Labels) -> bool:
    return np.unique(_hash_labels(labels)).size == len(labels)


def _keeps(labels: Labels, groups: _Cells, cell: int) -> bool:
    """Whether the generators of a cell map the labels of an array onto themselves."""
    before = np.sort(_hash_labels(labels))
    return all(np.array_equal(before, np.sort(_hash_labels(moved))) for moved in groups.generated(labels, cell))


def _movement(labels: Labels, moved: Labels) -> Ids | None:
    """Where every place goes: to the place that held its new label, the k-th of equal labels to the k-th."""
    before, after = _hash_labels(labels), _hash_labels(moved)
    from_order, to_order = np.argsort(after, kind="stable"), np.argsort(before, kind="stable")
    if not np.array_equal(after[from_order], before[to_order]):
        return None
    goes = np.empty(len(labels), dtype=np.int64)
    goes[from_order] = to_order
    return goes


def _commutes(rearrangement: Rearrangement, source: Labels, target: Labels, groups: _Cells, cell: int) -> bool:
    """Whether moving the source and then taking is taking and then moving the target."""
    taken = rearrangement.index >= 0
    for moved_source, moved_target in zip(groups.generated(source, cell), groups.generated(target, cell), strict=True):
        source_goes, target_goes = _movement(source, moved_source), _movement(target, moved_target)
        if source_goes is None or target_goes is None:
            return False
        expected = source_goes[rearrangement.index[taken]]
        if not np.array_equal(rearrangement.index[target_goes[taken]], expected):
            return False
    return True
