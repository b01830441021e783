"""How far to go along a segment: exactly where the objective is a polynomial, by backtracking elsewhere."""

import math
from collections.abc import Callable

import numpy as np

__all__ = ["backtracking_step", "polynomial_step"]

# How much of the curvature of the last step the next one is offered, and how often it may be refused.
FORGET = 0.9
REFUSALS = 30


def polynomial_step(phi: Callable[[float], float], value: float, slope: float, degree: int) -> float:
    """Step in [0, 1] at which a polynomial is lowest; 0 where no other is lower.

    Parameters
    ----------
    phi : callable
        The polynomial; it is evaluated at ``degree - 1`` places.
    value, slope : float
        Its value and its derivative at 0.
    degree : int
        At least its degree.

    Notes
    -----
    ``phi(t) = value + slope t + sum_k c_k t^k`` with k from 2 to the degree. Its values at ``j / (degree - 1)``, j from
    1 to degree - 1, determine the c_k; the minimum lies at an end or where the derivative vanishes.

    Examples
    --------
    >>> polynomial_step(lambda t: (t - 0.25) ** 2, 0.0625, -0.5, 2)
    0.25
    """
    places = np.arange(1, degree) / max(degree - 1, 1)
    remainders = np.array([phi(float(t)) - value - slope * t for t in places])
    coefficients = np.linalg.solve(places[:, None] ** np.arange(2, degree + 1), remainders)
    rise = np.polynomial.Polynomial([0.0, slope, *coefficients])
    # Rounding makes of a double root a pair of complex ones; a real part tried in vain does no harm.
    inner = np.real(rise.deriv().roots())
    return min((0.0, 1.0, *(float(t) for t in inner if 0.0 < t < 1.0)), key=lambda t: float(rise(t)))


def backtracking_step(
    phi: Callable[[float], float], value: float, slope: float, square: float, curvature: float | None
) -> tuple[float, float]:
    """Step in [0, 1] that lowers a function by as much as a parabola promises, and the curvature of that parabola.

    Parameters
    ----------
    phi : callable
        The function along the segment.
    value, slope : float
        Its value and its derivative at 0; the derivative is negative.
    square : float
        Squared length of the segment.
    curvature : float, optional
        What the last step returned; None before the first.

    Returns
    -------
    step : float
        0 where no step was found that lowers the function.
    curvature : float
        For the next step.

    Notes
    -----
    The parabola ``value + slope t + curvature square t^2 / 2`` is lowest at ``t = -slope / (curvature square)``. If the
    function lies above it there, the curvature grows to what was measured; at the next step it may fall again. A few
    evaluations a step, and steps as long as the function allows; nothing need be known of it [1]_.

    References
    ----------
    .. [1] F. Pedregosa, G. Negiar, A. Askari, M. Jaggi. Linearly Convergent Frank-Wolfe with Backtracking Line-Search.
       AISTATS 2020, Algorithm 2.

    Examples
    --------
    >>> backtracking_step(lambda t: (t - 0.25) ** 2, 0.0625, -0.5, 1.0, None)
    (0.25, 2.0)
    """
    curvature = -slope / square if curvature is None else FORGET * curvature
    for _ in range(REFUSALS):
        t = min(-slope / (curvature * square), 1.0)
        rise = phi(t) - value - slope * t
        measured = 2.0 * rise / (square * t * t)
        # Written so that a value that is not a number refuses the step.
        if measured <= curvature * (1.0 + 1e-9):
            return t, curvature
        curvature = max(2.0 * curvature, measured if math.isfinite(measured) else -4.0 * slope / (square * t))
    return 0.0, curvature
