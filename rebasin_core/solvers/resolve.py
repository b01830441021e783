"""What a user may pass as a solver."""

from typing import Any

from rebasin_core.errors import SettingError
from rebasin_core.solvers.base import Solver
from rebasin_core.solvers.sinkhorn import Sinkhorn

__all__ = ["as_solver"]


def as_solver(solver: Any) -> Solver:
    """Accept a solver, or None for the default."""
    if solver is None:
        return Sinkhorn()
    if isinstance(solver, type):
        raise SettingError(f"the solver came as a class; write {solver.__name__}() with brackets")
    if isinstance(solver, Solver):
        return solver
    raise SettingError(f"expected a solver, e.g. solvers.Sinkhorn() or solvers.WeightMatching(), got {solver!r}")
