"""What tracing writes down: equations between nodes, and everything the solver needs to know of the operations.

The recorder never decides anything. It allocates nodes and keeps

* equations, ``a[i] ~ b[i]``: these places move together;
* separations, ``e[i, j] = (h[i], d[j])``: an operation touched a part of a block, so its order must factorise;
  both with the operation that was being recorded;
* pins, with a reason;
* reads, the arrays that operations depend on as a whole (their nodes must be mapped onto themselves);
* rearrangements, ``target[m] = source[index[m]]``: orders that must commute, which matters where nodes repeat;
* events, the arrays that meet in one operation, from which local groups are found.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rebasin_core.inference.tensors import Ids, index_along

__all__ = ["Equation", "Event", "Operand", "Param", "Rearrangement", "Recorder", "Separation"]


class Equation(NamedTuple):
    """``a[i] ~ b[i]``, since `operation` reads both; empty where it follows from other equations."""

    a: Ids
    b: Ids
    operation: str = ""


@dataclass(frozen=True)
class Separation:
    """``whole[m] = (parts[0][index[0][m]], parts[1][index[1][m]], ...)``; everything flat."""

    whole: Ids
    parts: tuple[Ids, ...]
    index: tuple[npt.NDArray[np.int64], ...]
    operation: str = ""

    def entries(self) -> npt.NDArray[np.int64]:
        """Nodes of the parts, one row per entry of the whole."""
        return np.stack([part[index] for part, index in zip(self.parts, self.index, strict=True)], axis=1)


@dataclass(frozen=True)
class Rearrangement:
    """``target[m] = source[index[m]]`` wherever ``index[m] >= 0``; everything flat."""

    source: Ids
    target: Ids
    index: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Operand:
    """The arrays of one operand: nodes, and the places (label, position) in the operation that their slots hold."""

    arrays: tuple[tuple[Ids, frozenset[Hashable]], ...]


@dataclass(frozen=True)
class Event:
    """One operation that relates axes; `kept` are the places that its result has."""

    operands: tuple[Operand, ...]
    kept: frozenset[Hashable]


@dataclass(frozen=True)
class Param:
    """A parameter: its shape, the nodes of every axis longer than 1, and whether it is learned."""

    name: str
    shape: tuple[int, ...]
    ids: tuple[Ids, ...]
    buffer: bool = False


class Recorder:
    """Everything written down while a network is traced."""

    def __init__(self) -> None:
        self.size = 0
        self.operation = "an operation without a name"
        self.equations: list[Equation] = []
        self.separations: list[Separation] = []
        self.pins: list[tuple[Ids, str]] = []
        self.reads: dict[bytes, Ids] = {}
        self.rearrangements: list[Rearrangement] = []
        self.events: list[Event] = []
        self.params: dict[str, Param] = {}
        self.aliases: dict[str, str] = {}
        self.hints: list[tuple[Ids, str]] = []
        self._separated: dict[Hashable, list[Ids]] = {}
        self._joined: dict[Hashable, Ids] = {}

    @contextmanager
    def during(self, operation: str) -> Iterator[None]:
        """Give a name to the operation that is recorded inside; `PermutationGraph.explain` shows it."""
        around, self.operation = self.operation, operation
        try:
            yield
        finally:
            self.operation = around

    def nodes(self, *shape: int) -> Ids:
        """Allocate fresh nodes."""
        count = int(np.prod(shape, dtype=np.int64))
        ids = np.arange(self.size, self.size + count, dtype=np.int64).reshape(shape)
        self.size += count
        return ids

    def pinned_nodes(self, size: int, reason: str) -> Ids:
        """Allocate nodes that stay."""
        ids = self.nodes(size)
        self.pin(ids, reason)
        return ids

    def equate(self, a: Ids, b: Ids) -> None:
        """State that ``a[i]`` and ``b[i]`` move together."""
        if not np.array_equal(a, b):
            self.equations.append(Equation(a.reshape(-1), b.reshape(-1), self.operation))

    def pin(self, ids: Ids, reason: str) -> None:
        """State that these nodes stay in place."""
        self.pins.append((ids.reshape(-1), reason))

    def read(self, ids: Ids) -> None:
        """State that an operation depends on these nodes as a set."""
        self.reads.setdefault(ids.tobytes(), ids.reshape(-1))

    def rearrange(self, source: Ids, target: Ids, index: npt.NDArray[np.int64]) -> None:
        """State that the target was taken from the source, so that their orders commute with the taking."""
        self.rearrangements.append(Rearrangement(source.reshape(-1), target.reshape(-1), index.reshape(-1)))

    def hint(self, ids: Ids, word: str) -> None:
        """Suggest a word for the name of the group of these nodes."""
        self.hints.append((ids.reshape(-1), word))

    def separate(self, ids: Ids, parts: Sequence[tuple[int, ...]]) -> list[Ids]:
        """Require that the order of `ids` is a product of orders, one per part of its axes; return the parts' nodes."""
        key = (ids.tobytes(), ids.shape, tuple(parts))
        if key not in self._separated:
            self.read(ids)
            components = [self.nodes(*(ids.shape[slot] for slot in part)) for part in parts]
            self._separated[key] = components
            self._factorise(ids, components, [index_along(ids.shape, part) for part in parts])
        return self._separated[key]

    def join(self, components: Sequence[Ids], index: Sequence[npt.NDArray[np.int64]], key: Hashable) -> Ids:
        """Make one axis out of several blocks; the nodes returned are products of theirs."""
        full = (key, tuple(c.tobytes() for c in components))
        if full not in self._joined:
            ids = self.nodes(index[0].size)
            for component in components:
                self.read(component)
            self._factorise(ids, components, index)
            self._joined[full] = ids
        return self._joined[full]

    def _factorise(self, ids: Ids, components: Sequence[Ids], index: Sequence[npt.NDArray[np.int64]]) -> None:
        flat = tuple(c.reshape(-1) for c in components)
        self.separations.append(Separation(ids.reshape(-1), flat, tuple(index), self.operation))
        for component, places in zip(flat, index, strict=True):
            self.rearrange(component, ids, places)

    def event(self, operands: Sequence[Sequence[tuple[Ids, Sequence[Hashable]]]], kept: Any) -> None:
        """State which arrays met in an operation."""
        made = tuple(Operand(tuple((ids, frozenset(places)) for ids, places in operand)) for operand in operands)
        if any(operand.arrays for operand in made):
            self.events.append(Event(made, frozenset(kept)))
