"""The primitives: the only thing a front end may call.

A front end (PyTorch's ATen operations, Keras layers, a person's list of layers) translates every operation into
these, on symbolic tensors. Labels name axes as in einsum; any hashable will do, so a string, a tuple or a list can
hold them.

=============================  =================================================================================
``param`` ``constant``         where tensors come from
``ein``                        einsum, broadcast and element-wise operations: axes with one label are one axis
``reduce`` ``normalize``       any symmetric function over axes; an element-wise function of a tensor and of that
``reshape`` ``permute``        as in NumPy
``gather``                     constant indices along an axis: slice, select, chunk, flip, roll
``cat`` ``stack``              concatenation along an axis, old or new
``expand`` ``repeat``          broadcast an axis of length 1, tile an axis
``window``                     pooling, padding, up-sampling: an axis whose places have neighbors, so that it stays
``conv``                       convolution, grouped, transposed
``pin``                        anything without a rule: nothing that reaches it may move
=============================  =================================================================================

Element-wise functions of one tensor need no call at all: their result has the axes of their argument.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from rebasin_core.errors import SpecError
from rebasin_core.inference import selections
from rebasin_core.inference.operands import Labels, MatchedOperands
from rebasin_core.inference.record import Param, Recorder
from rebasin_core.inference.surgery import separate, to_factors
from rebasin_core.inference.tensors import Atom, Tensor, common_cuts, fixed, free, regions, whole, with_dim

__all__ = ["Labels", "Primitives"]


class Primitives:
    """Records a network, operation by operation; `build.build_graph` makes a permutation graph of the record.

    Examples
    --------
    A dense layer, an activation (nothing to call) and a second dense layer without biases:

    >>> from rebasin_core.inference import Primitives, build_graph
    >>> p = Primitives()
    >>> x = p.constant((5, 3), reason="input")
    >>> w1, w2 = p.param("fc1.weight", (8, 3)), p.param("fc2.weight", (2, 8))
    >>> h = p.ein([x, w1], ["ni", "hi"], "nh")
    >>> p.pin([p.ein([h, w2], ["nh", "oh"], "no")], "reaches the output")
    >>> build_graph(p.recorder).axes
    {'fc1.weight': AxesSpec("fc1 ."), 'fc2.weight': AxesSpec(". fc1")}
    """

    def __init__(self) -> None:
        self.recorder = Recorder()

    # Sources -----------------------------------------------------------------------------------------------------

    def param(self, name: str, shape: Sequence[int], *, buffer: bool = False) -> Tensor:
        """Return the tensor of a parameter; `buffer` marks state that moves but is not learned (running statistics)."""
        if name in self.recorder.params:
            raise SpecError(f"parameter {name!r} is declared twice; declare it once and pass its tensor on")
        ids = tuple(self.recorder.nodes(n) for n in shape)
        self.recorder.params[name] = Param(name, tuple(shape), ids, buffer)
        return Tensor(tuple(whole(i) for i in ids))

    def alias(self, name: str, original: str) -> None:
        """State that `name` is another name of the parameter `original` (tied weights)."""
        self.recorder.aliases[name] = original

    def constant(self, shape: Sequence[int], *, free_axes: Iterable[int] = (), reason: str = "a constant") -> Tensor:
        """Return a tensor that never moves: an input, a mask, a table.

        `free_axes` are those along which all of its values are equal; they constrain nothing.
        """
        loose = set(free_axes)
        return Tensor(tuple(free(n) if i in loose else fixed(n, reason) for i, n in enumerate(shape)))

    def literal(self, values: npt.ArrayLike, reason: str = "a constant that varies along the axis") -> Tensor:
        """Return a constant whose values are known: free along every axis on which they do not vary."""
        array = np.asarray(values)
        loose = [i for i, n in enumerate(array.shape) if n > 0 and _constant_along(array, i)]
        return self.constant(array.shape, free_axes=loose, reason=reason)

    # Sums of products ----------------------------------------------------------------------------------------------

    def ein(self, operands: Sequence[Tensor], labels: Sequence[Labels], out: Labels) -> Tensor:
        """Relate tensors as einsum does: multiply (or add, or compare) along equal labels, sum over those not in `out`.

        Covers everything that treats all places of a label alike: element-wise and broadcast operations (every label is
        kept), reductions (one operand), products of matrices, attention scores. An axis of length 1 is broadcast.
        """
        aligned = MatchedOperands(self.recorder, operands, labels, set(out))
        aligned.equate()
        return aligned.result(out)

    def reduce(self, x: Tensor, axes: Iterable[int], *, keepdims: bool = False) -> Tensor:
        """Reduce by a symmetric function: sum, mean, max, variance, norm, any."""
        chosen = {axis % x.ndim for axis in axes} if x.ndim else set()
        kept = [i for i in range(x.ndim) if i not in chosen]
        reduced = self.ein([x], [range(x.ndim)], kept)
        if not keepdims:
            return reduced
        dims = iter(reduced.dims)
        return Tensor(tuple(() if i in chosen else next(dims) for i in range(x.ndim)))

    def elementwise(self, *operands: Tensor) -> Tensor:
        """Apply an element-wise function of several tensors, broadcast as in NumPy."""
        ndim = max((t.ndim for t in operands), default=0)
        return self.ein(operands, [range(ndim - t.ndim, ndim) for t in operands], range(ndim))

    def normalize(self, x: Tensor, axes: Iterable[int]) -> Tensor:
        """Apply an element-wise function of `x` and of symmetric statistics over `axes`: softmax, every norm."""
        return self.elementwise(x, self.reduce(x, axes, keepdims=True))

    # Shapes --------------------------------------------------------------------------------------------------------

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Reshape, row-major; constrains nothing unless the factors do not line up."""
        if math.prod(shape) != math.prod(x.shape) or 0 in shape:
            raise SpecError(f"cannot reshape {x.shape} to {tuple(shape)}")
        flat = Tensor((tuple(x.atoms()),))
        sizes, wanted = [a.size for a in flat.dims[0]], [n for n in shape if n != 1]
        factors: list[int] = []
        for (a0, a1), (f0, f1) in regions([sizes, wanted]):
            cuts = common_cuts([sizes[a0:a1], wanted[f0:f1]])
            factors += wanted[f0:f1] if cuts is None else cuts
        atoms = list(to_factors(self.recorder, flat, 0, factors).dims[0])
        dims = []
        for n in shape:
            part: list[Atom] = []
            while math.prod(a.size for a in part) < n:
                part.append(atoms.pop(0))
            dims.append(tuple(part))
        return Tensor(tuple(dims))

    def permute(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """Reorder the axes."""
        return Tensor(tuple(x.dims[axis] for axis in order))

    def insert(self, x: Tensor, axis: int) -> Tensor:
        """Insert an axis of length 1."""
        axis %= x.ndim + 1
        return Tensor((*x.dims[:axis], (), *x.dims[axis:]))

    def expand(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Broadcast to `shape`: axes of length 1 and new leading axes become constant ones."""
        old = (1,) * (len(shape) - x.ndim) + x.shape
        dims = ((),) * (len(shape) - x.ndim) + x.dims
        if any(m not in (1, n) for m, n in zip(old, shape, strict=True)):
            raise SpecError(f"cannot expand {x.shape} to {tuple(shape)}")
        pairs = zip(old, shape, dims, strict=True)
        return Tensor(tuple(free(n) if m == 1 else dim for m, n, dim in pairs))

    def repeat(self, x: Tensor, axis: int, times: int, *, inner: bool = False) -> Tensor:
        """Tile an axis; with `inner`, repeat every entry in place instead."""
        axis %= x.ndim
        copies, dim = free(times), x.dims[axis]
        return with_dim(x, axis, (*dim, *copies) if inner else (*copies, *dim))

    # Selections ----------------------------------------------------------------------------------------------------

    def gather(self, x: Tensor, axis: int, index: npt.ArrayLike) -> Tensor:
        """Take constant places along an axis, in the order given: slice, select (keeping the axis), flip, roll."""
        axis %= x.ndim
        places = np.asarray(index, dtype=np.int64).reshape(-1)
        n = x.shape[axis]
        if places.size == 0:
            raise SpecError(f"no place is taken from axis {axis}, of length {n}; what is empty has no axes to follow")
        if places.min() < -n or places.max() >= n:
            raise SpecError(f"places {places.min()} to {places.max()} do not all lie on axis {axis}, of length {n}")
        places = np.where(places < 0, places + n, places)
        if np.array_equal(places, np.arange(n)):
            return x
        return selections.gather(self.recorder, x, axis, places)

    def select(self, x: Tensor, axis: int, place: int) -> Tensor:
        """Take one place and drop the axis."""
        axis %= x.ndim
        taken = self.gather(x, axis, [place])
        return Tensor((*taken.dims[:axis], *taken.dims[axis + 1 :]))

    def cat(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Concatenate along an axis."""
        axis %= tensors[0].ndim
        return tensors[0] if len(tensors) == 1 else selections.concatenate(self.recorder, tensors, axis)

    def stack(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """Stack along a new axis. Parts with orders of their own keep them: the new axis joins their block."""
        axis %= tensors[0].ndim + 1
        if len(tensors) == 1:
            return self.insert(tensors[0], axis)
        return selections.stack(self.recorder, tensors, axis)

    # Operations that know neighbors -------------------------------------------------------------------------------

    def window(self, x: Tensor, axes: Sequence[int], sizes: Sequence[int], reason: str) -> Tensor:
        """Give axes whose places have neighbors (pooling, padding) their new sizes; they stay in place."""
        axes = [axis % x.ndim for axis in axes]
        x = self.pin_axes(x, axes, reason)
        for axis, size in zip(axes, sizes, strict=True):
            x = with_dim(x, axis, fixed(size, reason))
        return x

    def conv(
        self, x: Tensor, weight: Tensor, sizes: Sequence[int], *, groups: int = 1, transposed: bool = False
    ) -> Tensor:
        """Convolve ``(batch, channels, *places)`` to `sizes` places.

        The weight is ``(out, in / groups, *kernel)``, or ``(in, out / groups, *kernel)`` for a transposed convolution.
        The bias is added by `elementwise`.
        """
        spatial = range(2, x.ndim)
        reason = "places of a convolution"
        x = self.pin_axes(x, spatial, reason)
        weight = self.pin_axes(weight, spatial, "kernel of a convolution")
        batch, channels = x.shape[:2]
        x = self.reduce(x, spatial)
        weight = self.reduce(weight, spatial)
        x = self.reshape(x, (batch, groups, channels // groups))
        first, second = weight.shape
        weight = self.reshape(weight, (groups, first // groups, second))
        out = self.ein([x, weight], ["ngi", "gio" if transposed else "goi"], "ngo")
        self.hint_axis(out, 1, "groups")
        out = self.reshape(out, (batch, out.shape[1] * out.shape[2]))
        return Tensor((*out.dims, *(fixed(n, reason) for n in sizes)))

    def pin(self, tensors: Iterable[Tensor], reason: str) -> None:
        """State that nothing in these tensors may move."""
        for x in tensors:
            self.pin_axes(x, range(x.ndim), reason)

    def pin_axes(self, x: Tensor, axes: Iterable[int], reason: str) -> Tensor:
        """State that these axes stay; the result has them separated from the others."""
        chosen = {axis % x.ndim for axis in axes}
        for block in x.blocks():
            inside = tuple(sorted(a.slot for i in chosen for a in x.dims[i] if a.block is block))
            outside = tuple(slot for slot in range(block.ids.ndim) if slot not in inside)
            if not inside:
                continue
            self.recorder.read(block.ids)
            if outside:
                pinned, rest = self.recorder.separate(block.ids, [inside, outside])
                self.recorder.pin(pinned, reason)
                self.recorder.read(rest)
                x = separate(self.recorder, x, block, [inside, outside])
            else:
                self.recorder.pin(block.ids, reason)
        return Tensor(tuple(_pinned_dim(dim, reason) if i in chosen else dim for i, dim in enumerate(x.dims)))

    def hint_axis(self, x: Tensor, axis: int, word: str) -> None:
        """Suggest a word for the group along an axis, such as "heads"."""
        for atom in x.dims[axis]:
            if atom.block is not None and atom.block.ids.ndim == 1:
                self.recorder.hint(atom.block.ids, word)


def _pinned_dim(dim: tuple[Atom, ...], reason: str) -> tuple[Atom, ...]:
    """Atoms of an axis that stays from here on; those that stay already keep their reason."""
    return tuple(atom if atom.pinned else Atom(atom.size, reason=reason) for atom in dim)


def _constant_along(array: npt.NDArray[np.generic], axis: int) -> bool:
    first = np.take(array, [0], axis=axis)
    return bool(np.all((array == first) | ((array != array) & (first != first))))
