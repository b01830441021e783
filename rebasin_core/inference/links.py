"""Which operations tie the axes of a group: per group a tree of links, found after the solve.

One element of a group stands for all of them. Its nodes are those whose label holds it; the operations that were
recorded lead from node to node, by an equation or from an entry to one of its parts. What the solver concluded from
these (equal entries have equal parts) adds nothing that they do not lead to. A breadth-first walk from the first
axis gives the shortest way to every other; nodes that belong to no parameter are passed through.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from rebasin_core.inference.record import Recorder
from rebasin_core.inference.solve import NodeClasses
from rebasin_core.inference.tensors import Ids
from rebasin_core.symmetry.axes import Group
from rebasin_core.symmetry.explanation import TWO_NAMES, Link, Place

__all__ = ["find_links"]


def find_links(
    recorder: Recorder, solution: NodeClasses, groups: Mapping[int, Group], cells: Ids, rank: Ids
) -> dict[str, tuple[Link, ...]]:
    """Return for every group the links between its axes, in the order of a breadth-first walk.

    Parameters
    ----------
    recorder, solution
        What was traced, and its classes.
    groups : mapping of int to Group
        The cells that are groups.
    cells, rank : array of int, shape (classes,)
        Cell of every leaf, and its position within the cell.
    """
    chosen = np.isin(cells, list(groups)) & (rank == 0)
    held = (solution.labels >= 0) & chosen[solution.labels]
    leaves = {int(c): set(solution.labels[c][held[c]].tolist()) for c in np.flatnonzero(held.any(axis=1))}
    holds = held.any(axis=1)[solution.classes]
    neighbors = _neighbors(recorder, holds)
    owners = _owners(recorder, holds)
    starts: dict[int, int] = {}
    for node in owners:
        for leaf in leaves[int(solution.classes[node])]:
            starts.setdefault(leaf, node)
    other_names = defaultdict(list)
    for name, original in recorder.aliases.items():
        other_names[original].append(name)

    def walk(leaf: int) -> Iterator[Link]:
        start = starts[leaf]
        told = {owners[start]}
        yield from _aliased(owners[start], other_names)
        # Per node, the last axis on the way to it and the operations since.
        queue: deque[tuple[int, Place, tuple[str, ...]]] = deque([(start, owners[start], ())])
        seen = {start}
        while queue:
            node, place, operations = queue.popleft()
            for neighbor, operation in neighbors[node]:
                if neighbor in seen or leaf not in leaves[int(solution.classes[neighbor])]:
                    continue
                seen.add(neighbor)
                way = operations if operation in operations else (*operations, operation)
                here = owners.get(neighbor)
                if here is not None and here not in told:
                    told.add(here)
                    yield Link(place, here, ", ".join(way))
                    yield from _aliased(here, other_names)
                queue.append((neighbor, place, way) if here is None else (neighbor, here, ()))

    return {groups[int(cells[leaf])].name: tuple(walk(leaf)) for leaf in starts}


def _neighbors(recorder: Recorder, holds: npt.NDArray[np.bool_]) -> dict[int, list[tuple[int, str]]]:
    """Per node that counts, the nodes to which an operation leads, and the operation."""
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    edges = [(a, b, operation) for a, b, operation in recorder.equations if operation]
    for s in recorder.separations:
        edges += [(s.whole, part[index], s.operation) for part, index in zip(s.parts, s.index, strict=True)]
    for a, b, operation in edges:
        both = holds[a] & holds[b]
        for x, y in zip(a[both].tolist(), b[both].tolist(), strict=True):
            found[x].append((y, operation))
            found[y].append((x, operation))
    return found


def _owners(recorder: Recorder, holds: npt.NDArray[np.bool_]) -> dict[int, Place]:
    """Per node of a parameter that counts, the axis it belongs to."""
    places = ((p.name, axis, ids) for p in recorder.params.values() for axis, ids in enumerate(p.ids))
    return {node: (name, axis) for name, axis, ids in places for node in ids[holds[ids]].tolist()}


def _aliased(place: Place, other_names: Mapping[str, Iterable[str]]) -> Iterator[Link]:
    for name in other_names.get(place[0], ()):
        yield Link(place, (name, place[1]), TWO_NAMES)
