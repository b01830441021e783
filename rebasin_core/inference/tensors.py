"""Symbolic tensors: what is known about the axes of an intermediate result.

Every index of an axis is an integer, its *node*. Two places that must move together carry nodes that are equal, or
that are equated later. The nodes of one axis, or of several axes whose order is not known to factorize, form a
`Block`; an axis of a tensor is a row-major product of `Atom`s, and each atom is a slot of a block, or pinned, or
free.

A reshape therefore only regroups atoms, a slice only takes nodes out of a block, and neither constrains anything.
"""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Atom",
    "Block",
    "Ids",
    "Tensor",
    "common_cuts",
    "fixed",
    "free",
    "index_along",
    "insert_dim",
    "regions",
    "replace_range",
    "split_atom",
    "whole",
    "with_dim",
]

Ids = npt.NDArray[np.int64]
"""Nodes, one per index."""


@dataclass(frozen=True, eq=False)
class Block:
    """Axes whose indices are known only together; `ids` has one array axis per slot.

    Within one tensor every (block, slot) stands at most once. Blocks compare by identity: a tensor multiplied with
    itself holds two blocks with the same nodes.
    """

    ids: Ids


@dataclass(frozen=True)
class Atom:
    """One factor of an axis.

    Attributes
    ----------
    size : int
        Its length, at least 2: an axis of length 1 has no atoms.
    block : Block or None
        The block that holds its nodes.
    slot : int
        Which axis of ``block.ids`` it is.
    free : bool
        Whether the tensor is constant along it, so that every order leaves the tensor as it is.
    reason : str
        Why it stays in place, where it is neither free nor in a block.
    """

    size: int
    block: Block | None = None
    slot: int = 0
    free: bool = False
    reason: str = ""

    @property
    def pinned(self) -> bool:
        """Whether the order along this atom must stay."""
        return self.block is None and not self.free


def fixed(size: int, reason: str) -> tuple[Atom, ...]:
    """Return the atoms of an axis that stays as it is."""
    return (Atom(size, reason=reason),) if size != 1 else ()


def free(size: int) -> tuple[Atom, ...]:
    """Return the atoms of an axis along which the tensor is constant."""
    return (Atom(size, free=True),) if size != 1 else ()


def whole(ids: Ids) -> tuple[Atom, ...]:
    """Return the atoms of an axis with these nodes and a block of its own."""
    return (Atom(ids.size, Block(ids)),) if ids.size != 1 else ()


@dataclass(frozen=True)
class Tensor:
    """A symbolic tensor: per axis, the atoms whose row-major product it is."""

    dims: tuple[tuple[Atom, ...], ...]
    shape: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(math.prod(a.size for a in dim) for dim in self.dims))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.dims)

    def atoms(self) -> Iterable[Atom]:
        """Yield every atom, axis by axis."""
        for dim in self.dims:
            yield from dim

    def blocks(self) -> list[Block]:
        """Every block in it, once, in order of appearance."""
        return list(dict.fromkeys(a.block for a in self.atoms() if a.block is not None))

    def substitute(self, change: Callable[[Atom], Sequence[Atom]]) -> "Tensor":
        """Return the tensor with every atom replaced by the atoms `change` makes of it."""
        return Tensor(tuple(tuple(new for atom in dim for new in change(atom)) for dim in self.dims))

    def with_own_blocks(self) -> "Tensor":
        """Return the tensor on copies of its blocks (with the same nodes)."""
        copies = {block: Block(block.ids) for block in self.blocks()}
        return self.substitute(lambda a: (a,) if a.block is None else (Atom(a.size, copies[a.block], a.slot),))


def split_atom(tensor: Tensor, dim: int, position: int, sizes: Sequence[int]) -> Tensor:
    """Write one atom of one axis as a row-major product of atoms of these sizes; constrains nothing."""
    sizes = [n for n in sizes if n != 1]
    if len(sizes) < 2:
        return tensor
    atom = tensor.dims[dim][position]
    block = atom.block
    if block is None:
        parts = tuple(Atom(n, free=atom.free, reason=atom.reason) for n in sizes)
        return replace_range(tensor, dim, position, position + 1, parts)
    shape = block.ids.shape
    new = Block(block.ids.reshape(*shape[: atom.slot], *sizes, *shape[atom.slot + 1 :]))

    def split_slot(a: Atom) -> Sequence[Atom]:
        if a.block is not block:
            return (a,)
        if a.slot == atom.slot:
            return [Atom(n, new, a.slot + k) for k, n in enumerate(sizes)]
        return (Atom(a.size, new, a.slot + (len(sizes) - 1 if a.slot > atom.slot else 0)),)

    return tensor.substitute(split_slot)


def replace_range(tensor: Tensor, dim: int, start: int, stop: int, atoms: Sequence[Atom]) -> Tensor:
    """Put other atoms in place of some of one axis."""
    old = tensor.dims[dim]
    dims = (*tensor.dims[:dim], (*old[:start], *atoms, *old[stop:]), *tensor.dims[dim + 1 :])
    return Tensor(dims)


def with_dim(x: Tensor, axis: int, dim: tuple[Atom, ...]) -> Tensor:
    """Return the tensor with other atoms along one axis."""
    return Tensor((*x.dims[:axis], dim, *x.dims[axis + 1 :]))


def insert_dim(x: Tensor, axis: int, dim: tuple[Atom, ...]) -> Tensor:
    """Return the tensor with one more axis."""
    return Tensor((*x.dims[:axis], dim, *x.dims[axis:]))


def common_cuts(lists: Sequence[Sequence[int]]) -> list[int] | None:
    """Find the coarsest factors that refine several factorizations of one size.

    ``[[4, 3], [2, 6]]`` gives ``[2, 2, 3]``: row-major, both are regroupings of it. None where there is none, as for
    ``[[2, 3], [3, 2]]``.
    """
    cuts = sorted({cut for sizes in lists for cut in accumulate(sizes, operator.mul)})
    factors = []
    last = 1
    for cut in cuts:
        if cut % last:
            return None
        factors.append(cut // last)
        last = cut
    return [n for n in factors if n != 1]


def regions(lists: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Cut factorizations of one size where all of them agree.

    Returns one entry per region, each with the ``(start, stop)`` range of factors of every list.
    """
    cumulative = [[1, *accumulate(sizes, operator.mul)] for sizes in lists]
    agreed = sorted(set.intersection(*(set(c) for c in cumulative)))
    bounds = [[c.index(cut) for cut in agreed] for c in cumulative]
    return [[(b[k], b[k + 1]) for b in bounds] for k in range(len(agreed) - 1)]


def index_along(shape: Sequence[int], axes: Sequence[int]) -> npt.NDArray[np.int64]:
    """For every flat position of `shape`, the flat position along only these axes."""
    grid = np.indices(tuple(shape), dtype=np.int64)
    result: Any = np.zeros(tuple(shape), dtype=np.int64)
    for axis in axes:
        result = result * shape[axis] + grid[axis]
    return np.asarray(result).reshape(-1)
