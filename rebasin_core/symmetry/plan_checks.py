"""What hard and soft plans are checked for: parents of local groups, the graph they are of, the seed of a draw."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rebasin_core.errors import PlanError, SettingError, ShapeError, SpecError
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.local_groups import locality
from rebasin_core.symmetry.names import is_mapping

__all__ = ["check_fits", "check_graph", "check_rows", "difference", "generator", "parents_among", "shape_in"]


def parents_among(groups: Mapping[str, Any], parents: Mapping[str, str] | None, owner: str) -> dict[str, str]:
    """Return the parents of those local groups that a plan has.

    Raises
    ------
    PlanError
        Something is no dictionary with names as keys, a parent is not in the plan, or is local itself.
    """
    for given, what in ((groups, "groups"), (parents, "parents")):
        if given is not None and not is_mapping(given):
            raise PlanError(
                f"expected the {what} of a {owner} as a dictionary with names as keys, got {type(given).__name__}"
            )
    found = {child: parent for child, parent in (parents or {}).items() if child in groups}
    for name in (*groups, *found.values()):
        if not isinstance(name, str):
            raise PlanError(f"expected names of groups as text, got {name!r}")
    for child, parent in found.items():
        if parent not in groups:
            raise PlanError(f"group {child!r} is local to {parent!r}, for which this plan has no permutation")
        if parent in found:
            raise PlanError(f"group {child!r} is local to {parent!r}, which is local itself. A parent must be plain")
    return found


def check_rows(
    shapes: Mapping[str, tuple[int, ...]], parents: Mapping[str, str], error: type[PlanError | ShapeError]
) -> None:
    """Raise unless every local group has one row, or one matrix, per place of its parent."""
    for child, parent in parents.items():
        if shapes[child][0] != shapes[parent][0]:
            raise error(
                f"group {child!r} has {shapes[child][0]} rows, but its parent {parent!r} has {shapes[parent][0]} "
                f"places. Give one row per place"
            )


def check_graph(graph: Any) -> None:
    """Raise `SpecError` unless this is a permutation graph."""
    if not isinstance(graph, PermutationGraph):
        raise SpecError(f"expected a PermutationGraph, got {type(graph).__name__}; make one with permutation_graph")


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """Return the random numbers of a seed; a generator is used on."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError):
        raise SettingError(f"expected seed as a whole number of at least 0 or a generator, got {seed!r}") from None


def check_fits(plan: Any, graph: PermutationGraph) -> None:
    """Raise `PlanError` unless `plan` (hard or soft) has the groups, their parents and their sizes of `graph`."""
    check_graph(graph)
    if plan.keys() != graph.groups.keys():
        raise PlanError(
            f"this plan belongs to another graph: {difference(plan, graph.groups)}. Make one for this graph with "
            f"Plan.identity(graph) or Plan.random(graph)"
        )
    for group in graph.groups:
        here, there = plan.parents.get(group), graph.parents.get(group)
        if here != there:
            raise PlanError(
                f"this plan belongs to another graph: its group {group!r} is {locality(here)}, the graph's is "
                f"{locality(there)}"
            )
        wanted = shape_in(graph, group)
        if tuple(plan[group].shape)[: len(wanted)] != wanted:
            raise PlanError(
                f"this plan belongs to another graph: its group {group!r} has shape {tuple(plan[group].shape)}, the "
                f"graph's needs {wanted}"
            )


def shape_in(graph: PermutationGraph, group: str) -> tuple[int, ...]:
    """Shape of the index vectors of a group: one, or one per place of its parent."""
    n = graph.groups[group]
    return (graph.groups[graph.parents[group]], n) if group in graph.parents else (n,)


def difference(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say which groups a plan lacks and which are too many."""
    extra = [g for g in given if g not in wanted]
    missing = [g for g in wanted if g not in given]
    parts = [f"it lacks {', '.join(map(repr, missing[:5]))}"] if missing else []
    parts += [f"it has {', '.join(map(repr, extra[:5]))}, which is not there"] if extra else []
    return " and ".join(parts)
