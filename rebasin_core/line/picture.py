"""A small picture of a curve without any library, for notebooks."""

from typing import Any

import numpy as np

__all__ = ["draw_svg"]

WIDTH, HEIGHT, MARGIN = 300, 120, 12


def draw_svg(lambdas: Any, losses: Any) -> str:
    """Draw losses along the line and, dashed, the straight line between the ends; places of infinite loss are left out.

    Parameters
    ----------
    lambdas, losses : ndarray, shape (k,)
        As of `rebasin_core.Curve`.

    Examples
    --------
    >>> draw_svg(np.array([0.0, 1.0]), np.array([1.0, 2.0])).count("<polyline")
    2
    """
    known = np.isfinite(losses)
    low, high = (losses[known].min(), losses[known].max()) if known.any() else (0.0, 1.0)
    x = MARGIN + (WIDTH - 2 * MARGIN) * lambdas[known]
    y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * ((losses[known] - low) / (high - low) if high > low else 0.5)
    y = np.broadcast_to(y, x.shape)
    ends = slice(None, None, max(1, len(x) - 1))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'style="background:white" role="img" aria-label="loss along the line">'
        f'<polyline points="{_points(x[ends], y[ends])}" fill="none" stroke="#999999" stroke-dasharray="4 3"/>'
        f'<polyline points="{_points(x, y)}" fill="none" stroke="#0072B2" stroke-width="2"/></svg>'
    )


def _points(x: Any, y: Any) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
