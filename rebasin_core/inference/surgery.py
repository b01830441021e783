"""Surgery on the atoms of a tensor: fuse them, bring axes to common factors, make a block factorize.

Splitting an atom is free. Fusing atoms of different blocks makes product nodes, and separating a block states that its
order factorizes; both are written to the recorder.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from rebasin_core.inference.record import Recorder
from rebasin_core.inference.tensors import (
    Atom,
    Block,
    Ids,
    Tensor,
    common_cuts,
    index_along,
    regions,
    replace_range,
    split_atom,
)

__all__ = ["align_factors", "common_factors", "fuse", "separate", "take", "to_factors"]


def separate(recorder: Recorder, tensor: Tensor, block: Block, parts: Sequence[tuple[int, ...]]) -> Tensor:
    """Require that the order of a block is a product over these parts of its slots."""
    if len(parts) < 2:
        return tensor
    components = [Block(ids) for ids in recorder.separate(block.ids, parts)]
    place = {
        slot: (component, part.index(slot)) for component, part in zip(components, parts, strict=True) for slot in part
    }
    return tensor.substitute(lambda a: (a,) if a.block is not block else (Atom(a.size, *place[a.slot]),))


def fuse(recorder: Recorder, tensor: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """Make one atom of several neighboring atoms of an axis."""
    atoms = tensor.dims[dim][start:stop]
    if len(atoms) < 2:
        return tensor
    size = int(np.prod([a.size for a in atoms]))
    blocks = list(dict.fromkeys(a.block for a in atoms if a.block is not None))
    if not blocks:
        reasons = [a.reason for a in atoms if not a.free]
        plain = Atom(size, reason=reasons[0]) if reasons else Atom(size, free=True)
        return replace_range(tensor, dim, start, stop, [plain])
    if len(blocks) == 1 and all(a.block is blocks[0] for a in atoms):
        return _fuse_slots(recorder, tensor, dim, start, stop, blocks[0])
    # A block that reaches out of the fused range must factorize into what lies inside and what lies outside.
    for block in blocks:
        inside = tuple(sorted(a.slot for a in atoms if a.block is block))
        outside = tuple(slot for slot in range(block.ids.ndim) if slot not in inside)
        if outside:
            tensor = separate(recorder, tensor, block, [inside, outside])
    atoms = tensor.dims[dim][start:stop]
    sizes = [a.size for a in atoms]
    components: list[Ids] = []
    index = []
    for block in dict.fromkeys(a.block for a in atoms if a.block is not None):
        slots = sorted((a.slot, k) for k, a in enumerate(atoms) if a.block is block)
        components.append(block.ids)
        index.append(index_along(sizes, [k for _, k in slots]))
    for k, atom in enumerate(atoms):
        if atom.block is None:
            components.append(recorder.pinned_nodes(atom.size, atom.reason or "shares an axis with a moving part"))
            index.append(index_along(sizes, [k]))
    layout = tuple((a.size, a.block is None) for a in atoms)
    joined = recorder.join(components, index, (layout, tuple(i.tobytes() for i in index)))
    return replace_range(tensor, dim, start, stop, [Atom(size, Block(joined))])


def _fuse_slots(recorder: Recorder, tensor: Tensor, dim: int, start: int, stop: int, block: Block) -> Tensor:
    """Fuse slots of one block: transpose its array if they are out of order, then merge them."""
    slots = [a.slot for a in tensor.dims[dim][start:stop]]
    rest = [slot for slot in range(block.ids.ndim) if slot not in slots]
    before = [slot for slot in rest if slot < min(slots)]
    after = [slot for slot in rest if slot >= min(slots)]
    order = [*before, *slots, *after]
    ids = np.ascontiguousarray(block.ids.transpose(order))
    if order != sorted(order):
        recorder.rearrange(block.ids, ids, np.arange(ids.size).reshape(block.ids.shape).transpose(order))
    size = int(np.prod([block.ids.shape[slot] for slot in slots]))
    shape = [block.ids.shape[s] for s in before] + [size] + [block.ids.shape[s] for s in after]
    new = Block(ids.reshape(shape))
    place = {slot: k for k, slot in enumerate(before)}
    place |= {slot: len(before) + 1 + k for k, slot in enumerate(after)}
    fused = Atom(size, new, len(before))
    tensor = replace_range(tensor, dim, start, stop, [fused])
    return tensor.substitute(lambda a: (Atom(a.size, new, place[a.slot]),) if a.block is block else (a,))


def to_factors(recorder: Recorder, tensor: Tensor, dim: int, factors: Sequence[int]) -> Tensor:
    """Bring an axis to these factors, splitting atoms and, where they do not line up, fusing the smallest range."""
    factors = [n for n in factors if n != 1]
    position = 0
    sizes = [a.size for a in tensor.dims[dim]]
    if sizes == factors:
        return tensor
    for (a0, a1), (f0, f1) in regions([sizes, factors]):
        wanted = factors[f0:f1]
        cuts = common_cuts([sizes[a0:a1], wanted])
        count = a1 - a0
        if cuts is None or len(cuts) > len(wanted):
            tensor = fuse(recorder, tensor, dim, position, position + count)
            tensor = split_atom(tensor, dim, position, wanted)
        else:
            tensor = _split_each(tensor, dim, position, sizes[a0:a1], cuts)
        position += len(wanted)
    return tensor


def _split_each(tensor: Tensor, dim: int, position: int, sizes: Sequence[int], cuts: Sequence[int]) -> Tensor:
    """Split every atom of a range so that together they have the sizes `cuts`."""
    remaining = list(cuts)
    for size in sizes:
        part: list[int] = []
        while int(np.prod(part)) < size:
            part.append(remaining.pop(0))
        tensor = split_atom(tensor, dim, position, part)
        position += len(part)
    return tensor


def common_factors(lists: Sequence[Sequence[int]]) -> list[int]:
    """Factors that every list can be brought to: refined where the lists allow it, fused where they do not."""
    if all(sizes == lists[0] for sizes in lists):
        return list(lists[0])
    factors: list[int] = []
    for bounds in regions(lists):
        parts = [sizes[start:stop] for sizes, (start, stop) in zip(lists, bounds, strict=True)]
        cuts = common_cuts(parts)
        factors += cuts if cuts is not None else [int(np.prod(parts[0]))]
    return factors


def align_factors(
    recorder: Recorder, operands: Sequence[Tensor], labels: Sequence[Sequence[Hashable]], joint: Hashable = None
) -> list[Tensor]:
    """Bring all axes with one label to the same factors; axes of length 1 are broadcast and stay out of it.

    The label `joint`, if given, is left as it is.
    """
    tensors = list(operands)
    where: dict[Hashable, list[tuple[int, int]]] = {}
    for o, names in enumerate(labels):
        for dim, label in enumerate(names):
            if tensors[o].dims[dim] and (joint is None or label != joint):
                where.setdefault(label, []).append((o, dim))
    for places in where.values():
        if len(places) < 2:
            continue
        factors = common_factors([[a.size for a in tensors[o].dims[dim]] for o, dim in places])
        for o, dim in places:
            tensors[o] = to_factors(recorder, tensors[o], dim, factors)
    return tensors


def take(recorder: Recorder, block: Block, slot: int, index: Sequence[int]) -> Block:
    """Take places along one slot of a block; a single place drops the slot."""
    chosen = np.asarray(index, dtype=np.int64)
    grid = np.arange(block.ids.size).reshape(block.ids.shape)
    ids = block.ids.take(chosen, axis=slot)
    recorder.rearrange(block.ids, ids, grid.take(chosen, axis=slot))
    if chosen.size == 1:
        ids = ids.reshape([n for k, n in enumerate(ids.shape) if k != slot])
    return Block(ids)
