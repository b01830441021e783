"""From a record of operations to a permutation graph."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from rebasin_core.inference.cells import find_cells
from rebasin_core.inference.expressions import Entries, express, incomplete_cells
from rebasin_core.inference.links import find_links
from rebasin_core.inference.local import find_parents
from rebasin_core.inference.record import Param, Recorder
from rebasin_core.inference.solve import NodeClasses, solve
from rebasin_core.inference.tensors import Ids
from rebasin_core.symmetry.axes import AxesSpec, Axis, Fixed, Group
from rebasin_core.symmetry.explanation import Link
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["build_graph", "in_order"]

_TOKEN = re.compile(r"[A-Za-z_]\w*(?:[./]\w+)*")


def build_graph(
    recorder: Recorder, *, fixed: Mapping[str, tuple[tuple[int, ...], str]] | None = None
) -> PermutationGraph:
    """Find the maximal groups of a recorded network.

    Parameters
    ----------
    recorder : Recorder
        What a front end recorded; its outputs must have been pinned.
    fixed : mapping of str to (shape, reason), optional
        Further arrays of the network's state that stay as they are (tables, counters).

    Returns
    -------
    PermutationGraph
        With an entry for every parameter, in the order of declaration, then for `fixed`.

    Notes
    -----
    Solve the equations (`solve`), find and prove the groups (`cells`), find those that are local to another (`local`),
    write every axis in the notation (`expressions`), and keep which operations tied the axes of a group (`links`). The
    cost is N log N in the number of array entries per round; rounds are few.
    """
    solution = solve(recorder)
    cells, rank = _complete_cells(recorder, solution)
    parents = find_parents(recorder, solution, cells, rank)
    sizes = np.bincount(cells)
    movable = (sizes[cells] > 1) & ~solution.pinned
    groups = _name_groups(recorder, solution, cells, parents, movable)
    size_of = {cell: int(sizes[cell]) for cell in groups}
    axes: dict[str, AxesSpec] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    pinned: dict[tuple[str, int], str] = {}
    known: dict[bytes, tuple[Axis, str]] = {}
    for param in recorder.params.values():
        written = []
        for axis, ids in enumerate(param.ids):
            key = solution.key(ids)
            if key not in known:
                entries = Entries.of(solution.label_array(ids), cells, rank, movable)
                expressed = express(entries, groups, size_of)
                known[key] = expressed, _reason(solution, ids) if isinstance(expressed, Fixed) else ""
            written.append(known[key][0])
            if isinstance(written[-1], Fixed):
                pinned[param.name, axis] = known[key][1]
        axes[param.name] = AxesSpec.of(*written)
        shapes[param.name] = param.shape
    for name, original in recorder.aliases.items():
        axes[name], shapes[name] = axes[original], shapes[original]
        pinned |= {(name, k): why for (owner, k), why in list(pinned.items()) if owner == original}
    for name, (shape, reason) in (fixed or {}).items():
        axes[name], shapes[name] = AxesSpec.of(*[Fixed()] * len(shape)), shape
        pinned |= {(name, axis): reason for axis in range(len(shape))}
    links = find_links(recorder, solution, groups, cells, rank)
    return _graph(recorder, axes, shapes, pinned, {groups[c].name: size_of[c] for c in groups}, links)


def in_order(graph: PermutationGraph, names: Iterable[str]) -> PermutationGraph:
    """Return the same graph with its parameters, and with them its groups, in another order."""
    return graph.rename({name: name for name in names})


def _graph(
    recorder: Recorder,
    axes: dict[str, AxesSpec],
    shapes: dict[str, tuple[int, ...]],
    pinned: dict[tuple[str, int], str],
    sizes: Mapping[str, int],
    links: Mapping[str, tuple[Link, ...]],
) -> PermutationGraph:
    nodes: dict[str, Group] = {}
    for spec in axes.values():
        for node in spec.group_nodes:
            nodes.setdefault(node.name, node)
    buffers = {p.name for p in recorder.params.values() if p.buffer}
    return PermutationGraph(
        axes=axes,
        shapes=shapes,
        groups={name: sizes[name] for name in nodes},
        parents={name: node.parent for name, node in nodes.items() if node.parent is not None},
        pinned=pinned,
        buffers=frozenset(buffers | recorder.aliases.keys()),
        links=links,
    )


def _complete_cells(recorder: Recorder, solution: NodeClasses) -> tuple[Ids, Ids]:
    """Cells all of whose products the notation can write, and the position of every leaf within its cell."""
    distinct = {solution.key(ids): ids for param in recorder.params.values() for ids in param.ids}
    while True:
        cells = find_cells(recorder, solution)
        rank = _ranks(distinct.values(), solution, cells)
        sizes = np.bincount(cells)
        movable = (sizes[cells] > 1) & ~solution.pinned
        by_cell = dict(enumerate(sizes.tolist()))
        failed: set[int] = set()
        for ids in distinct.values():
            entries = Entries.of(solution.label_array(ids), cells, rank, movable)
            failed |= incomplete_cells(entries, by_cell)
        # A group that appears in no parameter moves nothing.
        if not failed:
            return cells, rank
        for cell in failed:
            solution.pin(np.flatnonzero(cells == cell), "stands in a product with itself that is not complete")


def _ranks(axes: Iterable[Ids], solution: NodeClasses, cells: Ids) -> Ids:
    """Number the leaves of every cell in the order in which the axes of parameters show them."""
    arrays = [solution.label_array(ids).reshape(-1) for ids in axes]
    shown = np.concatenate([*arrays, np.arange(cells.size)])
    shown = shown[shown >= 0]
    leaves, first = np.unique(shown, return_index=True)
    order = leaves[np.lexsort((first, cells[leaves]))]
    starts = np.flatnonzero(np.append(True, cells[order][1:] != cells[order][:-1]))
    begin = np.repeat(starts, np.diff(np.append(starts, order.size)))
    rank = np.zeros(cells.size, dtype=np.int64)
    rank[order] = np.arange(order.size) - begin
    return rank


def _reason(solution: NodeClasses, ids: Ids) -> str:
    """Why an axis stays: the first reason among those of its leaves."""
    if ids.size == 1:
        return "has a single entry"
    labels = solution.label_array(ids)
    found = solution.reason[labels[labels >= 0]]
    number = int(found.min())
    return solution.reasons[number] if number < len(solution.reasons) else "no two of its entries play the same part"


def _name_groups(
    recorder: Recorder,
    solution: NodeClasses,
    cells: Ids,
    parents: Mapping[int, int],
    movable: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
) -> dict[int, Group]:
    """Name every cell after the module whose parameter shows it first."""
    words: dict[int, str] = {}
    for ids, word in recorder.hints:
        for leaf_row in solution.label_array(ids[:1]):
            for leaf in leaf_row[leaf_row >= 0].tolist():
                words.setdefault(int(cells[leaf]), word)
    first: dict[int, Param] = {}
    seen: set[bytes] = set()
    for param in recorder.params.values():
        for ids in param.ids:
            key = solution.key(ids)
            if key in seen:
                continue
            seen.add(key)
            labels = solution.label_array(ids)
            held = (labels >= 0) & movable[labels]
            beside = held.sum(axis=1)[:, None].repeat(labels.shape[1], axis=1)[held] > 1
            for cell in _in_order(cells[labels[held]]):
                first.setdefault(cell, param)
                if cell in parents.values() and beside[cells[labels[held]] == cell].all():
                    words.setdefault(cell, "groups")
    names: dict[int, str] = {}
    taken: set[str] = set()
    for cell, param in first.items():
        base = _module_path(param.name)
        if cell in words:
            base = f"{base}/{words[cell]}"
        name, number = base, 2
        while name in taken:
            name, number = f"{base}/{number}", number + 1
        taken.add(name)
        names[cell] = name
    return {c: Group(name, names[parents[c]] if c in parents else None) for c, name in names.items()}


def _in_order(cells: Ids) -> Iterable[int]:
    found, first = np.unique(cells, return_index=True)
    ordered: list[int] = found[np.argsort(first)].tolist()
    return ordered


def _module_path(param: str) -> str:
    """Name of the module that owns a parameter, spelled as the notation allows."""
    path = re.sub(r"[./][^./]*$", "", param)
    path = re.sub(r"[^\w./]+", "_", path)
    if not _TOKEN.fullmatch(path):
        path = f"layer{path}" if _TOKEN.fullmatch(f"layer{path}") else re.sub(r"\W+", "_", f"layer{path}")
    return path
