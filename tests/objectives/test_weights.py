"""Eq. 7 and the cosine, against sums written out."""

import autograd
import numpy as np
import pytest
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.models.model import open_model

OBJECTIVES = [rb.objectives.L2(), rb.objectives.Cosine()]


def flat(params):
    return np.concatenate([x.ravel() for x in params.values()])


def test_l2_is_the_squared_distance_of_all_weights(mlp):
    a, b = mlp((3, 4, 2)).params(1), mlp((3, 4, 2)).params(2)
    assert_allclose(rb.objectives.L2()(a, b), np.linalg.norm(flat(a) - flat(b)) ** 2)
    assert_allclose(rb.objectives.L2()(a, a), 0.0)


def test_cosine_is_one_minus_the_cosine_of_all_weights(mlp):
    a, b = mlp((3, 4, 2)).params(1), mlp((3, 4, 2)).params(2)
    u, v = flat(a), flat(b)
    assert_allclose(rb.objectives.Cosine()(a, b), 1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    doubled = {name: 2 * x for name, x in a.items()}
    assert_allclose(rb.objectives.Cosine()(a, doubled), 0.0, atol=1e-12)
    assert_allclose(rb.objectives.Cosine()(a, {name: -x for name, x in a.items()}), 2.0)


def test_cosine_ranks_hard_plans_as_l2_does(mlp):
    net = mlp((3, 6, 2))
    a, b, graph = net.params(1), net.params(2), net.graph()
    rebased = [rb.Plan.random(graph, seed).apply(b, graph) for seed in range(10)]
    orders = [np.argsort([objective(a, x) for x in rebased]) for objective in OBJECTIVES]
    np.testing.assert_array_equal(*orders)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_buffers_do_not_count(mlp, objective):
    net = mlp((3, 4, 2))
    a, b = ({**net.params(seed), "mean": np.full(4, float(seed))} for seed in (1, 2))
    graph = rb.PermutationGraph.from_axes({**net.axes(), "mean": "h1"}, a, buffers=["mean"])
    bound = objective.bind(open_model(a), graph)
    assert bound.matches_weights
    assert_allclose(bound.value(a, b, None), objective(net.params(1), net.params(2)))
    assert list(bound.evaluation()) == [(1.0, None)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_gradients_equal_differences(mlp, objective):
    net = mlp((2, 2, 1))
    a, b = net.params(1), net.params(2)
    gradient = autograd.grad(lambda p: objective(a, p))(b)
    for name, x in b.items():
        for index in np.ndindex(x.shape):
            shift = np.zeros_like(x)
            shift[index] = 1e-6
            slope = (objective(a, {**b, name: x + shift}) - objective(a, {**b, name: x - shift})) / 2e-6
            assert_allclose(gradient[name][index], slope, rtol=1e-5, atol=1e-7)
