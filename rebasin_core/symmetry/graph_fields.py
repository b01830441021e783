"""The fields of a permutation graph: what each may hold, and how they are written as JSON text and read back."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rebasin_core.errors import SpecError
from rebasin_core.symmetry.axes import AxesSpec
from rebasin_core.symmetry.explanation import Link
from rebasin_core.symmetry.frozen import FrozenDict
from rebasin_core.symmetry.json_text import read_json
from rebasin_core.symmetry.local_groups import find_parents
from rebasin_core.symmetry.names import check_names
from rebasin_core.symmetry.sizes import infer_sizes

__all__ = ["checked_fields", "names_in", "parse_axes", "read_fields", "write_fields"]

FORMAT = "rebasin-core/graph/1"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_size(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def _is_place(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _is_text(value[0]) and _is_size(value[1])


def _is_link(value: object) -> bool:
    return isinstance(value, Link) and _is_place(value.first) and _is_place(value.second) and _is_text(value.operation)


# Per field of a graph: what its keys and its values are, and how to say so.
FIELDS: Mapping[str, tuple[Callable[[object], bool], Callable[[Any], bool], str]] = {
    "axes": (_is_text, lambda value: isinstance(value, AxesSpec), 'such as {"w": AxesSpec("h .")}'),
    "shapes": (_is_text, lambda value: isinstance(value, tuple) and all(map(_is_size, value)), 'such as {"w": (8, 3)}'),
    "groups": (_is_text, _is_size, 'such as {"h": 8}'),
    "parents": (_is_text, _is_text, 'such as {"d": "h"}'),
    "pinned": (_is_place, _is_text, 'such as {("w", 1): "the inputs"}'),
    "links": (
        _is_text,
        lambda value: isinstance(value, tuple) and all(map(_is_link, value)),
        'such as {"h": (Link(("w", 0), ("b", 0), "linear"),)}',
    ),
}


def checked_fields(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a graph as values that cannot be changed.

    Raises
    ------
    SpecError
        A field holds something else than it may, or `axes` and `shapes` have different names.
    """
    fields: dict[str, Any] = {}
    for name, (is_key, is_value, wanted) in FIELDS.items():
        given = graph[name]
        if not isinstance(given, Mapping):
            raise SpecError(f"expected {name} of a graph as a dictionary {wanted}, got {type(given).__name__}")
        for key, value in given.items():
            if not (is_key(key) and is_value(value)):
                raise SpecError(f"expected {name} of a graph as a dictionary {wanted}, got {key!r}: {value!r}")
        fields[name] = given if isinstance(given, FrozenDict) else FrozenDict(given)
    check_names(fields["axes"], fields["shapes"], what="axes", other="shapes")
    return {**fields, "buffers": frozenset(names_in(graph["buffers"], "buffers"))}


def names_in(names: Iterable[str], what: str) -> tuple[str, ...]:
    """Return names that were given as several or as one; raise `SpecError` where they are none."""
    if isinstance(names, str):
        return (names,)
    if not isinstance(names, Iterable):
        raise SpecError(f"expected {what} as names such as ['fc1'], got {names!r}")
    names = tuple(names)
    if not all(isinstance(name, str) for name in names):
        raise SpecError(f"expected {what} as names such as ['fc1'], got {names!r}")
    return names


def parse_axes(name: str, spec: AxesSpec | str) -> AxesSpec:
    """Read the notation of one parameter, whose name is in the message if it does not parse."""
    if isinstance(spec, AxesSpec):
        return spec
    try:
        return AxesSpec(spec)
    except SpecError as error:
        raise SpecError(f"in the axes of {name!r}: {error}") from None


def write_fields(graph: Any) -> str:
    """Write the fields of a graph as JSON text."""
    stored: dict[str, Any] = {
        "format": FORMAT,
        "axes": {name: spec.text for name, spec in graph.axes.items()},
        "shapes": graph.shapes,
        "groups": graph.groups,
        "pinned": [[name, axis, reason] for (name, axis), reason in graph.pinned.items()],
        "buffers": sorted(graph.buffers),
    }
    if graph.links:
        stored["links"] = {g: [[*a, *b, why] for a, b, why in links] for g, links in graph.links.items()}
    return json.dumps(stored, indent=1)


def read_fields(text: str) -> dict[str, Any]:
    """Read the fields of a graph from JSON text.

    Raises
    ------
    SpecError
        The text is not that of a graph, or of one that does not make sense.
    """
    keys = {"axes": dict, "shapes": dict, "pinned": list, "buffers": list}
    stored = read_json(text, "PermutationGraph", FORMAT, keys, SpecError, {"groups": dict, "links": dict})
    axes = {name: parse_axes(name, spec) for name, spec in stored["axes"].items()}
    try:
        raw = {
            "axes": axes,
            "shapes": {name: tuple(shape) for name, shape in stored["shapes"].items()},
            "groups": stored["groups"],
            "pinned": {(name, axis): reason for name, axis, reason in stored["pinned"]},
            "buffers": stored["buffers"],
            "links": {
                group: tuple(Link((a, i), (b, j), operation) for a, i, b, j, operation in links)
                for group, links in stored["links"].items()
            },
        }
    except (TypeError, ValueError) as error:
        raise SpecError(f"this JSON text is not that of a whole graph: {error}; write it with to_json") from None
    fields = checked_fields({**raw, "parents": find_parents(axes)})
    places = {
        *fields["pinned"],
        *(place for links in fields["links"].values() for a, b, _ in links for place in (a, b)),
    }
    check_names(
        [*fields["buffers"], *(name for name, _ in places)],
        axes,
        what="this JSON text",
        other="its axes",
        all_of_other=False,
    )
    for name, axis in places:
        if axis >= len(axes[name]):
            raise SpecError(f"this JSON text speaks of axis {axis} of {name!r}, which has {len(axes[name])}")
    return {**fields, "groups": infer_sizes(axes, fields["shapes"], fields["groups"])}
