"""What is told beside a plan, and a start from it."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.errors import NonFiniteError, SettingError, ShapeError
from rebasin_core.sinkhorn_operator import marginal_error, sinkhorn

STOPS = {"iterations": {"num_iters": 9}, "tolerance": {"tol": 1e-10}}
UNEVEN = ([0.5, 1.0, 3.0, 0.5], [1.0, 2.0, 0.2, 0.3, 1.5])


@pytest.fixture(params=STOPS)
def stop(request):
    return STOPS[request.param]


def draw(*shape, dtype=np.float64):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("tau", [1.0, 0.3, 0.01])
def test_plan_and_gradient_are_those_without_info_bit_for_bit(stop, tau, dtype):
    X, G = draw(2, 2, 6, 6, dtype=dtype)
    plan, info = sinkhorn(X, tau, **stop, info=True)
    expected, error = sinkhorn(X, tau, **stop, return_error=True)
    assert_array_equal(plan, expected)
    assert_array_equal(info.error, error)
    assert_array_equal(
        autograd.grad(lambda X: anp.sum(sinkhorn(X, tau, **stop, info=True)[0] * G))(X),
        autograd.grad(lambda X: anp.sum(sinkhorn(X, tau, **stop) * G))(X),
    )


@pytest.mark.parametrize("marginals", [None, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("tau", [10.0, 1.0, 0.1, 0.02])
def test_plan_is_the_exponential_of_logits_and_potentials(stop, tau, marginals):
    X = draw(3, 4, 5)
    plan, info = sinkhorn(X, tau, **stop, marginals=marginals, info=True)
    u, v = info.potentials
    assert (u.shape, v.shape) == ((3, 4), (3, 5))
    assert_allclose(np.exp(X / tau + u[..., :, None] + v[..., None, :]), plan, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01])
def test_a_start_from_the_solution_is_the_solution(tau):
    X = draw(2, 8, 8)
    plan, info = sinkhorn(X, tau, tol=1e-8, info=True)
    again, after = sinkhorn(X, tau, tol=1e-8, info=True, start=info.potentials)
    assert info.iterations >= 3
    assert after.iterations <= 1
    assert after.converged.all()
    assert_allclose(again, plan, atol=1e-8)
    # So is one plain iteration from there.
    assert_allclose(sinkhorn(X, tau, num_iters=1, start=info.potentials), plan, atol=1e-7)


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_iterations_go_on_from_where_they_ended(tau):
    X = draw(7, 7)
    _, info = sinkhorn(X, tau, num_iters=4, info=True)
    assert_allclose(sinkhorn(X, tau, num_iters=5, start=info.potentials), sinkhorn(X, tau, num_iters=9), rtol=1e-9)


def test_a_start_nearby_saves_iterations_and_one_far_away_does_no_harm():
    X = draw(32, 32)
    _, info = sinkhorn(X, 0.02, tol=1e-9, info=True)
    moved = X + 1e-4 * draw(2, 32, 32)[1]
    plan, cold = sinkhorn(moved, 0.02, tol=1e-9, info=True)
    again, warm = sinkhorn(moved, 0.02, tol=1e-9, info=True, start=info.potentials)
    assert warm.iterations < cold.iterations / 2
    assert_allclose(again, plan, atol=1e-8)
    far = tuple(1e3 * draw(2, 32)[i] for i in range(2))
    again, lost = sinkhorn(moved, 0.02, tol=1e-9, info=True, start=far)
    assert lost.converged
    assert_allclose(again, plan, atol=1e-8)


def test_convergence_and_error_are_those_of_the_plan():
    X = np.stack([np.zeros((5, 5)), draw(5, 5)])
    plan, info = sinkhorn(X, 0.1, num_iters=3, info=True)
    assert_allclose(info.error, marginal_error(plan), atol=1e-15)
    assert info.converged.tolist() == [True, False]
    assert info.iterations == 3


def test_iterations_left_out_are_not_counted():
    assert sinkhorn(0.1 * draw(5, 5), num_iters=1000, info=True)[1].iterations < 30


def test_temperature_keeps_its_derivative_beside_info():
    X, G = draw(2, 5, 5)
    for tau in (0.3, np.array(0.3)):
        found = autograd.grad(lambda tau: anp.sum(sinkhorn(X, tau, tol=1e-12, info=True)[0] * G))(tau)
        assert_allclose(found, autograd.grad(lambda tau: anp.sum(sinkhorn(X, tau, tol=1e-12) * G))(tau), rtol=1e-12)


def test_info_excludes_return_error():
    with pytest.raises(SettingError, match=r"info\.error"):
        sinkhorn(draw(3, 3), info=True, return_error=True)


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        (np.zeros(3), ShapeError, r"info\.potentials"),
        ((np.zeros(3), np.zeros(4)), ShapeError, r"potential v .* \(3,\).* got \(4,\)"),
        ((np.zeros((1, 3)), np.zeros(3)), ShapeError, "potential u"),
        ((np.array([0.0, np.nan, 0.0]), np.zeros(3)), NonFiniteError, "in u"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(start, error, message):
    with pytest.raises(error, match=message):
        sinkhorn(draw(3, 3), start=start)
