"""Group sizes from shapes: every axis of every parameter is one equation, ``size(axis) = length``."""

import math
from collections.abc import Iterable, Mapping

from rebasin_core.errors import SpecError
from rebasin_core.symmetry.axes import AxesSpec, Axis, Fixed, Gather, Group, Product, Sum, size, walk

__all__ = ["infer_sizes", "tuple_shape"]

Shapes = Mapping[str, tuple[int, ...]]


def infer_sizes(axes: Mapping[str, AxesSpec], shapes: Shapes, known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Find the size of every group, in order of first appearance.

    An axis with one unknown gives its size; this is repeated until nothing is left to learn. Sizes in `known` are taken
    as given, and checked like the others.

    Raises
    ------
    SpecError
        A parameter has another number of axes than its notation, a group has two sizes, an axis does not divide, or the
        shapes leave a size open. The message names the parameter and the axis.
    """
    equations = [
        (name, i, axis, shapes[name][i]) for name, spec in axes.items() for i, axis in _axes_of(name, spec, shapes)
    ]
    sizes: dict[str, int] = dict(known or {})
    origin: dict[str, str] = dict.fromkeys(sizes, "the sizes given")
    pending = equations
    while pending:
        later = []
        for name, i, axis, length in pending:
            unknown = [node.name for node in walk(axis) if isinstance(node, Group) and node.name not in sizes]
            if len(unknown) == 1:
                sizes[unknown[0]] = _solve(axis, length, sizes, where(name, i, axis))
                origin[unknown[0]] = where(name, i, axis)
            elif unknown:
                later.append((name, i, axis, length))
        if len(later) == len(pending):
            names = sorted({n.name for _, _, axis, _ in later for n in walk(axis) if isinstance(n, Group)} - set(sizes))
            name, i, axis, length = later[0]
            raise SpecError(
                f"the shapes leave the size of {', '.join(names)} open: {where(name, i, axis)} has length {length} and "
                f"more than one unknown. Write the size of a fixed block as a number, or give the parameter in which "
                f"the group stands alone"
            )
        pending = later
    for name, i, axis, length in equations:
        _check(name, i, axis, length, sizes, origin)
    order = dict.fromkeys(group for spec in axes.values() for group in spec.groups)
    return {group: sizes[group] for group in order}


def _axes_of(name: str, spec: AxesSpec, shapes: Shapes) -> Iterable[tuple[int, Axis]]:
    if len(spec) != len(shapes[name]):
        raise SpecError(
            f'parameter {name!r} has {len(shapes[name])} axes, of shape {shapes[name]}, but its notation "{spec}" has '
            f"{len(spec)}. Write one entry per axis; '.' for an axis that stays"
        )
    return enumerate(spec.axes)


def where(name: str, i: int, axis: Axis) -> str:
    """Name an axis for a message."""
    return f'axis {i} of {name!r} ("{axis}")'


def _solve(axis: Axis, length: int, sizes: Mapping[str, int], place: str) -> int:
    """Size of the one unknown group in `axis`, so that the axis has this length."""
    match axis:
        case Group(name):
            if name in sizes:
                raise AssertionError(name)
            return length
        case Product(factors):
            known = math.prod(size(f, sizes) for f in factors if not _open(f, sizes))
            inner = next(f for f in factors if _open(f, sizes))
            if known == 0 or length % known:
                raise SpecError(f"{place} has length {length}, which does not divide by its known factors, {known}")
            return _solve(inner, length // known, sizes, place)
        case Sum(terms):
            known = sum(size(t, sizes) for t in terms if not _open(t, sizes))
            inner = next(t for t in terms if _open(t, sizes))
            if length <= known:
                raise SpecError(f"{place} has length {length}, but its known parts alone take {known}")
            return _solve(inner, length - known, sizes, place)
        case Gather(inner, order):
            if len(order) != length:
                raise SpecError(f"{place} has length {length}, but its order has {len(order)} places")
            return _solve(inner, length, sizes, place)
    raise AssertionError(axis)


def _open(axis: Axis, sizes: Mapping[str, int]) -> bool:
    return any(isinstance(node, Group) and node.name not in sizes for node in walk(axis))


def _check(name: str, i: int, axis: Axis, length: int, sizes: Mapping[str, int], origin: Mapping[str, str]) -> None:
    if isinstance(axis, Fixed) and axis.size is None:
        return
    if isinstance(axis, Gather) and size(axis, sizes) == length:
        return _check(name, i, axis.axis, length, sizes, origin)
    if size(axis, sizes) == length:
        return
    if isinstance(axis, Group):
        raise SpecError(
            f"group {axis.name!r} has two sizes: {sizes[axis.name]} by {origin[axis.name]}, but {length} by "
            f"{where(name, i, axis)}. Give one of the two another name, or correct the axis"
        )
    known = ", ".join(f"{n.name} = {sizes[n.name]} by {origin[n.name]}" for n in walk(axis) if isinstance(n, Group))
    raise SpecError(
        f"{where(name, i, axis)} has length {length}, but its notation makes {size(axis, sizes)}"
        + (f" (group sizes: {known})" if known else "")
    )


def tuple_shape(array: object) -> tuple[int, ...]:
    """Shape of an array of any framework, as plain ints."""
    shape = getattr(array, "shape", ())
    try:
        return tuple(int(n) for n in shape)
    except (TypeError, ValueError):
        raise SpecError(f"expected an array whose shape is known, got one of shape {shape}") from None
