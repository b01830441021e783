"""The straight line between two sets of parameters: the one home of ``(1 - t) A + t B``, and what each end counts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rebasin_core.backends.protocol import Array
from rebasin_core.errors import SettingError

__all__ = ["as_place", "as_weights", "lerp"]


def as_place(t: Any) -> float:
    """Read a place on the line, a finite number."""
    try:
        place = float("nan") if isinstance(t, str) else float(t)
    except (TypeError, ValueError):
        place = float("nan")
    if not math.isfinite(place):
        raise SettingError(f"expected t as a finite number, 0 for model A and 1 for model B, got {t!r}")
    return place


def as_weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Read the weights of several networks, one for each, as shares that sum to 1."""
    if weights is None:
        return (1.0 / count,) * count
    try:
        given = [float(w) for w in weights]
    except (TypeError, ValueError):
        given = []
    if len(given) != count or not all(math.isfinite(w) and w > 0 for w in given):
        raise SettingError(f"expected weights as {count} positive numbers, one per model, got {weights!r}")
    return tuple(w / sum(given) for w in given)


def lerp(params_a: Mapping[str, Array], params_b: Mapping[str, Array], t: Any) -> dict[str, Array]:
    """Parameters at ``(1 - t) A + t B``, of any framework; differentiable in all three.

    Parameters
    ----------
    params_a, params_b : mapping of str to array
        Two networks of one architecture. Integer arrays (counters) are taken from A.
    t : float
        Place on the line, dimensionless: 0 is A, 1 is B; values outside extrapolate.
    """
    return {
        name: a if "int" in str(a.dtype) or "bool" in str(a.dtype) else (1.0 - t) * a + t * params_b[name]
        for name, a in params_a.items()
    }
