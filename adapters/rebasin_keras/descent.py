"""What the optimisers of both backends have in common: which values they refuse, and which dtypes they widen."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rebasin_core.errors import NonFiniteError

__all__ = ["NARROW", "check_finite"]

NARROW = frozenset({"float16", "bfloat16"})
"""Floating dtypes in which small steps get lost."""


def check_finite(value: float, gradients: Mapping[str, np.ndarray[Any, Any]], step: int) -> None:
    """Raise `NonFiniteError` unless the value and every gradient are finite."""
    if not math.isfinite(value):
        raise NonFiniteError(
            f"The loss is {value} at step {step}; expected a finite number. Lower the learning rate, or rescale the "
            f"loss."
        )
    for name, gradient in gradients.items():
        if not np.isfinite(gradient.astype(np.float32)).all():
            raise NonFiniteError(
                f"The gradient of {name!r} holds NaN or infinity at step {step}; expected finite numbers. Lower the "
                f"learning rate, or look for a division by zero or a logarithm of zero in the loss."
            )
