"""Every error the library raises on purpose.

One family, so that ``except rebasin_core.RebasinError`` catches all of them, and each child also derives from the
built-in that a caller who never heard of this library would expect. A message says three things: what came, what was
expected, and what to type instead.
"""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "CheckpointError",
    "ConvergenceWarning",
    "DataError",
    "EquivalenceError",
    "LawError",
    "NonFiniteError",
    "PlanError",
    "RebasinError",
    "SettingError",
    "ShapeError",
    "SpecError",
    "UnsupportedArrayError",
    "UnsupportedModelError",
]


class RebasinError(Exception):
    """Base of every error raised by this library."""


class SpecError(RebasinError, ValueError):
    """An axis notation or a permutation graph does not make sense, or does not fit the parameters it is meant for."""


class ShapeError(RebasinError, ValueError):
    """An array has another shape than the one it must have."""


class NonFiniteError(RebasinError, ValueError):
    """Weights, logits, a loss or a gradient hold NaN or infinity."""


class SettingError(RebasinError, ValueError):
    """A setting lies outside of its range, or two settings exclude each other."""


class DataError(RebasinError, ValueError):
    """The data are empty, exhausted, or of a form that cannot be read as batches."""


class CheckpointError(RebasinError, ValueError):
    """A checkpoint file is absent, damaged, of another format, would run code, or may not be overwritten."""


class PlanError(RebasinError, ValueError):
    """A plan is not a permutation, or belongs to another graph."""


class UnsupportedModelError(RebasinError, TypeError):
    """No adapter carries a model of this type, or the model holds something that cannot be carried."""


class UnsupportedArrayError(RebasinError, TypeError):
    """An array is of a framework or a dtype that cannot be used here."""


class EquivalenceError(RebasinError, AssertionError):
    """A permuted network is not the same function as the original.

    Attributes
    ----------
    groups : tuple of str
        The groups to blame: permuting any one of them alone changes the outputs.
    parameter : str or None
        The parameter whose axis is wrong, where the search could name one.
    axis : int or None
        Which of its axes.
    plan : rebasin_core.Plan or None
        The smallest plan that was found to change the outputs (`rebasin_core.testing.check_equivalent`).
    """

    def __init__(
        self,
        message: str,
        groups: tuple[str, ...] = (),
        parameter: str | None = None,
        axis: int | None = None,
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.groups = groups
        self.parameter = parameter
        self.axis = axis
        self.plan = plan


class LawError(RebasinError, AssertionError):
    """A backend or an adapter breaks laws of its protocol.

    Attributes
    ----------
    laws : dict of str to str
        Per broken law, what was found.
    """

    def __init__(self, message: str, laws: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.laws = dict(laws or {})


class ConvergenceWarning(RebasinError, UserWarning):  # noqa: N818, a warning
    """An iteration stopped before it reached the tolerance that was asked for."""
