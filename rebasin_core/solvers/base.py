"""What a solver returns."""

from dataclasses import dataclass
from typing import NamedTuple

from rebasin_core.symmetry.plan import Plan

__all__ = ["HistoryEntry", "Solution"]


class HistoryEntry(NamedTuple):
    """One step of a solver."""

    step: int
    """Number of the step (a sweep, a gradient step)."""
    value: float
    """The objective as the step saw it: of the soft plan on this step's sample, or of the hard plan."""
    hard: float
    """The objective of the step's hard plan on the fixed evaluation set."""
    best: float
    """The lowest `hard` so far: never rises."""


@dataclass(frozen=True)
class Solution:
    """The best hard plan a solver saw.

    Attributes
    ----------
    plan : Plan
        The plan.
    value : float
        Its objective on the fixed evaluation set.
    history : tuple of HistoryEntry
        Every step.
    converged : bool
        Whether the solver stopped because nothing improved any more, not because it ran out of steps.
    stop_reason : str
        Why it stopped, in words.
    """

    plan: Plan
    value: float
    history: tuple[HistoryEntry, ...]
    converged: bool
    stop_reason: str
