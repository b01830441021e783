"""From a plan that breaks a network to the smallest one that does: delta debugging over groups, then over exchanges."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["Swap", "minimal", "perform", "shrink", "swaps"]

T = TypeVar("T")


@dataclass(frozen=True)
class Swap:
    """The exchange of the units at two places of a group; of a local group, at one place (`row`) of its parent."""

    group: str
    places: tuple[int, int]
    row: int | None = None

    def __str__(self) -> str:
        where = "" if self.row is None else f" at place {self.row} of its parent"
        return f"units {self.places[0]} and {self.places[1]} of group {self.group!r}{where}"


def minimal(items: Sequence[T], breaks: Callable[[list[T]], bool]) -> list[T]:
    """Leave out items until each of those left is needed: ``breaks`` holds for the result, and for it without one not.

    A single item that breaks is found, if there is one; otherwise the result is a smallest set in the sense that
    nothing can be left out of it, found by delta debugging.

    Parameters
    ----------
    items : sequence
        For all of which together `breaks` holds.
    breaks : callable
        Whether some of them, in their order, break what is tested; the same answer every time.

    References
    ----------
    .. [1] A. Zeller, R. Hildebrandt. Simplifying and Isolating Failure-Inducing Input. IEEE Transactions on Software
       Engineering 28(2), 2002: algorithm ddmin.

    Examples
    --------
    >>> minimal(range(100), lambda some: {17, 60} <= set(some))
    [17, 60]
    """
    left, parts = list(items), 2
    while len(left) > 1:
        size = -(-len(left) // parts)
        chunks = [left[i : i + size] for i in range(0, len(left), size)]
        for i, chunk in enumerate(chunks):
            if breaks(chunk):
                left, parts = chunk, 2
                break
            rest = [item for other in chunks[:i] + chunks[i + 1 :] for item in other]
            if len(chunks) > 2 and breaks(rest):
                left, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                return left
            parts = min(2 * parts, len(left))
    return left


def swaps(plan: Plan, groups: Iterable[str]) -> list[Swap]:
    """Exchanges which, done one after the other, make what a plan does to some groups.

    Examples
    --------
    >>> [str(swap) for swap in swaps(Plan({"h": [2, 0, 1]}), ["h"])]
    ["units 0 and 2 of group 'h'", "units 1 and 2 of group 'h'"]
    """
    found = []
    for group in groups:
        local = plan[group].ndim == 2
        for row, order in enumerate(np.atleast_2d(plan[group])):
            now = list(range(len(order)))
            for place, unit in enumerate(order.tolist()):
                other = now.index(unit, place)
                if other != place:
                    now[place], now[other] = now[other], now[place]
                    found.append(Swap(group, (place, other), row if local else None))
    return found


def perform(graph: PermutationGraph, some: Iterable[Swap]) -> Plan:
    """Return the plan that does these exchanges, in their order, and leaves all else.

    Examples
    --------
    >>> graph = PermutationGraph.from_axes({"w": "h"}, {"w": np.zeros(3)})
    >>> plan = Plan({"h": [2, 0, 1]})
    >>> perform(graph, swaps(plan, plan)) == plan
    True
    """
    plan = Plan.identity(graph)
    orders = {group: np.array(order) for group, order in plan.items()}
    for swap in some:
        order = orders[swap.group] if swap.row is None else orders[swap.group][swap.row]
        order[list(swap.places)] = order[list(swap.places[::-1])]
    return Plan(orders, plan.parents)


def shrink(graph: PermutationGraph, plan: Plan, breaks: Callable[[Plan], bool]) -> tuple[list[str], list[Swap]]:
    """Find the fewest groups of a plan that still break a network, and the fewest exchanges within them."""
    identity = Plan.identity(graph)

    def only(groups: Iterable[str]) -> Plan:
        return Plan({**identity, **{group: plan[group] for group in groups}}, plan.parents)

    moved = [group for group in plan if plan.moved(group)]
    alone = next(([group] for group in moved if breaks(only([group]))), None)
    groups = alone or minimal(moved, lambda some: breaks(only(some)))
    return groups, minimal(swaps(plan, groups), lambda some: breaks(perform(graph, some)))
