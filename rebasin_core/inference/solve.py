"""Solve what tracing wrote down: which nodes move together, and as products of what.

Equations are closed into classes; separations of one class are matched part by part, which gives new equations, until
nothing changes. A class without a separation is a *leaf*. Every class then has a label, the tuple of its leaves.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from rebasin_core.inference.record import Equation, Recorder, Separation
from rebasin_core.inference.tensors import Ids, common_cuts, index_along

__all__ = ["NodeClasses", "solve"]

_NO_REASON = np.iinfo(np.int64).max
# Products of more factors than this, or nested deeper, do not come from networks but from a class inside itself.
_DEEPEST = 64


@dataclass
class NodeClasses:
    """Classes of nodes, their labels, and which of them stay.

    Attributes
    ----------
    classes : array of int, shape (nodes,)
        Class of every node.
    labels : array of int, shape (classes, slots)
        Leaves of every class, filled up with -1.
    reason : array of int, shape (classes,)
        For a class that stays, the index of the reason in `reasons`; else a number larger than any.
    reasons : list of str
        Why classes stay.
    """

    classes: Ids
    labels: npt.NDArray[np.int64]
    reason: npt.NDArray[np.int64]
    reasons: list[str]

    @property
    def pinned(self) -> npt.NDArray[np.bool_]:
        """Which classes stay."""
        return np.not_equal(self.reason, _NO_REASON)

    def pin(self, leaves: Ids, reason: str) -> None:
        """Keep these leaves in place."""
        self.reasons.append(reason)
        self.reason[leaves] = np.minimum(self.reason[leaves], len(self.reasons) - 1)

    def key(self, ids: Ids) -> bytes:
        """Return equal keys for arrays of nodes with equal labels, row by row."""
        return self.classes[ids.reshape(-1)].tobytes()

    def label_array(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Labels of an array of nodes, one row per node."""
        return self.labels[self.classes[ids.reshape(-1)]]


def solve(recorder: Recorder) -> NodeClasses:
    """Close all equations and resolve every class into its leaves."""
    _pin_unread(recorder)
    separations = list(recorder.separations)
    refined: set[tuple[int, int]] = set()
    while True:
        classes = _components(recorder.size, recorder.equations)
        if _match_parts(recorder, classes, separations):
            continue
        if not _refine_arities(recorder, classes, separations, refined):
            break
    reason, reasons = _class_reasons(recorder, classes)
    _spread(classes, separations, reason)
    return NodeClasses(classes, _labels(classes, separations, reason, reasons), reason, reasons)


def _pin_unread(recorder: Recorder) -> None:
    """A place that no operation reads looks exchangeable with any other such place, so it stays."""
    read = np.zeros(recorder.size, dtype=bool)
    for ids in recorder.reads.values():
        read[ids] = True
    for param in recorder.params.values():
        for ids in param.ids:
            unread = ids[~read[ids]]
            if unread.size:
                recorder.pin(unread, "not used by the computation")


