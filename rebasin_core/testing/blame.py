"""Which axis of a graph is wrong: the one whose correction makes a group harmless."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rebasin_core.symmetry.axes import Axis, Fixed, Group, Product, Sum, walk
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.verification import near_graphs, with_axis

__all__ = ["Blame", "find_blame"]

Breaks = Callable[[PermutationGraph, list[str]], bool]
"""Whether moving these groups, and no others, changes the outputs under a graph."""


@dataclass(frozen=True)
class Blame:
    """One wrong axis, and what is wrong with it."""

    parameter: str
    axis: int
    verdict: str

    def __str__(self) -> str:
        return f"Axis {self.axis} of parameter {self.parameter!r} {self.verdict}"


def find_blame(graph: PermutationGraph, group: str, breaks: Breaks) -> Blame | None:
    """Correct one axis after the other, until the group that breaks the network alone does so no more.

    Parameters
    ----------
    graph : PermutationGraph
        The graph that is wrong.
    group : str
        A group which breaks the network when it moves alone.
    breaks : callable
        ``breaks(graph, groups)``: whether moving these groups breaks it.

    Returns
    -------
    Blame or None
        None where no single axis is to blame.
    """
    for trial, name, i, verdict in _corrections(graph, group):
        if not breaks(trial, [group]):
            return Blame(name, i, verdict)
    for trial, name, i, verdict in near_graphs(graph, group):
        if not breaks(trial, [group]):
            return Blame(name, i, _whose(graph, group, name, i, breaks) or verdict)
    return None


def _whose(graph: PermutationGraph, group: str, name: str, i: int, breaks: Breaks) -> str | None:
    """Say which group an axis belongs to that moves with the wrong one."""
    if not isinstance(graph.axes[name].axes[i], Group):
        return None
    for other in _as_large(graph, group):
        if not breaks(with_axis(graph, name, i, Group(other)), [group, other]):
            return _instead(other, group)
    return None


def _instead(right: str, wrong: str) -> str:
    return f"must move with {right!r}, not with {wrong!r}"


def _as_large(graph: PermutationGraph, group: str) -> list[str]:
    """Other plain groups of the same size."""
    alike = [g for g, n in graph.groups.items() if n == graph.groups[group] and g != group]
    return [g for g in alike if g not in graph.parents]


def _corrections(graph: PermutationGraph, group: str) -> Iterator[tuple[PermutationGraph, str, int, str]]:
    """Graphs in which one axis moves with this group instead of another, or is composed of it in another way."""
    local, others = group in graph.parents, _as_large(graph, group)
    for name, spec in graph.axes.items():
        for i, axis in enumerate(spec.axes):
            length = graph.shapes[name][i]
            if not local and isinstance(axis, Group) and axis.name in others:
                yield with_axis(graph, name, i, Group(group)), name, i, _instead(group, axis.name)
            elif any(isinstance(node, Group) and node.name == group for node in walk(axis)):
                for other in _rearranged(axis):
                    yield with_axis(graph, name, i, other), name, i, f'is "{other}", not "{axis}"'
                if not isinstance(axis, Group):
                    yield with_axis(graph, name, i, Fixed(length)), name, i, f"must not move with {group!r}"
            elif not local and isinstance(axis, Fixed) and length > (n := graph.groups[group]) and length % n == 0:
                for factors in ((Group(group), Fixed(length // n)), (Fixed(length // n), Group(group))):
                    product = Product(factors)
                    yield with_axis(graph, name, i, product), name, i, f'must move with {group!r}, as "{product}"'


def _rearranged(axis: Axis) -> Iterator[Axis]:
    """The same parts the other way round: channels last for channels first, the second of two branches first."""
    match axis:
        case Product(factors):
            yield Product(factors[::-1])
        case Sum(terms):
            yield Sum(terms[::-1])
