"""Operands side by side: which of their blocks hold the same places, and what that demands of them.

A *place* is a label together with the position of an atom along the axis of that label. Once operands have common
factors, two atoms at one place are one axis. A block whose places meet several blocks of another operand, or that is
summed over in part, must factorise accordingly; this is repeated until every block meets whole blocks.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from rebasin_core.errors import SpecError
from rebasin_core.inference.record import Recorder
from rebasin_core.inference.surgery import align_factors, separate
from rebasin_core.inference.tensors import Atom, Block, Tensor

__all__ = ["Labels", "MatchedOperands", "Place", "place_map", "record_event"]

Labels: TypeAlias = Sequence[Hashable]
Place: TypeAlias = tuple[Hashable, int]


def place_map(tensor: Tensor, labels: Labels) -> dict[Place, Atom]:
    """Name the place of every atom of a tensor."""
    return {(label, k): atom for label, dim in zip(labels, tensor.dims, strict=True) for k, atom in enumerate(dim)}


def record_event(recorder: Recorder, maps: Sequence[Mapping[Place, Atom]], kept: Collection[Place]) -> None:
    """Record which blocks met in an operation, and which places its result keeps."""
    operands = []
    for atoms in maps:
        held: dict[Block, list[Hashable]] = {}
        for place, atom in atoms.items():
            if atom.block is not None:
                held.setdefault(atom.block, []).append(place)
        operands.append([(block.ids, places) for block, places in held.items()])
    recorder.event(operands, kept)


class MatchedOperands:
    """Operands brought to common factors, with all blocks separated as far as the operation demands.

    Parameters
    ----------
    recorder : Recorder
        Where separations, reads and equations go.
    operands : sequence of Tensor
        The operands.
    labels : sequence of labels
        The labels of their axes; an axis of length 1 is broadcast.
    kept : collection of labels
        The labels of the result; the others are summed over.
    joint : label, optional
        A label along which the operands are concatenated: their lengths may differ, and each has one atom there.

    Raises
    ------
    SpecError
        Labels do not fit the operands.
    """

    def __init__(
        self,
        recorder: Recorder,
        operands: Sequence[Tensor],
        labels: Sequence[Labels],
        kept: Collection[Hashable],
        joint: Hashable = None,
    ) -> None:
        self.recorder = recorder
        self.labels = [tuple(names) for names in labels]
        self.kept = frozenset(kept)
        self.joint = joint
        _check(operands, self.labels, joint)
        tensors = [x.with_own_blocks() for x in operands]
        self.tensors = align_factors(recorder, tensors, self.labels, joint)
        self._separate_until_stable()
        self.maps = self._place_maps()
        for x in self.tensors:
            for block in x.blocks():
                recorder.read(block.ids)
        record_event(recorder, self.maps, {place for atoms in self.maps for place in atoms if place[0] in self.kept})

    def _place_maps(self) -> list[dict[Place, Atom]]:
        return [place_map(x, names) for x, names in zip(self.tensors, self.labels, strict=True)]

    def _separate_until_stable(self) -> None:
        while True:
            maps = self._place_maps()
            found = next(
                (
                    (o, block, parts)
                    for o, x in enumerate(self.tensors)
                    for block in x.blocks()
                    if block.ids.ndim > 1
                    for parts in [self._parts(o, block, maps)]
                    if len(parts) > 1
                ),
                None,
            )
            if found is None:
                return
            o, block, parts = found
            self.tensors[o] = separate(self.recorder, self.tensors[o], block, parts)

    def _parts(self, o: int, block: Block, maps: Sequence[Mapping[Place, Atom]]) -> list[tuple[int, ...]]:
        """Which slots of a block may stay together: those that meet the same blocks and are kept alike."""
        meets: dict[tuple[Hashable, ...], list[int]] = {}
        for place, atom in maps[o].items():
            if atom.block is not block:
                continue
            key: list[Hashable] = [place[0] in self.kept]
            for other, atoms in enumerate(maps):
                if other != o:
                    key.append(self._met(atoms.get(place), place))
            meets.setdefault(tuple(key), []).append(atom.slot)
        return sorted(tuple(sorted(slots)) for slots in meets.values())

    def _met(self, atom: Atom | None, place: Place) -> Hashable:
        """What an operand demands of a slot at one of its places; None for nothing."""
        if atom is None or (atom.free and (self.joint is None or place[0] != self.joint)):
            return None
        return place if atom.block is None else atom.block

    def equate(self, skip: Collection[Place] = ()) -> None:
        """Equate blocks that hold the same places, and pin those that meet something pinned.

        Blocks at the places `skip` are left alone.
        """
        left_alone = {atoms[place].block for atoms in self.maps for place in skip if place in atoms}
        reasons = {place: atom.reason for atoms in self.maps for place, atom in atoms.items() if atom.pinned}
        lead: dict[Place, tuple[int, Block]] = {}
        done: set[tuple[Block, Block]] = set()
        for o, atoms in enumerate(self.maps):
            for place, atom in atoms.items():
                if atom.block is None or atom.block in left_alone:
                    continue
                if place in reasons:
                    # What stays says nothing about other things that stay, so there is nothing to equate.
                    self.recorder.pin(atom.block.ids, reasons[place])
                    continue
                first, block = lead.setdefault(place, (o, atom.block))
                if block is not atom.block and (block, atom.block) not in done:
                    done.add((block, atom.block))
                    turned = self.turned(o, atom.block, self.order(first, block))
                    self.recorder.equate(block.ids, turned)

    def order(self, o: int, block: Block) -> list[Place]:
        """The places that a block of an operand holds, slot by slot."""
        places = {atom.slot: place for place, atom in self.maps[o].items() if atom.block is block}
        return [places[slot] for slot in range(block.ids.ndim)]

    def turned(self, o: int, block: Block, order: Sequence[Place]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """Nodes of a block of an operand with its slots in the order of these places."""
        slots = [self.maps[o][place].slot for place in order]
        ids = np.ascontiguousarray(block.ids.transpose(slots))
        if slots != sorted(slots):
            grid = np.arange(ids.size).reshape(block.ids.shape)
            self.recorder.rearrange(block.ids, ids, grid.transpose(slots))
        return ids

    def result(self, out: Labels, replaced: Mapping[Place, Atom] | None = None) -> Tensor:
        """Return the result: at every place an atom that stays if an operand has one, else a block, else a free one."""
        best: dict[Place, Atom] = {}
        for atoms in self.maps:
            for place, atom in atoms.items():
                if place not in best or _rank(atom) > _rank(best[place]):
                    best[place] = atom
        best |= replaced or {}
        dims: dict[Hashable, list[tuple[int, Atom]]] = {}
        for (label, k), atom in best.items():
            dims.setdefault(label, []).append((k, atom))
        return Tensor(
            tuple(tuple(atom for _, atom in sorted(dims.get(label, ()), key=lambda entry: entry[0])) for label in out)
        )


def _rank(atom: Atom) -> int:
    return 0 if atom.free else 1 if atom.block is not None else 2


def _check(operands: Sequence[Tensor], labels: Sequence[Labels], joint: Hashable) -> None:
    sizes: dict[Hashable, int] = {}
    for x, names in zip(operands, labels, strict=True):
        if len(names) != x.ndim or len(set(names)) != len(names):
            raise SpecError(f"labels {names!r} do not name the axes of an operand of shape {x.shape}, each once")
        for label, n in zip(names, x.shape, strict=True):
            if n != 1 and label != joint and sizes.setdefault(label, n) != n:
                raise SpecError(f"label {label!r} has two lengths, {sizes[label]} and {n}")
