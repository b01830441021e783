"""What a user may pass as a solver, by name or as an object."""

from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from rebasin_core.errors import SettingError
from rebasin_core.solvers.activation_matching import ActivationMatching
from rebasin_core.solvers.base import Solution
from rebasin_core.solvers.frank_wolfe import FrankWolfe
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.sinkhorn import Sinkhorn
from rebasin_core.solvers.straight_through import StraightThrough
from rebasin_core.solvers.weight_matching import WeightMatching
from rebasin_core.support.settings import no_class, one_of

__all__ = ["SOLVERS", "Solver", "SolverName", "as_solver"]


@runtime_checkable
class Solver(Protocol):
    """Anything that can minimize an objective over the plans of a graph."""

    @property
    def name(self) -> str:
        """For tables and messages."""
        ...

    def solve(self, problem: Problem, progress: bool = True) -> Solution:
        """Return the best hard plan found."""
        ...


class SolverName(StrEnum):
    """The name of a solver, in Python and on the command line."""

    WEIGHT_MATCHING = "weight-matching"
    SINKHORN = "sinkhorn"
    FRANK_WOLFE = "frank-wolfe"
    STRAIGHT_THROUGH = "straight-through"
    ACTIVATION_MATCHING = "activation-matching"


SOLVERS: dict[str, type[Solver]] = {
    SolverName.WEIGHT_MATCHING: WeightMatching,
    SolverName.SINKHORN: Sinkhorn,
    SolverName.FRANK_WOLFE: FrankWolfe,
    SolverName.STRAIGHT_THROUGH: StraightThrough,
    SolverName.ACTIVATION_MATCHING: ActivationMatching,
}


def as_solver(solver: Any) -> Solver:
    """Accept a solver, its name, or None for the default.

    Raises
    ------
    SettingError
        Something else came.

    Examples
    --------
    >>> as_solver("frank-wolfe") == FrankWolfe()
    True
    """
    if solver is None:
        return Sinkhorn()
    if isinstance(solver, str):
        return SOLVERS[one_of(SOLVERS, solver=solver)]()
    no_class(solver=solver)
    if isinstance(solver, Solver):
        return solver
    raise SettingError(f'expected a solver, e.g. solvers.Sinkhorn() or "weight-matching", got {solver!r}')
