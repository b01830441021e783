"""What a user may pass as an objective."""

from typing import Any

from rebasin_core.errors import SettingError
from rebasin_core.objectives.base import Objective
from rebasin_core.objectives.custom import Custom
from rebasin_core.objectives.weights import L2

__all__ = ["as_objective"]


def as_objective(objective: Any) -> Objective:
    """Accept an objective, a plain callable, or None for the squared weight distance.

    Raises
    ------
    SettingError
        Something else came.
    """
    if objective is None:
        return L2()
    if isinstance(objective, type):
        raise SettingError(f"the objective came as a class; write {objective.__name__}(...) with brackets")
    if isinstance(objective, Objective):
        return objective
    if callable(objective):
        return Custom(objective)
    raise SettingError(
        f"expected an objective, e.g. objectives.L2() or a function of (params_a, params_b), got {objective!r}"
    )