def _components(size: int, equations: list[Equation]) -> Ids:
    if not equations:
        return np.arange(size, dtype=np.int64)
    rows = np.concatenate([a for a, _, _ in equations])
    columns = np.concatenate([b for _, b, _ in equations])
    graph = coo_matrix((np.ones(rows.size, dtype=bool), (rows, columns)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _match_parts(recorder: Recorder, classes: Ids, separations: list[Separation]) -> bool:
    """Equate the parts of entries that are in one class; whether that said anything new."""
    by_arity: dict[int, list[Separation]] = defaultdict(list)
    for separation in separations:
        by_arity[len(separation.parts)].append(separation)
    new = False
    for group in by_arity.values():
        whole = classes[np.concatenate([s.whole for s in group])]
        entries = np.concatenate([s.entries() for s in group])
        order = np.argsort(whole, kind="stable")
        same = whole[order][1:] == whole[order][:-1]
        a, b = entries[order][:-1][same].reshape(-1), entries[order][1:][same].reshape(-1)
        differ = classes[a] != classes[b]
        if differ.any():
            recorder.equations.append(Equation(a[differ], b[differ]))
            new = True
    return new


def _refine_arities(
    recorder: Recorder, classes: Ids, separations: list[Separation], refined: set[tuple[int, int]]
) -> bool:
    """Bring separations of one class into equally many parts; whether anything changed."""
    arity: dict[int, int] = {}
    for number, separation in enumerate(separations):
        for c in np.unique(classes[separation.whole]).tolist():
            other = arity.setdefault(c, number)
            if len(separations[other].parts) == len(separation.parts) or (other, number) in refined:
                continue
            refined.add((other, number))
            sizes = [[p.size for p in s.parts] for s in (separations[other], separation)]
            cuts = common_cuts(sizes) if np.prod(sizes[0]) == np.prod(sizes[1]) else None
            if cuts is None:
                for s in (separations[other], separation):
                    for ids in (s.whole, *s.parts):
                        recorder.pin(ids, "an axis that factorises in two ways that do not agree")
                continue
            for which in (other, number):
                separations[which] = _split_parts(recorder, separations, separations[which], cuts)
            return True
    return False


def _split_parts(
    recorder: Recorder, separations: list[Separation], separation: Separation, cuts: list[int]
) -> Separation:
    """Write the parts of a separation as products, so that all parts together have the sizes `cuts`."""
    remaining = list(cuts)
    parts: list[Ids] = []
    index: list[npt.NDArray[np.int64]] = []
    for part, places in zip(separation.parts, separation.index, strict=True):
        sizes: list[int] = []
        while int(np.prod(sizes)) < part.size:
            sizes.append(remaining.pop(0))
        if len(sizes) < 2:
            parts.append(part)
            index.append(places)
            continue
        known = len(recorder.separations)
        with recorder.during(separation.operation):
            finer = recorder.separate(part.reshape(sizes), [(k,) for k in range(len(sizes))])
        separations += recorder.separations[known:]
        parts += [ids.reshape(-1) for ids in finer]
        index += [index_along(sizes, [k])[places] for k in range(len(sizes))]
    return Separation(separation.whole, tuple(parts), tuple(index), separation.operation)


def _class_reasons(recorder: Recorder, classes: Ids) -> tuple[npt.NDArray[np.int64], list[str]]:
    """For every class the first reason to stay, as an index."""
    reasons = list(dict.fromkeys(reason for _, reason in recorder.pins))
    number = {reason: k for k, reason in enumerate(reasons)}
    result = np.full(int(classes.max()) + 1 if classes.size else 0, _NO_REASON, dtype=np.int64)
    for ids, reason in recorder.pins:
        np.minimum.at(result, classes[ids], number[reason])
    return result, reasons


def _spread(classes: Ids, separations: list[Separation], reason: npt.NDArray[np.int64]) -> None:
    """An entry that stays keeps all of its parts; an entry all of whose parts stay does, too."""
    while True:
        before = reason.copy()
        for separation in separations:
            whole, parts = classes[separation.whole], classes[separation.entries()]
            for k in range(parts.shape[1]):
                np.minimum.at(reason, parts[:, k], reason[whole])
            kept = reason[parts].max(axis=1)
            stays = kept != _NO_REASON
            np.minimum.at(reason, whole[stays], reason[parts].min(axis=1)[stays])
        if np.array_equal(before, reason):
            return


def _labels(
    classes: Ids, separations: list[Separation], reason: npt.NDArray[np.int64], reasons: list[str]
) -> npt.NDArray[np.int64]:
    """Leaves of every class: put the parts of a class in its place until only leaves are left."""
    parts = _parts_of_classes(classes, separations, reason.size)
    while True:
        table = _flattened(parts)
        if table is not None:
            return table
        # A class that is a part of itself: nothing is known of it, so it stays, and with it all of its parts.
        endless = _endless(parts)
        reasons.append("an axis that is a factor of itself")
        reason[endless] = np.minimum(reason[endless], len(reasons) - 1)
        _spread(classes, separations, reason)
        parts[endless] = -1


def _parts_of_classes(classes: Ids, separations: list[Separation], count: int) -> npt.NDArray[np.int64]:
    """Classes of the parts of every class, in the order of the first separation that has it; -1 for leaves."""
    width = max((len(s.parts) for s in separations), default=1)
    parts = np.full((count, width), -1, dtype=np.int64)
    for separation in separations:
        whole, first = np.unique(classes[separation.whole], return_index=True)
        new = parts[whole, 0] < 0
        entries = classes[separation.entries()[first[new]]]
        parts[whole[new], : entries.shape[1]] = entries
    return parts


def _flattened(parts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """Leaves of every class, one row each; None where substitution does not end."""
    composite = parts[:, 0] >= 0
    rows = np.flatnonzero(composite)
    table = np.arange(len(parts), dtype=np.int64)[:, None]
    for _ in range(_DEEPEST):
        if not (composite[table[rows]] & (table[rows] >= 0)).any():
            return table
        leaves = np.where(parts[rows, :, None] < 0, -1, table[parts[rows]]).reshape(rows.size, -1)
        leaves = np.take_along_axis(leaves, np.argsort(leaves < 0, axis=1, kind="stable"), axis=1)
        width = int((leaves >= 0).sum(axis=1).max())
        if width > _DEEPEST:
            return None
        wider = np.full((len(parts), width), -1, dtype=np.int64)
        wider[:, 0] = np.arange(len(parts))
        wider[rows] = leaves[:, :width]
        table = wider
    return None


def _endless(parts: npt.NDArray[np.int64]) -> Ids:
    """Classes that are parts of themselves, near or far, and those made of them."""
    ends = parts[:, 0] < 0
    while True:
        now = ends | np.all((parts < 0) | ends[parts], axis=1)
        if np.array_equal(now, ends):
            return np.flatnonzero(~ends)
        ends = now
