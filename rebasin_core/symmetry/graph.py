"""The permutation graph: which axes of which parameters must be permuted together.

It is all the library knows of a network's architecture. A person writes it (`PermutationGraph.from_axes`), or an
adapter finds it in a model; everything else only reads it.
"""

import difflib
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rebasin_core.errors import ShapeError, SpecError
from rebasin_core.symmetry.axes import AxesSpec, Axis, Fixed, Gather, Group, Product, Sum
from rebasin_core.symmetry.sizes import infer_sizes, tuple_shape

__all__ = ["PermutationGraph"]

FORMAT = "rebasin-core/graph/1"


@dataclass(frozen=True)
class PermutationGraph:
    """Groups of axes that may be permuted together without changing the function.

    Build one with `from_axes` or `rebasin_core.permutation_graph`; the constructor takes what is already consistent.

    Attributes
    ----------
    axes : dict of str to AxesSpec
        The axes of every parameter.
    shapes : dict of str to tuple of int
        Its shape.
    groups : dict of str to int
        Every permutation group and its size, in order of appearance.
    parents : dict of str to str
        For every group that is local to another, that other group.
    pinned : dict of (str, int) to str
        Every (parameter, axis) that stays as it is, and the reason.
    buffers : frozenset of str
        Parameters that move with their channels but that objectives which compare weights leave out: what is not
        learned (running statistics), and further names of a tied parameter, which would count twice.

    Examples
    --------
    >>> import numpy as np, rebasin_core as rb
    >>> params = {"w1": np.ones((8, 3)), "b1": np.ones(8), "w2": np.ones((2, 8))}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "b1": "h", "w2": ". h"}, params)
    >>> graph.groups
    {'h': 8}
    >>> graph.pinned[("w2", 0)]
    'kept by the notation'
    >>> graph.coverage
    1.0
    >>> print(graph)
    1 group over 3 parameters; 100.0 % of 48 entries can move
    group  size  reorders
    h         8  w1[0] b1[0] w2[1]
    pinned: 2 axes
        kept by the notation: w1[1] w2[0]
    """

    axes: Mapping[str, AxesSpec]
    shapes: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, int]
    parents: Mapping[str, str] = field(default_factory=dict)
    pinned: Mapping[tuple[str, int], str] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()

    # How a list of layers is read is the inference's to know, which builds on graphs; the face puts it here.
    _read_layers: ClassVar[Callable[[Sequence[Any], Mapping[str, Any], Iterable[str]], "PermutationGraph"]]

    @classmethod
    def from_axes(
        cls,
        axes: Mapping[str, AxesSpec | str],
        params: Mapping[str, Any],
        *,
        pin: Iterable[str] = (),
        buffers: Collection[str] = (),
        reasons: Mapping[tuple[str, int], str] | None = None,
    ) -> "PermutationGraph":
        """Build the graph a person writes down.

        Parameters
        ----------
        axes : mapping of str to str or AxesSpec
            The notation of `rebasin_core.symmetry.axes`, for every parameter of the network.
        params : mapping of str to array
            The parameters, of any framework; only their shapes are read.
        pin : iterable of str, optional
            Groups to keep as they are, or parameters all of whose groups are kept. A group that is local to a pinned
            one is pinned with it.
        buffers : collection of str, optional
            Parameters that are not learned (running statistics).
        reasons : mapping of (str, int) to str, optional
            Why an axis without a group stays, for `pinned`.

        Raises
        ------
        SpecError
            A parameter is missing or extra, a notation does not parse or fit its shape, a group has two sizes, a local
            group stands without its parent, or `pin` names nothing.
        """
        if not isinstance(params, Mapping):
            raise SpecError(f"expected params as a mapping from names to arrays, got {type(params).__name__}")
        _same_names(axes, params, what="axes", other="params")
        specs = {name: _parse(name, axes[name]) for name in params}
        shapes = {name: tuple_shape(array) for name, array in params.items()}
        parents = _parents(specs)
        sizes = infer_sizes(specs, shapes)
        _same_names(dict.fromkeys(buffers), params, what="buffers", other="params", all_of_other=False)
        graph = cls(specs, shapes, sizes, parents, _kept(specs, reasons or {}), frozenset(buffers))
        return graph.pin(pin) if pin else graph

    @classmethod
    def from_layers(
        cls, layers: Sequence[Any], params: Mapping[str, Any], *, pin: Iterable[str] = ()
    ) -> "PermutationGraph":
        """Find the graph of a network written as a list of `rebasin_core.layers`.

        Parameters
        ----------
        layers : sequence of Layer
            What the network computes, in order; the result of the last one is its output.
        params : mapping of str to array
            Its parameters, of any framework; only their shapes are read.
        pin : iterable of str, optional
            Groups, or parameters all of whose groups, stay as they are.

        Raises
        ------
        SpecError
            A layer names a parameter that is not there, sizes do not fit, or a parameter belongs to no layer.

        Examples
        --------
        >>> import numpy as np
        >>> from rebasin_core.inference.layers import Activation, Dense
        >>> params = {"fc1.weight": np.ones((8, 3)), "fc1.bias": np.ones(8), "fc2.weight": np.ones((2, 8))}
        >>> PermutationGraph.from_layers([Dense("fc1"), Activation(), Dense("fc2")], params).groups
        {'fc1': 8}
        """
        return cls._read_layers(layers, params, pin)

    def pin(self, names: Iterable[str], reason: str = "pinned by the user") -> "PermutationGraph":
        """Return a graph in which these groups stay as they are.

        `names` are groups, or parameters all of whose groups are meant. Pin what is better left alone: permuting the
        residual stream of a transformer can hurt a merge, for instance.
        """
        if isinstance(names, str):
            names = (names,)
        chosen: set[str] = set()
        for name in names:
            if name in self.groups:
                chosen.add(name)
            elif name in self.axes:
                chosen.update(self.axes[name].groups)
            else:
                raise SpecError(f"cannot pin {name!r}: no group or parameter has that name{_near(name, self._names())}")
        chosen |= {child for child, parent in self.parents.items() if parent in chosen}
        axes = {
            name: AxesSpec.of(*(_freeze(axis, chosen, self.groups) for axis in spec.axes))
            for name, spec in self.axes.items()
        }
        pinned = dict(self.pinned)
        for name, spec in axes.items():
            for i, axis in enumerate(spec.axes):
                if not AxesSpec.of(axis).groups and (name, i) not in pinned:
                    pinned[name, i] = reason
        groups = {name: n for name, n in self.groups.items() if name not in chosen}
        parents = {child: parent for child, parent in self.parents.items() if child not in chosen}
        return PermutationGraph(axes, self.shapes, groups, parents, pinned, self.buffers)

    def _names(self) -> list[str]:
        return [*self.groups, *self.axes]

    @property
    def learned(self) -> list[str]:
        """Names of the parameters that count when weights are compared: all but the `buffers`."""
        return [name for name in self.axes if name not in self.buffers]

    @property
    def coverage(self) -> float:
        """Share of all parameters, by count, with at least one axis that can be permuted (dimensionless, 0 to 1)."""
        total = sum(math.prod(shape) for shape in self.shapes.values())
        moved = sum(math.prod(self.shapes[name]) for name, spec in self.axes.items() if spec.groups)
        return moved / total if total else 0.0

    def occurrences(self, group: str) -> list[tuple[str, int]]:
        """Every (parameter, axis) in which a group stands."""
        return [
            (name, i)
            for name, spec in self.axes.items()
            for i, axis in enumerate(spec.axes)
            if group in AxesSpec.of(axis).groups
        ]

    def check_params(self, params: Mapping[str, Any], what: str = "params") -> None:
        """Raise `SpecError` or `ShapeError` unless `params` has the names and shapes the graph was made for."""
        _same_names(params, self.axes, what=what, other="the graph")
        for name, shape in self.shapes.items():
            if tuple_shape(params[name]) != shape:
                raise ShapeError(
                    f"parameter {name!r} of {what} has shape {tuple_shape(params[name])}, but the graph was made for "
                    f"{shape}. Both networks must have the architecture of the graph"
                )

    def to_json(self) -> str:
        """Write the graph as JSON text; `from_json` reads it back."""
        return json.dumps(
            {
                "format": FORMAT,
                "axes": {name: spec.text for name, spec in self.axes.items()},
                "shapes": {name: list(shape) for name, shape in self.shapes.items()},
                "groups": dict(self.groups),
                "pinned": [[name, axis, reason] for (name, axis), reason in self.pinned.items()],
                "buffers": sorted(self.buffers),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> "PermutationGraph":
        """Read a graph written by `to_json`."""
        try:
            stored = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(f"this is not JSON: {error}") from None
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise SpecError(f'expected JSON text written by PermutationGraph.to_json, with "format": "{FORMAT}"')
        lacking = [key for key in ("axes", "shapes", "pinned", "buffers") if key not in stored]
        if lacking:
            raise SpecError(f"this JSON text is not a whole graph, it lacks {lacking[0]!r}; write it with to_json")
        axes = {name: _parse(name, spec) for name, spec in stored["axes"].items()}
        shapes = {name: tuple(shape) for name, shape in stored["shapes"].items()}
        _same_names(axes, shapes, what="axes", other="shapes")
        pinned = {(name, axis): reason for name, axis, reason in stored["pinned"]}
        sizes = infer_sizes(axes, shapes, stored.get("groups"))
        return cls(axes, shapes, sizes, _parents(axes), pinned, frozenset(stored["buffers"]))

    def __str__(self) -> str:
        total = sum(math.prod(shape) for shape in self.shapes.values())
        lines = [
            f"{_count(len(self.groups), 'group')} over {_count(len(self.axes), 'parameter')}; "
            f"{100 * self.coverage:.1f} % of {_count(total, 'entry', 'entries')} can move"
        ]
        if self.groups:
            names = {g: f"{g}[{self.parents[g]}]" if g in self.parents else g for g in self.groups}
            width = max(len("group"), *map(len, names.values()))
            digits = max(len("size"), *(len(str(n)) for n in self.groups.values()))
            lines.append(f"{'group':{width}}  {'size':>{digits}}  reorders")
            lines += [
                f"{names[g]:{width}}  {n:>{digits}}  {_listing(self.occurrences(g))}" for g, n in self.groups.items()
            ]
        if self.pinned:
            lines.append(f"pinned: {_count(len(self.pinned), 'axis', 'axes')}")
            by_reason: dict[str, list[tuple[str, int]]] = {}
            for place, reason in self.pinned.items():
                by_reason.setdefault(reason, []).append(place)
            lines += [f"    {reason}: {_listing(places)}" for reason, places in by_reason.items()]
        return "\n".join(lines)


def _count(n: int, singular: str, plural: str | None = None) -> str:
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def _listing(places: list[tuple[str, int]], width: int = 72) -> str:
    """As many places as fit into a line, one at least."""
    shown = [f"{name}[{i}]" for name, i in places]
    count = len(shown)
    while count > 1 and len(" ".join(shown[:count])) > width:
        count -= 1
    return " ".join(shown[:count]) + (f" and {len(places) - count} more" if len(places) > count else "")


def _parse(name: str, spec: AxesSpec | str) -> AxesSpec:
    if isinstance(spec, AxesSpec):
        return spec
    try:
        return AxesSpec(spec)
    except SpecError as error:
        raise SpecError(f"in the axes of {name!r}: {error}") from None


def _kept(specs: Mapping[str, AxesSpec], reasons: Mapping[tuple[str, int], str]) -> dict[tuple[str, int], str]:
    """Every axis without a group, with its reason."""
    return {
        (name, i): reasons.get((name, i), "kept by the notation")
        for name, spec in specs.items()
        for i, axis in enumerate(spec.axes)
        if not AxesSpec.of(axis).groups
    }


def _freeze(axis: Axis, chosen: Collection[str], sizes: Mapping[str, int]) -> Axis:
    """Put a fixed block of the same size in place of every chosen group."""
    match axis:
        case Group(name) if name in chosen:
            return Fixed(sizes[name])
        case Product(factors):
            return Product(tuple(_freeze(f, chosen, sizes) for f in factors))
        case Sum(terms):
            return Sum(tuple(_freeze(t, chosen, sizes) for t in terms))
        case Gather(inner, order):
            return Gather(_freeze(inner, chosen, sizes), order)
    return axis


def _parents(specs: Mapping[str, AxesSpec]) -> dict[str, str]:
    """Parent of every local group, after checking that it is the same everywhere and always at hand."""
    parents: dict[str, str | None] = {}
    for name, spec in specs.items():
        for node in spec.group_nodes:
            known = parents.setdefault(node.name, node.parent)
            if known != node.parent:
                raise SpecError(
                    f"group {node.name!r} is {_locality(node.parent)} in {name!r}, but {_locality(known)} elsewhere. "
                    f"Write it the same way everywhere"
                )
    local = {child: parent for child, parent in parents.items() if parent is not None}
    for child, parent in local.items():
        if parents.get(parent, parent) is not None:
            what = f"itself local to {parents[parent]!r}" if parent in parents else "not a group of this graph"
            raise SpecError(f"group {child!r} is local to {parent!r}, which is {what}. A parent must be a plain group")
    for name, spec in specs.items():
        _check_scope(name, Product(spec.axes) if len(spec) > 1 else spec.axes[0] if spec.axes else Fixed(), [])
    return local


def _locality(parent: str | None) -> str:
    return "a plain group" if parent is None else f"local to {parent!r}"


def _check_scope(name: str, axis: Axis, scope: list[list[str]]) -> None:
    """A local group needs exactly one nearest occurrence of its parent beside it or around it.

    `scope` holds, per product around the axis and outermost first, the plain groups that are factors of it.
    """
    match axis:
        case Group(child, parent) if parent is not None:
            nearest = next((level for level in reversed(scope) if parent in level), None)
            if nearest is None:
                raise SpecError(
                    f"in {name!r}, {child}[{parent}] stands where no {parent!r} is beside it. A group local to "
                    f"{parent!r} needs it in the same product, as in ({parent} {child}[{parent}])"
                )
            if nearest.count(parent) > 1:
                raise SpecError(
                    f"in {name!r}, {axis} stands beside {nearest.count(parent)} axes of {parent!r}: which of them it "
                    f"follows cannot be told. Put the two that belong together into brackets"
                )
        case Product(factors):
            beside = [f.name for f in factors if isinstance(f, Group) and f.parent is None]
            for factor in factors:
                _check_scope(name, factor, [*scope, beside])
        case Sum(terms):
            for term in terms:
                _check_scope(name, term, scope)
        case Gather(inner, _):
            _check_scope(name, inner, scope)


def _same_names(
    given: Collection[str], wanted: Collection[str], *, what: str, other: str, all_of_other: bool = True
) -> None:
    extra = [name for name in given if name not in wanted]
    missing = [name for name in wanted if name not in given] if all_of_other else []
    if extra:
        raise SpecError(f"{what} names {extra[0]!r}, which is not in {other}{_near(extra[0], missing or list(wanted))}")
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
        raise SpecError(
            f"{what} lacks {shown}, which {other} has. Every parameter needs an entry; write '.' for an axis that stays"
        )


def _near(name: str, names: Collection[str]) -> str:
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; there is {', '.join(map(repr, list(names)[:8]))}"
