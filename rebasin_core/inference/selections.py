"""Taking places out of an axis, and putting axes together: gather, concatenate, stack.

Nothing here equates nodes along the axis concerned. What is recorded is where every place came from, so that orders
with repeated nodes can be checked to commute with the taking.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rebasin_core.inference.operands import MatchedOperands, Place, place_map, record_event
from rebasin_core.inference.record import Recorder
from rebasin_core.inference.surgery import fuse, take
from rebasin_core.inference.tensors import Atom, Block, Ids, Tensor, fixed, free, insert_dim, with_dim

__all__ = ["concatenate", "gather", "stack"]


def gather(recorder: Recorder, x: Tensor, axis: int, places: npt.NDArray[np.int64]) -> Tensor:
    """Take places along an axis; the axis stays, of the length of `places`."""
    x, position, places = _one_atom(recorder, x, axis, places)
    atom = x.dims[axis][position]
    places_of = place_map(x, range(x.ndim))
    kept = [place for place in places_of if places.size > 1 or place != (axis, position)]
    record_event(recorder, [places_of], kept)
    if atom.block is None:
        atoms = (Atom(places.size, free=atom.free, reason=atom.reason),) if places.size > 1 else ()
        dim = x.dims[axis]
        return with_dim(x, axis, (*dim[:position], *atoms, *dim[position + 1 :]))
    old = atom.block
    new = take(recorder, old, atom.slot, places.tolist())
    if places.size == 1:
        # The place chosen leaves no axis behind, but the result depends on it.
        recorder.read(new.ids)

    def change(a: Atom) -> Sequence[Atom]:
        if a.block is not old:
            return (a,)
        if a.slot == atom.slot:
            return (Atom(places.size, new, a.slot),) if places.size > 1 else ()
        return (Atom(a.size, new, a.slot - (1 if places.size == 1 and a.slot > atom.slot else 0)),)

    return x.substitute(change)


def _one_atom(
    recorder: Recorder, x: Tensor, axis: int, places: npt.NDArray[np.int64]
) -> tuple[Tensor, int, npt.NDArray[np.int64]]:
    """Reduce indices along an axis to indices along one of its atoms, fusing only where they need it."""
    if not x.dims[axis]:
        # An axis of length 1, taken several times.
        return with_dim(x, axis, free(2)), 0, np.zeros(places.size, dtype=np.int64)
    sizes = [a.size for a in x.dims[axis]]
    inner = math.prod(sizes[1:])
    if len(sizes) > 1 and places.size % inner == 0:
        grid = places.reshape(-1, inner)
        if np.array_equal(grid, grid[:, :1] + np.arange(inner)) and not np.any(grid[:, 0] % inner):
            return x, 0, grid[:, 0] // inner
    outer = math.prod(sizes[:-1])
    if len(sizes) > 1 and places.size % outer == 0:
        grid = places.reshape(outer, -1)
        if np.array_equal(grid, grid[:1] + sizes[-1] * np.arange(outer)[:, None]) and grid[0].max() < sizes[-1]:
            return x, len(sizes) - 1, grid[0]
    return fuse(recorder, x, axis, 0, len(sizes)), 0, places


def concatenate(recorder: Recorder, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate two or more tensors along an axis."""
    ndim = tensors[0].ndim
    if all(t.shape[axis] == 1 for t in tensors):
        flat = [Tensor((*t.dims[:axis], *t.dims[axis + 1 :])) for t in tensors]
        return stack(recorder, flat, axis)
    fused = [fuse(recorder, t, axis, 0, len(t.dims[axis])) for t in tensors]
    fused = [t if t.dims[axis] else with_dim(t, axis, (Atom(1),)) for t in fused]
    # One label for the axis of all, so that joint blocks may stay joint; but its nodes are not equated.
    aligned = MatchedOperands(recorder, fused, [range(ndim)] * len(fused), range(ndim), joint=axis)
    place = (axis, 0)
    aligned.equate(skip=[place])
    atoms = [places[place] for places in aligned.maps]
    if all(atom.block is None for atom in atoms):
        size = sum(atom.size for atom in atoms)
        reason = next((atom.reason for atom in atoms if atom.reason), "a concatenation of constants")
        return aligned.result(range(ndim), {place: Atom(size, reason=reason)})
    order = next(aligned.order(o, atom.block) for o, atom in enumerate(atoms) if atom.block is not None)
    arrays = []
    for o, atom in enumerate(atoms):
        if atom.block is None:
            # The other tensors have this axis separated from all others, since no block of this one meets them.
            arrays.append(_part_without_block(recorder, atom))
        else:
            arrays.append(aligned.turned(o, atom.block, order))
    slot = order.index(place)
    block = _joined(recorder, arrays, np.concatenate(arrays, axis=slot), slot)
    return aligned.result(range(ndim), {p: Atom(n, block, k) for k, (p, n) in enumerate(_named(order, block.ids))})


def stack(recorder: Recorder, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Stack two or more tensors along a new axis, which joins the block in which they differ."""
    ndim = tensors[0].ndim
    aligned = MatchedOperands(recorder, tensors, [range(ndim)] * len(tensors), range(ndim))
    order = _differing(aligned)
    if order is None:
        aligned.equate()
        result = aligned.result(range(ndim))
        return insert_dim(result, axis, fixed(len(tensors), "parts of a stack"))
    aligned.equate(skip=order)
    arrays = []
    for o, atoms in enumerate(aligned.maps):
        block = atoms[order[0]].block
        assert block is not None
        arrays.append(aligned.turned(o, block, order)[None])
    block = _joined(recorder, arrays, np.concatenate(arrays), 0)
    replaced = {p: Atom(n, block, k + 1) for k, (p, n) in enumerate(_named(order, block.ids[0]))}
    return insert_dim(aligned.result(range(ndim), replaced), axis, (Atom(len(tensors), block, 0),))


def _part_without_block(recorder: Recorder, atom: Atom) -> Ids:
    """Allocate the nodes of a concatenated part: a constant part may be reordered within itself."""
    if not atom.free:
        return recorder.pinned_nodes(atom.size, atom.reason or "concatenated with a moving part")
    ids = recorder.nodes(atom.size)
    recorder.read(ids)
    return ids


def _joined(recorder: Recorder, arrays: Sequence[Ids], joined: Ids, axis: int) -> Block:
    """Record where the parts of a concatenation went."""
    for k, source in enumerate(arrays):
        grids = [np.arange(a.size).reshape(a.shape) if j == k else np.full(a.shape, -1) for j, a in enumerate(arrays)]
        recorder.rearrange(source, joined, np.concatenate(grids, axis=axis))
    return Block(joined)


def _named(order: Sequence[Place], ids: Ids) -> list[tuple[Place, int]]:
    return list(zip(order, ids.shape, strict=True))


def _differing(aligned: MatchedOperands) -> list[Place] | None:
    """The places of a block that every operand holds, and whose nodes differ between them."""
    for block in aligned.tensors[0].blocks():
        order = aligned.order(0, block)
        held = [[atoms.get(place) for place in order] for atoms in aligned.maps]
        blocks = [atoms[0].block if atoms[0] is not None else None for atoms in held]
        if any(b is None for b in blocks):
            continue
        arrays = [aligned.turned(o, b, order) for o, b in enumerate(blocks) if b is not None]
        if any(not np.array_equal(a, arrays[0]) for a in arrays):
            return order
    return None
