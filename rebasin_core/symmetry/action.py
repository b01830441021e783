"""How a plan acts on an array: the one walk over the axis notation.

A group acts on an axis by an index vector (a hard permutation, ``x[perm]``) or by a matrix (a soft one, ``M @ x``); the
walk does not care which, so hard and soft plans cannot disagree. It reshapes a product into its factors, splits a sum
into its terms, and lets each group act where it appears:

* a plain group by an index vector of shape ``(n,)`` or a matrix ``(n, n)``;
* a local group by index vectors ``(parent, n)`` or matrices ``(parent, n, n)``, after its parent has moved: row ``i``
  orders the elements that place ``i`` of the parent now holds.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.symmetry.axes import AxesSpec, Axis, Fixed, Gather, Group, Product, Sum, size

__all__ = ["Action", "act", "as_matrix", "occurrence_pairs", "occurrences"]

Action: TypeAlias = Array
"""An index vector ``(n,)`` / ``(parent, n)``, or a matrix ``(n, n)`` / ``(parent, n, n)``, of one group."""

# What to do where a group appears: (array, group, its axis, the axis of its parent or None) -> array.
Visit: TypeAlias = Callable[[Array, Group, int, int | None], Array]


def act(backend: Backend, x: Array, spec: AxesSpec, sizes: Mapping[str, int], actions: Mapping[str, Action]) -> Array:
    """Reorder (or mix) one parameter as `actions` says; a group without an action stays.

    Parameters
    ----------
    backend : Backend
        The backend of `x`.
    x : array
        The parameter, of the shape `spec` describes.
    spec : AxesSpec
        Its axes.
    sizes : mapping of str to int
        Size of every group.
    actions : mapping of str to array
        Index vectors (integers) or matrices (floating point), per group.

    Returns
    -------
    array
        Of the same shape; of the same dtype unless a matrix has a wider one.
    """

    def visit(part: Array, group: Group, axis: int, parent_axis: int | None) -> Array:
        action = actions.get(group.name)
        if action is None:
            return part
        hard = backend.shape(action)[1:] == () if group.parent is None else len(backend.shape(action)) == 2
        if parent_axis is None:
            return backend.take(part, action, axis) if hard else _mix(backend, part, action, axis)
        if hard:
            return _take_local(backend, part, action, axis, parent_axis)
        return _mix_local(backend, part, action, axis, parent_axis)

    if not any(name in actions for name in spec.groups):
        return x
    return _product(backend, x, spec.axes, 0, sizes, {}, visit)


def as_matrix(spec: AxesSpec) -> tuple[str | None, str | None] | None:
    """Groups of the first and the second axis, None for one that stays, of an array that is a layer's weight.

    Returns None where another axis moves, where an axis is made of several parts, and where a group is local.
    """
    if len(spec.axes) < 2 or not all(isinstance(axis, Fixed) for axis in spec.axes[2:]):
        return None
    names: list[str | None] = []
    for axis in spec.axes[:2]:
        if isinstance(axis, Group) and axis.parent is None:
            names.append(axis.name)
        elif isinstance(axis, Fixed):
            names.append(None)
        else:
            return None
    return names[0], names[1]


def occurrence_pairs(
    backend: Backend, a: Array, b: Array, spec: AxesSpec, sizes: Mapping[str, int], group: str
) -> Iterator[tuple[Array, Array]]:
    """Yield, for every place in which `group` appears, the two arrays with that axis first and the rest flattened.

    The pairs have shape ``(n, rest)``, or ``(parent, n, rest)`` for a local group. Their product ``A @ B.T`` is the
    similarity of the units of `a` to those of `b`, which linear assignment maximizes.
    """
    yield from zip(*(occurrences(backend, x, spec, sizes, group) for x in (a, b)), strict=True)


def occurrences(backend: Backend, x: Array, spec: AxesSpec, sizes: Mapping[str, int], group: str) -> list[Array]:
    """One side of `occurrence_pairs`."""
    places: list[Array] = []

    def visit(part: Array, node: Group, axis: int, parent_axis: int | None) -> Array:
        if node.name == group:
            front = backend.moveaxis(part, axis, 0)
            n = backend.shape(front)[0]
            if parent_axis is None:
                places.append(backend.reshape(front, (n, -1)))
            else:
                shifted = parent_axis + (1 if parent_axis < axis else 0)
                front = backend.moveaxis(front, shifted, 0)
                places.append(backend.reshape(front, (backend.shape(front)[0], n, -1)))
        return part

    _product(backend, x, spec.axes, 0, sizes, {}, visit)
    return places


def _walk(
    backend: Backend,
    x: Array,
    axis: Axis,
    at: int,
    sizes: Mapping[str, int],
    parents: Mapping[str, int],
    visit: Visit,
) -> Array:
    """Visit every group of `axis`, which is axis `at` of `x`; `parents` gives the axes of the groups around it."""
    match axis:
        case Fixed():
            return x
        case Group(_, parent):
            return visit(x, axis, at, None if parent is None else parents[parent])
        case Sum(terms):
            parts = backend.split(x, [size(t, sizes) for t in terms], at)
            moved = [_walk(backend, p, t, at, sizes, parents, visit) for p, t in zip(parts, terms, strict=True)]
            return backend.concat(moved, at)
        case Gather(inner_axis, order):
            # Into the order that the inner axis describes, act there, and back.
            there, back = np.argsort(order), np.asarray(order)
            x = backend.take(x, backend.asarray(there, like=x, dtype="int64"), at)
            x = _walk(backend, x, inner_axis, at, sizes, parents, visit)
            return backend.take(x, backend.asarray(back, like=x, dtype="int64"), at)
        case Product(factors):
            shape = backend.shape(x)
            inner = [size(f, sizes) for f in factors]
            x = backend.reshape(x, (*shape[:at], *inner, *shape[at + 1 :]))
            shifted = {name: i + (len(inner) - 1 if i > at else 0) for name, i in parents.items()}
            return backend.reshape(_product(backend, x, factors, at, sizes, shifted, visit), shape)


def _product(
    backend: Backend,
    x: Array,
    factors: tuple[Axis, ...],
    at: int,
    sizes: Mapping[str, int],
    parents: Mapping[str, int],
    visit: Visit,
) -> Array:
    """Visit factors that are axes ``at, at + 1, ...``: plain groups first, since local ones follow their parent."""
    plain = {f.name: at + j for j, f in enumerate(factors) if isinstance(f, Group) and f.parent is None}
    order = sorted(range(len(factors)), key=lambda j: at + j not in plain.values())
    for j in order:
        x = _walk(backend, x, factors[j], at + j, sizes, {**parents, **plain}, visit)
    return x


def _mix(backend: Backend, x: Array, matrix: Array, axis: int) -> Array:
    """``matrix @ x`` along one axis."""
    shape = backend.shape(x)
    if axis == 0:
        return backend.reshape(backend.matmul(matrix, backend.reshape(x, (shape[0], -1))), shape)
    last = backend.moveaxis(x, axis, -1)
    flat = backend.matmul(backend.reshape(last, (-1, shape[axis])), matrix, transpose_y=True)
    return backend.moveaxis(backend.reshape(flat, backend.shape(last)), -1, axis)


def _mix_local(backend: Backend, x: Array, matrices: Array, axis: int, parent_axis: int) -> Array:
    """``matrices[i] @ x`` along one axis, for every place ``i`` of the parent axis."""
    # Parent first, then the axis that is mixed: (parent, n, everything else).
    front = backend.moveaxis(x, axis, 0)
    front = backend.moveaxis(front, parent_axis + (1 if parent_axis < axis else 0), 0)
    shape = backend.shape(front)
    mixed = backend.reshape(backend.matmul(matrices, backend.reshape(front, (*shape[:2], -1))), shape)
    mixed = backend.moveaxis(mixed, 0, parent_axis + (1 if parent_axis < axis else 0))
    return backend.moveaxis(mixed, 0, axis)


def _take_local(backend: Backend, x: Array, indices: Array, axis: int, parent_axis: int) -> Array:
    """``x[indices[i]]`` along one axis, for every place ``i`` of the parent axis."""
    # Parent first, then the axis that is taken from, as one axis: a plain take, which every framework has.
    front = backend.moveaxis(x, axis, 0)
    front = backend.moveaxis(front, parent_axis + (1 if parent_axis < axis else 0), 0)
    shape = backend.shape(front)
    start = backend.asarray(np.arange(shape[0]) * shape[1], like=x, dtype="int64")
    flat = backend.reshape(indices + backend.reshape(start, (-1, 1)), (-1,))
    taken = backend.reshape(backend.take(backend.reshape(front, (-1, *shape[2:])), flat, 0), shape)
    taken = backend.moveaxis(taken, 0, parent_axis + (1 if parent_axis < axis else 0))
    return backend.moveaxis(taken, 0, axis)
