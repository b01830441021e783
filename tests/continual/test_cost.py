"""The merge of Eq. 12 and the first logits, as laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.continual.cost import first_logits, merged, middle, share_on_diagonal


@given(data=st.data(), seed=st.integers(0, 99))
def test_without_residual_alpha_0_and_1_are_the_model_and_its_permutation(strategies, data, seed):
    graph, params = data.draw(strategies.networks())
    plan = rb.Plan.random(graph, seed)
    for alpha, wanted in ((0.0, params), (1.0, rb.permute(params, plan, graph))):
        found = merged(params, plan, {}, graph, {}, alpha)
        for name, x in wanted.items():
            assert_array_equal(found[name], x)


@given(seed=st.integers(0, 99), hidden=st.integers(1, 9), alpha=st.sampled_from([0.0, 1.0]))
def test_at_both_ends_the_function_is_the_old_one(small, seed, hidden, alpha):
    params, graph = small.start(hidden, seed=seed)
    x = np.random.default_rng(seed).normal(size=(7, 2))
    found = merged(params, rb.Plan.random(graph, seed), {}, graph, {}, alpha)
    assert_allclose(small.forward(found, x), small.forward(params, x), rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 99), alpha=st.floats(0, 1), keep=st.floats(0, 1))
def test_the_merge_is_eq_12_with_a_share_kept(small, seed, alpha, keep):
    params, graph = small.start(5, seed=seed)
    plan, delta = rb.Plan.random(graph, seed), np.full((5, 2), 0.25)
    found = merged(params, plan, {"w1": delta}, graph, {}, alpha, keep)
    w = params["w1"]
    wanted = (1 - alpha) * w + alpha * w[plan["h"]] + delta
    assert_allclose(found["w1"], keep * w + (1 - keep) * wanted, rtol=1e-12, atol=1e-12)


def test_the_middle_is_the_mean_of_model_and_mixture_and_ties_follow(small):
    params, graph = small.start(4)
    tied = {**params, "again": params["w1"]}
    graph = rb.PermutationGraph.from_axes(
        {**{name: str(spec) for name, spec in graph.axes.items()}, "again": "h ."}, tied, buffers=["again"]
    )
    soft = rb.SoftPlan.random(graph, 0)
    found = middle(tied, soft, {"w1": np.ones((4, 2))}, graph, {"again": "w1"})
    assert_allclose(found["w1"], (params["w1"] + soft["h"] @ params["w1"]) / 2 + 1.0)
    assert found["again"] is found["w1"]


@pytest.mark.parametrize("n", [2, 16, 300])
def test_the_first_plan_keeps_nine_tenths_of_every_unit(n):
    params = {"w": np.ones((n, 3))}
    graph = rb.PermutationGraph.from_axes({"w": "h ."}, params)
    P = rb.sinkhorn(first_logits(graph, None, 0.5)["h"], tau=0.5)
    assert_allclose(np.diag(P), 0.9, rtol=1e-6)
    assert_allclose(first_logits(graph, 3.0, 0.5)["h"], 1.5 * np.eye(n))
    assert share_on_diagonal(1) > 0


def test_a_local_group_has_a_diagonal_for_every_place_of_its_parent():
    params = {"w": np.ones((6, 2)), "g": np.ones((2, 3))}
    graph = rb.PermutationGraph.from_axes({"w": "(h d[h]) .", "g": "h d[h]"}, params)
    assert first_logits(graph, 1.0, 1.0)["d"].shape == (2, 3, 3)
    assert_array_equal(first_logits(graph, 1.0, 1.0)["d"][1], np.eye(3))
