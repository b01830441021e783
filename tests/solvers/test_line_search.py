"""Steps along a segment: exact on polynomials, never upwards elsewhere."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from rebasin_core.solvers.line_search import backtracking_step, polynomial_step


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(6))
def test_no_place_of_the_segment_is_lower_than_the_exact_step(degree, seed):
    polynomial = np.polynomial.Polynomial(np.random.default_rng(seed).normal(size=degree + 1))
    step = polynomial_step(polynomial, polynomial(0.0), polynomial.deriv()(0.0), degree)
    assert 0.0 <= step <= 1.0
    assert polynomial(step) <= polynomial(np.linspace(0.0, 1.0, 2001)).min() + 1e-12


def test_a_degree_that_is_too_high_does_no_harm():
    assert_allclose(polynomial_step(lambda t: (t - 0.3) ** 2, 0.09, -0.6, 5), 0.3)


def test_a_straight_line_is_followed_to_its_end_or_not_at_all():
    def never(t):
        raise AssertionError("a straight line is known from its slope")

    assert polynomial_step(never, 1.0, -2.0, 1) == 1.0
    assert polynomial_step(never, 1.0, 2.0, 1) == 0.0


def test_a_constant_is_left_alone():
    assert polynomial_step(lambda t: 1.0, 1.0, 0.0, 3) == 0.0


FUNCTIONS = {
    "steep": lambda t: 1e6 * (t - 1e-3) ** 2,
    "flat": lambda t: 1e-9 * (t - 0.5) ** 2,
    "concave": lambda t: -t - t**2,
    "waves": lambda t: np.cos(40.0 * t) - t,
    "kink": lambda t: abs(t - 0.1) - 0.1 * t,
    "wall": lambda t: np.nan if t > 0.2 else (t - 0.1) ** 2,
    "cliff": lambda t: np.inf if t > 0.01 else -t,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_backtracking_lowers_whatever_falls_at_first(name):
    phi = FUNCTIONS[name]
    slope = (phi(1e-9) - phi(0.0)) / 1e-9
    step, curvature = backtracking_step(phi, phi(0.0), slope, 3.0, None)
    assert 0.0 < step <= 1.0
    assert phi(step) < phi(0.0)
    assert curvature > 0


def test_backtracking_takes_the_whole_segment_of_a_function_that_only_falls():
    assert backtracking_step(lambda t: -t, 0.0, -1.0, 2.0, None)[0] == 1.0


def test_backtracking_forgets_a_curvature_that_is_past():
    phi, curvature = FUNCTIONS["flat"], 1e6
    steps = []
    for _ in range(400):
        step, curvature = backtracking_step(phi, phi(0.0), -1e-9, 1.0, curvature)
        steps.append(step)
    assert steps[0] < 1e-6
    assert steps[-1] == pytest.approx(0.5, rel=0.2)


def test_backtracking_gives_up_where_the_slope_was_wrong():
    step, _ = backtracking_step(lambda t: 1.0 + abs(t), 1.0, -1.0, 1.0, None)
    assert step == 0.0
