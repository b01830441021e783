"""Hypothesis strategies for the axis notation: random axes of a parameter, and graphs made of them."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from rebasin_core.symmetry.axes import AxesSpec, Axis, Fixed, Gather, Group, Product, Sum, size
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["axes_graphs", "axes_specs", "factor_lists", "group_sizes"]

_PARENTS = {"d": "h"}


@st.composite
def group_sizes(draw: DrawFn) -> dict[str, int]:
    """Sizes of two plain groups, ``h`` and ``c``, and of ``d``, which is local to ``h``."""
    return {name: draw(st.integers(1, 3)) for name in ("h", "c", "d")}


@st.composite
def axes_specs(
    draw: DrawFn,
    sizes: Mapping[str, int] | None = None,
    *,
    parents: Mapping[str, str] | None = None,
    max_axes: int = 3,
    depth: int = 2,
) -> AxesSpec:
    """Axes of one parameter: groups, fixed blocks, products, sums and fixed orders of them, all of known sizes.

    Parameters
    ----------
    draw : callable
        Given by Hypothesis; leave it out.
    sizes : mapping of str to int, optional
        Size of every group that may occur; default: of ``h``, ``c``, and ``d``, which is local to ``h``.
    parents : mapping of str to str, optional
        For every group of `sizes` that is local, the group it is local to; where none of it stands, it does not either.
    max_axes : int
        How many axes at most.
    depth : int
        How deep brackets are nested at most.

    Examples
    --------
    >>> from hypothesis import given
    >>> @given(axes_specs({"h": 4, "c": 3}))
    ... def test_the_shape_follows_from_the_sizes(spec):
    ...     shape = tuple(size(axis, {"h": 4, "c": 3}) for axis in spec.axes)
    ...     graph = PermutationGraph.from_axes({"w": spec, "v": "h c"}, {"w": np.zeros(shape), "v": np.zeros((4, 3))})
    ...     assert graph.groups.keys() == {"h", "c"}
    >>> test_the_shape_follows_from_the_sizes()
    """
    if sizes is None:
        sizes, parents = draw(group_sizes()), _PARENTS
    return AxesSpec.of(*draw(factor_lists(sizes, parents or {}, frozenset(), depth, least=1, most=max_axes)))


@st.composite
def factor_lists(
    draw: DrawFn,
    sizes: Mapping[str, int],
    parents: Mapping[str, str],
    around: Collection[str],
    depth: int,
    least: int,
    most: int = 3,
) -> list[Axis]:
    """Factors of a product, or the axes of a parameter.

    A local group is put where exactly one of its parent is nearest, beside it or around it; `around` has the parents of
    which that is so outside.
    """
    kinds = draw(st.lists(st.sampled_from([*sizes, "(nested)"]), min_size=least, max_size=max(least, most)))
    followed = {p for p in parents.values() if kinds.count(p) == 1 or (p in around and not kinds.count(p))}
    factors: list[Axis] = []
    for kind in kinds:
        if kind in sizes and (kind not in parents or parents[kind] in followed):
            factors.append(Group(kind, parents.get(kind)))
            continue
        nested = draw(_axis_trees(sizes, parents, followed, depth))
        # A second h beside a d[h] would leave open which of the two it follows.
        second = isinstance(nested, Group) and nested.name in parents.values()
        factors.append(Fixed(2) if second else nested)
    return factors


@st.composite
def _axis_trees(
    draw: DrawFn, sizes: Mapping[str, int], parents: Mapping[str, str], around: Collection[str], depth: int
) -> Axis:
    """One axis."""
    groups = [group for group in sizes if group not in parents or parents[group] in around]
    kind = draw(st.sampled_from(["(fixed)", *(["(product)", "(sum)", "(gather)"] if depth else []), *groups]))
    match kind:
        case "(product)":
            return Product(tuple(draw(factor_lists(sizes, parents, around, depth - 1, least=2))))
        case "(sum)":
            terms = st.lists(_axis_trees(sizes, parents, around, depth - 1), min_size=2, max_size=3)
            return Sum(tuple(draw(terms)))
        case "(gather)":
            inner = draw(_axis_trees(sizes, parents, around, depth - 1))
            return Gather(inner, tuple(draw(st.permutations(range(size(inner, sizes))))))
        case "(fixed)":
            return Fixed(draw(st.integers(1, 3)))
    return Group(kind, parents.get(kind))


@st.composite
def axes_graphs(draw: DrawFn, count: int = 2) -> tuple[PermutationGraph, dict[str, np.ndarray[Any, Any]]]:
    """A graph of `count` random parameters and two plain ones, and their arrays, which hold 1, 2, 3 and so on."""
    sizes = draw(group_sizes())
    axes = {f"p{i}": draw(axes_specs(sizes, parents=_PARENTS)) for i in range(count)}
    shapes = {name: tuple(size(axis, sizes) for axis in spec.axes) for name, spec in axes.items()}
    # From these the sizes of all groups can be told, and one parameter does not move at all.
    axes |= {"sizes": AxesSpec("h c d[h]"), "free": AxesSpec(". .")}
    shapes |= {"sizes": (sizes["h"], sizes["c"], sizes["d"]), "free": (2, 2)}
    params = {name: np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape) for name, shape in shapes.items()}
    return PermutationGraph.from_axes(axes, params), params
