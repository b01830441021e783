"""The permutation graph: which axes of which parameters must be permuted together.

It is all the library knows of a network's architecture. A person writes it (`PermutationGraph.from_axes`), or an
adapter finds it in a model; everything else only reads it.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from rebasin_core.errors import ShapeError, SpecError
from rebasin_core.symmetry.axes import AxesSpec, Axis, Fixed, Gather, Group, Product, Sum
from rebasin_core.symmetry.display import counted, html_table, shortened
from rebasin_core.symmetry.explanation import Explanation, Link, Place, chain, rename_links, spanning_links
from rebasin_core.symmetry.graph_fields import checked_fields, names_in, parse_axes, read_fields, write_fields
from rebasin_core.symmetry.local_groups import find_parents
from rebasin_core.symmetry.names import check_names, is_mapping, nearest
from rebasin_core.symmetry.sizes import infer_sizes, tuple_shape

__all__ = ["PermutationGraph"]


@dataclass(frozen=True)
class PermutationGraph:
    """Groups of axes that may be permuted together without changing the function; an immutable value.

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
    links : dict of str to tuple of Link
        Per group found by tracing, the operations that tie its axes; `explain` shows them. Graphs that differ in
        nothing else are equal.

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
    links: Mapping[str, tuple[Link, ...]] = field(default_factory=dict, compare=False)

    # How a list of layers is read is the inference's to know, which builds on graphs; the face puts it here.
    _read_layers: ClassVar[Callable[[Sequence[Any], Mapping[str, Any], Iterable[str]], "PermutationGraph"]]

    def __post_init__(self) -> None:
        for name, value in checked_fields(vars(self)).items():
            object.__setattr__(self, name, value)

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
        for given, what in ((params, "params"), (axes, "axes"), (reasons or {}, "reasons")):
            if not isinstance(given, Mapping):
                raise SpecError(f"expected {what} as a mapping with names as keys, got {type(given).__name__}")
        check_names(axes, params, what="axes", other="params")
        specs = {name: parse_axes(name, axes[name]) for name in params}
        shapes = {name: tuple_shape(array) for name, array in params.items()}
        parents = find_parents(specs)
        sizes = infer_sizes(specs, shapes)
        buffers = names_in(buffers, "buffers")
        check_names(buffers, params, what="buffers", other="params", all_of_other=False)
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
        chosen: set[str] = set()
        for name in names_in(names, "pin"):
            if name in self.groups:
                chosen.add(name)
            elif name in self.axes:
                chosen.update(self.axes[name].groups)
            else:
                near = nearest(name, [*self.groups, *self.axes])
                raise SpecError(f"cannot pin {name!r}: no group or parameter has that name{near}")
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
        return replace(self, axes=axes, groups=groups, parents=parents, pinned=pinned)

    def rename(self, owners: Mapping[str, str]) -> "PermutationGraph":
        """Return the same graph with its parameters, and with them its groups, under other names and in another order.

        Parameters
        ----------
        owners : mapping of str to str
            Per new name, the parameter that has it from now on; a tied parameter may have several. Parameters that
            are not named are left out.

        Examples
        --------
        >>> import numpy as np
        >>> graph = PermutationGraph.from_axes({"w": "h"}, {"w": np.ones(3)})
        >>> graph.rename({"layer.weight": "w"}).axes
        {'layer.weight': AxesSpec("h")}
        """
        check_names(list(owners.values()), self.axes, what="owners", other="the graph", all_of_other=False)
        axes = {name: self.axes[owner] for name, owner in owners.items()}
        groups = dict.fromkeys(group for spec in axes.values() for group in spec.groups)
        return PermutationGraph(
            axes=axes,
            shapes={name: self.shapes[owner] for name, owner in owners.items()},
            groups={group: self.groups[group] for group in groups},
            parents={group: self.parents[group] for group in groups if group in self.parents},
            pinned={
                (name, i): self.pinned[owner, i]
                for name, owner in owners.items()
                for i in range(len(axes[name]))
                if (owner, i) in self.pinned
            },
            buffers=frozenset(name for name, owner in owners.items() if owner in self.buffers),
            links={group: rename_links(self.links[group], owners) for group in groups if group in self.links},
        )

    def explain(self, group: str, start: Place | None = None, end: Place | None = None) -> Explanation:
        """Say for which operations the axes of a group move together.

        Parameters
        ----------
        group : str
            The group.
        start, end : (str, int), optional
            Two of its axes, each a parameter and the number of an axis: only what leads from one to the other.

        Returns
        -------
        Explanation
            Every axis with an operation that ties it to one told before; `print` it.

        Raises
        ------
        SpecError
            There is no such group, or it does not stand on such an axis.

        Examples
        --------
        >>> import numpy as np, rebasin_core as rb
        >>> params = {"fc1.weight": np.ones((8, 3)), "fc1.bias": np.ones(8), "fc2.weight": np.ones((2, 8))}
        >>> layers = [rb.layers.Dense("fc1"), rb.layers.Activation(), rb.layers.Dense("fc2")]
        >>> print(rb.PermutationGraph.from_layers(layers, params).explain("fc1"))
        fc1: fc1.weight[0]
            fc1.bias[0]    with fc1.weight[0]  Dense fc1
            fc2.weight[1]  with fc1.weight[0]  Dense fc2
        """
        if group not in self.groups:
            raise SpecError(f"cannot explain {group!r}: no group has that name{nearest(str(group), self.groups)}")
        places = self.occurrences(group)
        if not places:
            raise SpecError(f"cannot explain group {group!r}: it appears on no axis")
        links = spanning_links(group, places, self.links.get(group, ()))
        if start is None and end is None:
            return Explanation(group, links[0].first if links else places[0], links)
        for place in (start, end):
            if place not in places:
                shown = shortened([f"({name!r}, {i})" for name, i in places], ", ")
                raise SpecError(f"group {group!r} does not stand on the axis {place!r}; expected two of {shown}")
        assert start is not None
        assert end is not None
        return Explanation(group, start, chain(links, start, end))

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
        """Every (parameter, axis) in which a group appears."""
        return [
            (name, i)
            for name, spec in self.axes.items()
            for i, axis in enumerate(spec.axes)
            if group in AxesSpec.of(axis).groups
        ]

    def check_params(self, params: Mapping[str, Any], what: str = "params") -> None:
        """Raise `SpecError` or `ShapeError` unless `params` has the names and shapes the graph was made for."""
        if not is_mapping(params):
            raise SpecError(f"expected {what} as a mapping from names to arrays, got {type(params).__name__}")
        check_names(params, self.axes, what=what, other="the graph")
        for name, shape in self.shapes.items():
            if tuple_shape(params[name]) != shape:
                raise ShapeError(
                    f"parameter {name!r} of {what} has shape {tuple_shape(params[name])}, but the graph was made for "
                    f"{shape}. Both networks must have the architecture of the graph"
                )

    def to_json(self) -> str:
        """Write the graph as JSON text; `from_json` reads it back."""
        return write_fields(self)

    @classmethod
    def from_json(cls, text: str) -> "PermutationGraph":
        """Read a graph written by `to_json`.

        Raises
        ------
        SpecError
            The text is not that of a graph, or of one that does not make sense.
        """
        return cls(**read_fields(text))

    def __repr__(self) -> str:
        return f"<PermutationGraph of {self._summary()}>"

    def _repr_html_(self) -> str:
        rows: list[tuple[object, ...]] = [
            (name, f"{self.groups[g]:,}", shortened(_shown(self.occurrences(g)))) for g, name in self._titles().items()
        ]
        return html_table(f"Permutation graph of {self._summary()}", ("group", "size", "reorders"), rows)

    def _summary(self) -> str:
        total = sum(math.prod(shape) for shape in self.shapes.values())
        return (
            f"{counted(len(self.groups), 'group')} over {counted(len(self.axes), 'parameter')}; "
            f"{100 * self.coverage:.1f} % of {counted(total, 'entry', 'entries')} can move"
        )

    def _titles(self) -> dict[str, str]:
        return {g: f"{g}[{self.parents[g]}]" if g in self.parents else g for g in self.groups}

    def __str__(self) -> str:
        lines = [self._summary()]
        if self.groups:
            names = self._titles()
            width = max(len("group"), *map(len, names.values()))
            digits = max(len("size"), *(len(str(n)) for n in self.groups.values()))
            lines.append(f"{'group':{width}}  {'size':>{digits}}  reorders")
            lines += [
                f"{names[g]:{width}}  {n:>{digits}}  {shortened(_shown(self.occurrences(g)))}"
                for g, n in self.groups.items()
            ]
        if self.pinned:
            lines.append(f"pinned: {counted(len(self.pinned), 'axis', 'axes')}")
            by_reason: dict[str, list[tuple[str, int]]] = {}
            for place, reason in self.pinned.items():
                by_reason.setdefault(reason, []).append(place)
            lines += [f"    {reason}: {shortened(_shown(places))}" for reason, places in by_reason.items()]
        return "\n".join(lines)


def _shown(places: Iterable[Place]) -> list[str]:
    return [f"{name}[{i}]" for name, i in places]


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
