"""What an alignment minimizes, one objective per file. Rooms from `solvers` upward may import it."""

from rebasin_core.objectives.activations import Activations
from rebasin_core.objectives.base import BoundObjective, Objective
from rebasin_core.objectives.custom import Custom
from rebasin_core.objectives.line import Midpoint, RandomPoint
from rebasin_core.objectives.weights import L2, Cosine

__all__ = [
    "L2",
    "Activations",
    "BoundObjective",
    "Cosine",
    "Custom",
    "Midpoint",
    "Objective",
    "RandomPoint",
]
