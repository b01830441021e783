"""Local groups: each has one parent, a plain group, and stands only where it can be told which element it follows."""

from collections.abc import Mapping

from rebasin_core.errors import SpecError
from rebasin_core.symmetry.axes import AxesSpec, Axis, Fixed, Gather, Group, Product, Sum

__all__ = ["find_parents", "locality"]


def find_parents(specs: Mapping[str, AxesSpec]) -> dict[str, str]:
    """Parent of every local group, after checking that it is the same everywhere and always at hand."""
    parents: dict[str, str | None] = {}
    for name, spec in specs.items():
        for node in spec.group_nodes:
            known = parents.setdefault(node.name, node.parent)
            if known != node.parent:
                raise SpecError(
                    f"group {node.name!r} is {locality(node.parent)} in {name!r}, but {locality(known)} elsewhere. "
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


def locality(parent: str | None) -> str:
    """Say whether a group is local, and to what."""
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
