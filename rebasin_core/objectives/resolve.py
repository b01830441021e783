"""What a user may pass as an objective, by name or as an object."""

from dataclasses import MISSING, fields
from enum import StrEnum
from typing import Any

from rebasin_core.errors import SettingError
from rebasin_core.objectives.activations import Activations
from rebasin_core.objectives.base import Objective
from rebasin_core.objectives.custom import Custom
from rebasin_core.objectives.line import Midpoint, RandomPoint
from rebasin_core.objectives.weights import L2, Cosine
from rebasin_core.support.settings import one_of

__all__ = ["OBJECTIVES", "ObjectiveName", "as_objective", "needed_settings"]


class ObjectiveName(StrEnum):
    """The name of an objective, in Python and on the command line."""

    L2 = "l2"
    COSINE = "cosine"
    ACTIVATIONS = "activations"
    MIDPOINT = "midpoint"
    RANDOM_POINT = "random-point"


OBJECTIVES: dict[str, Any] = {
    ObjectiveName.L2: L2,
    ObjectiveName.COSINE: Cosine,
    ObjectiveName.ACTIVATIONS: Activations,
    ObjectiveName.MIDPOINT: Midpoint,
    ObjectiveName.RANDOM_POINT: RandomPoint,
}


def needed_settings(name: str) -> tuple[str, ...]:
    """Names of what an objective cannot be made without.

    Examples
    --------
    >>> needed_settings("l2"), needed_settings("midpoint")
    ((), ('loss', 'data'))
    """
    return tuple(field.name for field in fields(OBJECTIVES[name]) if field.default is MISSING)


def as_objective(objective: Any) -> Objective:
    """Accept an objective, its name, a plain callable, or None for the squared weight distance.

    Raises
    ------
    SettingError
        Something else came, or the name of an objective that needs data.

    Examples
    --------
    >>> as_objective("cosine") == Cosine()
    True
    """
    if objective is None:
        return L2()
    if isinstance(objective, str):
        return _from_name(objective)
    if isinstance(objective, type):
        raise SettingError(f"the objective came as a class; write {objective.__name__}(...) with brackets")
    if isinstance(objective, Objective):
        return objective
    if callable(objective):
        return Custom(objective)
    raise SettingError(
        f"expected an objective, e.g. objectives.L2() or a function of (params_a, params_b), got {objective!r}"
    )


def _from_name(name: str) -> Objective:
    kind, needed = OBJECTIVES[one_of(OBJECTIVES, objective=name)], needed_settings(name)
    if needed:
        raise SettingError(
            f"the objective {name!r} needs {' and '.join(needed)}, which a name does not hold; pass "
            f"objective=objectives.{kind.__name__}({', '.join(needed)})"
        )
    found: Objective = kind()
    return found
