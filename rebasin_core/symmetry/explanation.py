"""Why axes belong together: the operations that tie them, as links from axis to axis.

Per group a graph keeps links that make a tree: each joins an axis to one that stands in an earlier link, and names the
operation. Axes that no link reaches were written down by a person, and belong together since they carry one name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from rebasin_core.symmetry.display import html_table

__all__ = ["TWO_NAMES", "Explanation", "Link", "Place", "chain", "rename_links", "spanning_links"]

Place: TypeAlias = tuple[str, int]
"""A parameter and the number of one of its axes."""


TWO_NAMES = "two names of one parameter"


class Link(NamedTuple):
    """Two axes that move together, and the operation for which they do."""

    first: Place
    second: Place
    operation: str


@dataclass(frozen=True)
class Explanation:
    """Why axes move together; `print` it.

    Attributes
    ----------
    group : str
        The group they stand in.
    start : (str, int)
        The axis with which the explanation begins.
    links : tuple of Link
        Each joins one more axis, `second`, to one told before, `first`.
    """

    group: str
    start: Place
    links: tuple[Link, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """The axes, in the order in which they are told."""
        return self.start, *(link.second for link in self.links)

    def __str__(self) -> str:
        rows = [(f"{_shown(link.second)}", f"with {_shown(link.first)}", link.operation) for link in self.links]
        widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)]
        lines = [f"    {a:{widths[0]}}  {b:{widths[1]}}  {operation}" for a, b, operation in rows]
        return "\n".join([f"{self.group}: {_shown(self.start)}", *lines])

    def __repr__(self) -> str:
        return f"<Explanation of {self.group!r}: {len(self.places)} axes>"

    def _repr_html_(self) -> str:
        rows = [(_shown(link.second), _shown(link.first), link.operation) for link in self.links]
        return html_table(f"{self.group}: {_shown(self.start)}", ("axis", "moves with", "for"), rows)


def _shown(place: Place) -> str:
    return f"{place[0]}[{place[1]}]"


def spanning_links(group: str, places: Sequence[Place], known: Iterable[Link]) -> tuple[Link, ...]:
    """Return links that join all places: those known, and the name of the group for places that they do not reach."""
    kept: list[Link] = []
    joined: set[Place] = set()
    for link in known:
        both = {link.first, link.second}
        if both <= set(places) and (not joined or link.first in joined) and link.second not in joined:
            kept.append(link)
            joined |= both
    start = kept[0].first if kept else places[0]
    reason = f"the notation gives both the name {group!r}"
    return (*kept, *(Link(start, place, reason) for place in places if place not in joined | {start}))


def chain(links: Sequence[Link], start: Place, end: Place) -> tuple[Link, ...]:
    """Return the links of a tree that lead from one of its places to another."""

    def to_root(place: Place) -> list[Link]:
        path = []
        while place in above:
            path.append(above[place])
            place = above[place].first
        return path

    above = {link.second: link for link in links}
    down, up = to_root(end), to_root(start)
    while down and up and down[-1] == up[-1]:
        down.pop()
        up.pop()
    return (*(Link(link.second, link.first, link.operation) for link in up), *reversed(down))


def rename_links(links: Iterable[Link], owners: Mapping[str, str]) -> tuple[Link, ...]:
    """Return the links under other names of the parameters.

    `owners` gives for every new name the old one. What has two new names is joined to itself; what has none is left
    out, and what hung on it hangs on what it hung on.
    """
    named: dict[str, list[str]] = {}
    for new, old in owners.items():
        named.setdefault(old, []).append(new)
    found: list[Link] = []
    # Where an old place went: to a new place, and the operations by which it got there.
    went: dict[Place, tuple[Place, str]] = {}

    def arrive(place: Place) -> None:
        first, *others = named[place[0]]
        went[place] = (first, place[1]), ""
        found.extend(Link((first, place[1]), (other, place[1]), TWO_NAMES) for other in others)

    for first, second, operation in links:
        if first not in went and first[0] in named:
            arrive(first)
        if first not in went:
            # The root has gone: the place that hung on it takes its part.
            if second[0] in named:
                arrive(second)
                went[first] = went[second][0], operation
            continue
        above, before = went[first]
        operation = f"{before}, {operation}" if before else operation
        if second[0] not in named:
            went[second] = above, operation
            continue
        found.append(Link(above, (named[second[0]][0], second[1]), operation))
        arrive(second)
    return tuple(found)
