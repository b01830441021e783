"""How an objective is minimized over plans, one solver per file. Rooms from `verification` upward may import it."""

from rebasin_core.solvers.activation_matching import ActivationMatching
from rebasin_core.solvers.base import HistoryEntry, Solution
from rebasin_core.solvers.frank_wolfe import FrankWolfe
from rebasin_core.solvers.resolve import Solver
from rebasin_core.solvers.sinkhorn import Sinkhorn
from rebasin_core.solvers.straight_through import StraightThrough
from rebasin_core.solvers.weight_matching import WeightMatching

__all__ = [
    "ActivationMatching",
    "FrankWolfe",
    "HistoryEntry",
    "Sinkhorn",
    "Solution",
    "Solver",
    "StraightThrough",
    "WeightMatching",
]
