"""The first guess: planted permutations that coordinate descent from the identity misses, whatever the labels of B."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.backends import get_backend
from rebasin_core.solvers.first_guess import first_guess, uniform_matrices
from rebasin_core.solvers.weight_matching import descend


def guess(graph, a, b):
    return first_guess(graph, a, b, get_backend(*a.values()))


@pytest.mark.parametrize("blocks", [1, 10, 30])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_deep_residual_networks_are_seen_through(residual, blocks, noise):
    a, graph = residual(blocks)
    plan = rb.Plan.random(graph, 1)
    rng = np.random.default_rng(2)
    b = {name: x + noise * rng.normal(size=x.shape) for name, x in rb.permute(a, plan, graph).items()}
    assert guess(graph, a, b) == plan.inverse()


def test_coordinate_descent_from_the_identity_is_lost_in_them(residual):
    """What the first guess is for: whether the identity leads there is a matter of the order of the groups."""
    a, graph = residual(30)
    plan = rb.Plan.random(graph, 1)
    b, backend = rb.permute(a, plan, graph), get_backend(a["in"])

    def found(start, seed):
        *_, (end, _) = descend(graph, a, b, start, np.random.default_rng(seed), backend)
        return end == plan.inverse()

    assert sum(found(rb.Plan.identity(graph), seed) for seed in range(8)) < 4
    assert all(found(guess(graph, a, b), seed) for seed in range(8))


@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_the_labels_of_b_do_not_matter(strategies, data, seed):
    """On random notations: a guess for a reordered B is the same network as a guess for B."""
    graph, params = data.draw(strategies.networks())
    rng = np.random.default_rng(seed)
    a, b = ({name: rng.normal(size=x.shape) for name, x in params.items()} for _ in range(2))
    reordered = rb.permute(b, rb.Plan.random(graph, seed), graph)
    one, other = (guess(graph, a, x).apply(x, graph) for x in (b, reordered))
    for name in a:
        assert_allclose(one[name], other[name], rtol=0, atol=1e-12)


def test_a_single_group_is_matched_exactly(mlp):
    net = mlp((3, 9, 2))
    a, b, graph = net.params(1), net.params(2), net.graph()
    sweeps = descend(graph, a, b, guess(graph, a, b), np.random.default_rng(0), get_backend(a["w0"]))
    assert [moved for _, moved in sweeps] == [False]


def test_local_groups_wait_for_their_parent():
    rng = np.random.default_rng(0)
    a = {"v": rng.normal(size=(20, 3)), "o": rng.normal(size=(3, 20)), "scale": rng.normal(size=4)}
    graph = rb.PermutationGraph.from_axes({"v": "(h d[h]) .", "o": ". (h d[h])", "scale": "h"}, a)
    for seed in range(5):
        plan = rb.Plan.random(graph, seed)
        assert guess(graph, a, rb.permute(a, plan, graph)) == plan.inverse()


def test_recurrent_weights_count_while_nothing_is_known_of_them():
    rng = np.random.default_rng(0)
    a = {"hh": rng.normal(size=(24, 8)), "b": rng.normal(size=24)}
    graph = rb.PermutationGraph.from_axes({"hh": "(3 h) h", "b": "(3 h)"}, a)
    plan = rb.Plan.random(graph, 1)
    assert guess(graph, a, rb.permute(a, plan, graph)) == plan.inverse()


def test_buffers_tell_nothing():
    a = {"w": np.random.default_rng(0).normal(size=(4, 3)), "mean": np.arange(4.0), "only": np.arange(3.0)}
    graph = rb.PermutationGraph.from_axes({"w": "h .", "mean": "h", "only": "c"}, a, buffers=["mean", "only"])
    b = a | {"mean": a["mean"][::-1], "only": a["only"][::-1]}
    assert guess(graph, a, b).is_identity


def test_weights_of_zeros_are_left_as_they_are():
    a = {"w": np.zeros((4, 3)), "v": np.zeros((2, 4))}
    graph = rb.PermutationGraph.from_axes({"w": "h .", "v": ". h"}, a)
    assert guess(graph, a, a).is_identity


def test_the_center_mixes_all_units_evenly():
    a = {"v": np.zeros((6, 2)), "scale": np.zeros(2)}
    graph = rb.PermutationGraph.from_axes({"v": "(h d[h]) .", "scale": "h"}, a)
    center = uniform_matrices(graph)
    assert_array_equal(center["h"], np.full((2, 2), 1 / 2))
    assert_array_equal(center["d"], np.full((2, 3, 3), 1 / 3))
