"""Names that ought to be there: refusing what is missing or too much, with the nearest name that exists."""

import difflib
from collections.abc import Collection, Mapping

from rebasin_core.errors import SpecError

__all__ = ["check_names", "is_mapping", "nearest"]


def check_names(
    given: Collection[str], wanted: Collection[str], *, what: str, other: str, all_of_other: bool = True
) -> None:
    """Raise `SpecError` unless every name given is wanted, and every wanted one given."""
    for name in given:
        if not isinstance(name, str):
            raise SpecError(f"expected names as text in {what}, got {name!r}")
    extra = [name for name in given if name not in wanted]
    missing = [name for name in wanted if name not in given] if all_of_other else []
    if extra:
        raise SpecError(
            f"{what} names {extra[0]!r}, which is not in {other}{nearest(extra[0], missing or list(wanted))}"
        )
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (" ..." if len(missing) > 5 else "")
        raise SpecError(
            f"{what} lacks {shown}, which {other} has. Every parameter needs an entry; write '.' for an axis that stays"
        )


def nearest(name: str, names: Collection[str]) -> str:
    """Ask whether the nearest of the names was meant, or say which there are."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; there is {', '.join(map(repr, list(names)[:8]))}"


def is_mapping(value: object) -> bool:
    """Whether something reads as a dictionary; what autograd differentiates in place of one is no `Mapping`."""
    return isinstance(value, Mapping) or (hasattr(value, "keys") and hasattr(value, "__getitem__"))
