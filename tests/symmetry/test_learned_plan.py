"""A learned plan: where it starts, and the two plans its logits stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import PlanError, SettingError, ShapeError, SpecError
from rebasin_core.symmetry.learned_plan import LearnedPlan, check_graph, initial_logits

PARAMS = {"a": np.zeros((6, 2), np.float32), "b": np.zeros((2, 6)), "c": np.zeros((2, 2), np.float16)}
GRAPH = rb.PermutationGraph.from_axes({"a": "(h d[h]) .", "b": ". (h d[h])", "c": "h ."}, PARAMS)


class Learned(LearnedPlan):
    def __init__(self, logits, tau=1.0, num_iters=20):
        self.graph, self.tau, self.num_iters, self.logits = GRAPH, tau, num_iters, logits

    def _logit_values(self):
        return self.logits

    def _original(self):
        return PARAMS


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_hard_plan_of_the_start_is_the_plan_it_was_made_from(seed, tau, init_scale):
    plan = rb.Plan.random(GRAPH, seed)
    logits = initial_logits(GRAPH, PARAMS, tau, 20, plan, init_scale)
    assert {group: x.shape for group, x in logits.items()} == {"h": (2, 2), "d": (2, 3, 3)}
    assert Learned(logits, tau).plan() == plan


def test_the_soft_plan_is_that_of_the_settings_as_they_are_now():
    learned = Learned(initial_logits(GRAPH, PARAMS, 1.0, 20, None, 1.0))
    for learned.tau, learned.num_iters in ((1.0, 20), (0.25, 3)):
        expected = rb.SoftPlan.from_logits(learned.logits, GRAPH.parents, learned.tau, learned.num_iters)
        for group, matrix in learned.soft_plan().items():
            assert_array_equal(matrix, expected[group])
        for name, x in learned.soft_parameters().items():
            assert_array_equal(x, expected.apply(PARAMS, GRAPH)[name])


@pytest.mark.parametrize("narrow", ["float16", "float32"])
def test_logits_have_the_dtype_of_what_moves_and_at_least_single_precision(narrow):
    wide = initial_logits(GRAPH, PARAMS, 1.0, 20, None, 0.5)
    single = initial_logits(GRAPH, {name: x.astype(narrow) for name, x in PARAMS.items()}, 1.0, 20, None, 0.5)
    assert {x.dtype.name for x in wide.values()} == {"float64"}
    assert {x.dtype.name for x in single.values()} == {"float32"}


def test_what_cannot_be_learned_is_refused():
    good = {"tau": 1.0, "num_iters": 20, "init": None, "init_scale": 0.5}
    for bad in ({"tau": 0.0}, {"tau": True}, {"tau": "1"}, {"num_iters": 0}, {"num_iters": 1.5}, {"init_scale": -1}):
        with pytest.raises(SettingError, match=f"expected {next(iter(bad))} as"):
            initial_logits(GRAPH, PARAMS, **{**good, **bad})
    for wrong, says in ((rb.Plan({"h": [1, 0]}), "another graph"), ({"h": [1, 0]}, "got dict"), ("h", "got str")):
        with pytest.raises(PlanError, match=says):
            initial_logits(GRAPH, PARAMS, **{**good, "init": wrong})
    with pytest.raises(SpecError, match=r"make one with rebasin_core\.permutation_graph\(model\)"):
        check_graph({"h": 2}, PARAMS, "permutation_graph(model)")
    with pytest.raises(SpecError, match="nothing to learn"):
        check_graph(GRAPH.pin(["h", "d"]), PARAMS, "permutation_graph(model)")
    with pytest.raises(ShapeError, match="'a'"):
        check_graph(GRAPH, {**PARAMS, "a": np.zeros((4, 2))}, "permutation_graph(model)")
