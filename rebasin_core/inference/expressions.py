"""From labels back to the axis notation.

The labels of an axis are read as a sum of products, left to right: a run of places that stay, or a group whose
elements repeat one and the same inner axis. Where that fails (a fixed interleaving, a roll), the places are sorted
into such a sum and the order is written after it, as in ``(a+b)@[0 2 1 3]``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rebasin_core.symmetry.axes import Axis, Fixed, Gather, Group, Product, Sum

__all__ = ["Entries", "express", "incomplete_cells"]

_MOST_TERMS = 16

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Entries:
    """The labels of an axis, one row per place; -1 fills up the rows.

    Attributes
    ----------
    cells, ranks : array of int, shape (places, slots)
        The moving cells in each label, and the element of each.
    still : array of int, shape (places, slots)
        The leaves in each label that stay, in the slots where they stand. They tell apart places that hold the same
        moving elements, such as the channels of different pixels.
    """

    cells: Ints
    ranks: Ints
    still: Ints

    @classmethod
    def of(cls, labels: Ints, cells: Ints, ranks: Ints, movable: npt.NDArray[np.bool_]) -> "Entries":
        """Split every label into what moves, to the left, and what stays, slot by slot."""
        # Rows are as long as the longest product anywhere; most axes need a single column.
        used = int((labels >= 0).sum(axis=1).max(initial=1))
        labels = labels[:, :used]
        held = (labels >= 0) & movable[labels]
        if used == 1:
            return cls(np.where(held, cells[labels], -1), np.where(held, ranks[labels], -1), np.where(held, -1, labels))
        order = np.argsort(~held, axis=1, kind="stable")
        moved = np.take_along_axis(held, order, axis=1)
        leaves = np.take_along_axis(labels, order, axis=1)
        return cls(np.where(moved, cells[leaves], -1), np.where(moved, ranks[leaves], -1), np.where(held, -1, labels))

    def __len__(self) -> int:
        return len(self.cells)

    def part(self, start: int, stop: int) -> "Entries":
        """Return some of the places."""
        return Entries(self.cells[start:stop], self.ranks[start:stop], self.still[start:stop])

    def without(self, cell: int) -> "Entries":
        """Return the places with one cell, which stands once in each, taken out of their labels."""
        if self.cells.shape[1] == 1:
            gone = np.full_like(self.cells, -1)
            return Entries(gone, gone, self.still)
        order = np.argsort(self.cells == cell, axis=1, kind="stable")
        cells, ranks = (np.take_along_axis(x, order, axis=1) for x in (self.cells, self.ranks))
        width = cells.shape[1]
        gone = np.arange(width) == width - 1
        return Entries(np.where(gone, -1, cells), np.where(gone, -1, ranks), self.still)

    def repeats(self, times: int) -> bool:
        """Whether the places are `times` equal runs."""
        runs = (x.reshape(times, -1) for x in (self.cells, self.ranks, self.still))
        return all(np.array_equal(x, np.broadcast_to(x[:1], x.shape)) for x in runs)


def express(entries: Entries, groups: Mapping[int, Group], sizes: Mapping[int, int]) -> Axis:
    """Write an axis in the notation.

    Parameters
    ----------
    entries : Entries
        The labels of its places.
    groups : mapping of int to Group
        How to write each cell.
    sizes : mapping of int to int
        Size of each cell.

    Returns
    -------
    Axis
        ``Fixed(None)`` where nothing moves.
    """
    if (entries.cells < 0).all():
        return Fixed()
    axis = _parse(entries, groups, sizes)
    return _sorted(entries, groups, sizes) if axis is None else axis


def _parse(entries: Entries, groups: Mapping[int, Group], sizes: Mapping[int, int]) -> Axis | None:
    """Read the places as a sum of products; None where they are not."""
    still = entries.cells[:, 0] < 0 if entries.cells.shape[1] else np.ones(len(entries), dtype=bool)
    changes = np.append(np.flatnonzero(still[1:] != still[:-1]) + 1, len(entries))
    terms: list[tuple[Axis, int]] = []
    start = 0
    while start < len(entries):
        if still[start]:
            stop = int(changes[np.searchsorted(changes, start, side="right")])
            term: Axis = Fixed(stop - start)
        else:
            found = _product_term(entries.part(start, len(entries)), groups, sizes)
            if found is None:
                return None
            term, length = found
            stop = start + length
        if terms and terms[-1][0] == term:
            terms[-1] = (term, terms[-1][1] + 1)
        else:
            terms.append((term, 1))
        if len(terms) > _MOST_TERMS:
            return None
        start = stop
    return _written(terms)


def _product_term(entries: Entries, groups: Mapping[int, Group], sizes: Mapping[int, int]) -> tuple[Axis, int] | None:
    """Read one product from the first place on: a group each of whose elements repeats the same inner axis."""
    for cell in entries.cells[0][entries.cells[0] >= 0].tolist():
        here = entries.cells == cell
        ranks = np.where(here.sum(axis=1) == 1, np.where(here, entries.ranks, 0).sum(axis=1), -1)
        if ranks[0] != 0:
            continue
        ends = np.flatnonzero(ranks != 0)
        inner_length = int(ends[0]) if ends.size else len(entries)
        length = sizes[cell] * inner_length
        if length > len(entries):
            continue
        grid = ranks[:length].reshape(sizes[cell], inner_length)
        if not np.array_equal(grid, np.broadcast_to(np.arange(sizes[cell])[:, None], grid.shape)):
            continue
        rest = entries.part(0, length).without(cell)
        if not rest.repeats(sizes[cell]):
            continue
        inner = _parse(rest.part(0, inner_length), groups, sizes)
        if inner is not None:
            return (groups[cell] if inner == Fixed(1) else _times(groups[cell], inner)), length
    return None


def _times(outer: Axis, inner: Axis) -> Axis:
    factors = inner.factors if isinstance(inner, Product) else (inner,)
    return Product((outer, *factors))


def _sorted(entries: Entries, groups: Mapping[int, Group], sizes: Mapping[int, int]) -> Axis:
    """Sort the places by what they hold, and write the order they stand in."""
    terms: list[tuple[Axis, int]] = []
    order = np.empty(len(entries), dtype=np.int64)
    start = 0
    for signature, places, copies in _signatures(entries):
        order[places] = start + np.arange(places.size)
        start += places.size
        factors: tuple[Axis, ...] = tuple(groups[cell] for cell in signature)
        term = Fixed(places.size) if not factors else factors[0] if len(factors) == 1 else Product(factors)
        if terms and terms[-1][0] == term:
            terms[-1] = (term, terms[-1][1] + copies)
        else:
            terms.append((term, copies))
    return Gather(_written(terms), tuple(order.tolist()))


def _written(terms: Sequence[tuple[Axis, int]]) -> Axis:
    """Write terms, each some times over, as a sum."""
    written = [term if count == 1 else _times(Fixed(count), term) for term, count in terms]
    return written[0] if len(written) == 1 else Sum(tuple(written))


def _signatures(entries: Entries) -> list[tuple[tuple[int, ...], Ints, int]]:
    """Per kind of label, its places sorted by copy and then by element, and the number of copies.

    A kind is a combination of moving cells and of leaves that stay; all places where nothing moves are one kind.
    """
    nothing_moves = np.all(entries.cells < 0, axis=1).reshape(-1)
    kinds = np.concatenate([entries.cells, np.where(nothing_moves[:, None], -1, entries.still)], axis=1)
    _, first, kind = np.unique(kinds, axis=0, return_index=True, return_inverse=True)
    found = []
    # Kinds with the same cells side by side, so that they read as one repeated term.
    by_cells = {tuple(entries.cells[f].tolist()): int(f) for f in sorted(first.tolist(), reverse=True)}
    leader = [by_cells[tuple(entries.cells[f].tolist())] for f in first]
    for k in np.lexsort((first, np.asarray(leader))).tolist():
        places = np.flatnonzero(kind.reshape(-1) == k)
        signature = tuple(c for c in entries.cells[first[k]].tolist() if c >= 0)
        if not signature:
            found.append((signature, places, 1))
            continue
        ranks = entries.ranks[places]
        by_element = np.lexsort(ranks.T[::-1])
        same = (ranks[by_element][1:] == ranks[by_element][:-1]).all(axis=1)
        copy = np.zeros(places.size, dtype=np.int64)
        for m in np.flatnonzero(same).tolist():
            copy[m + 1] = copy[m] + 1
        found.append((signature, places[by_element][np.argsort(copy, kind="stable")], int(copy.max()) + 1))
    return found


def incomplete_cells(entries: Entries, sizes: Mapping[int, int]) -> set[int]:
    """Cells of products in which not every combination of elements stands equally often, such as a diagonal."""
    if not (entries.cells[:, 1:] >= 0).any():
        return set()
    twice = [
        len(set(row)) < len(row)
        for row in ([c for c in r if c >= 0] for r in np.unique(entries.cells, axis=0).tolist())
    ]
    if not any(twice):
        return set()
    failed: set[int] = set()
    for signature, places, copies in _signatures(entries):
        if places.size != copies * math.prod(sizes[c] for c in signature):
            failed.update(signature)
    return failed
