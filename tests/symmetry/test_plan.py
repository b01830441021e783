"""Hard plans: what is accepted, what is refused, and that they are values."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import PlanError, RebasinError, SettingError, ShapeError, SpecError

from_axes = rb.PermutationGraph.from_axes


@pytest.fixture
def local_graph():
    return from_axes({"w": "(h d[h]) c", "v": "h"}, {"w": np.zeros((12, 4)), "v": np.zeros(3)})


@given(st.data(), st.integers(0, 1000))
def test_json_round_trip_is_the_identity(strategies, data, seed):
    graph, _ = data.draw(strategies.networks(count=1))
    plan = rb.Plan.random(graph, seed)
    again = rb.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.parents == plan.parents
    assert hash(again) == hash(plan)


@given(st.permutations(range(6)), st.permutations(range(6)), st.permutations(range(6)))
def test_composition_is_a_group(p, q, r):
    p, q, r = rb.Plan({"h": p}), rb.Plan({"h": q}), rb.Plan({"h": r})
    assert p.compose(q).compose(r) == p.compose(q.compose(r))
    assert p.compose(q).inverse() == q.inverse().compose(p.inverse())


def test_composition_of_local_groups_is_associative(local_graph):
    p, q, r = (rb.Plan.random(local_graph, seed) for seed in range(3))
    assert p.compose(q).compose(r) == p.compose(q.compose(r))
    assert p.compose(q).inverse() == q.inverse().compose(p.inverse())


@given(st.data(), st.integers(0, 1000))
def test_reordering_one_group_is_composing_with_a_plan_that_moves_it_alone(strategies, data, seed):
    graph, _ = data.draw(strategies.networks(count=1))
    plan, other = rb.Plan.random(graph, seed), rb.Plan.random(graph, seed + 1)
    group = data.draw(st.sampled_from(list(graph.groups)))
    alone = rb.Plan.identity(graph).replace(group, other[group])
    reordered = plan.reorder(group, other[group])
    assert reordered == plan.compose(alone)
    assert reordered.parents == plan.parents
    assert rb.Plan.from_json(reordered.to_json()) == reordered
    with pytest.raises(ValueError, match="read-only"):
        reordered[group][...] = 0


def test_what_cannot_stand_in_for_a_group_is_refused(local_graph):
    plan = rb.Plan.identity(local_graph)
    for change in (plan.replace, plan.reorder):
        with pytest.raises(PlanError, match="no group 'x'; it has 'h', 'd', 'c'"):
            change("x", [0, 1, 2])
        with pytest.raises(PlanError, match=r"'h' has shape \(3,\) in this plan; got \(2,\)"):
            change("h", [1, 0])
        with pytest.raises(PlanError, match="'h': expected the numbers 0 to 2"):
            change("h", [1, 1, 0])


def test_identity_and_random_have_the_shapes_of_the_graph(local_graph):
    identity = rb.Plan.identity(local_graph)
    assert identity.is_identity
    for plan in (identity, rb.Plan.random(local_graph)):
        assert {g: plan[g].shape for g in plan} == {"h": (3,), "d": (3, 4), "c": (4,)}
        assert {plan[g].dtype for g in plan} == {np.dtype(np.int64)}
        assert plan.parents == {"d": "h"}


def test_the_same_seed_gives_the_same_plan_and_another_seed_another(local_graph):
    assert rb.Plan.random(local_graph, 7) == rb.Plan.random(local_graph, 7)
    assert rb.Plan.random(local_graph, 7) != rb.Plan.random(local_graph, 8)
    rng = np.random.default_rng(7)
    assert rb.Plan.random(local_graph, rng) != rb.Plan.random(local_graph, rng)


def test_random_plans_are_uniform():
    """Chi-squared over the 6 orders of 3 units: the 0.999 quantile at 5 degrees of freedom is 20.5."""
    graph = from_axes({"w": "h"}, {"w": np.zeros(3)})
    rng = np.random.default_rng(0)
    orders, counts = np.unique([rb.Plan.random(graph, rng)["h"] for _ in range(1200)], axis=0, return_counts=True)
    assert len(orders) == 6
    assert ((counts - 200) ** 2 / 200).sum() < 20.5


def test_rows_of_a_local_group_are_drawn_independently(local_graph):
    assert any(len({row.tobytes() for row in rb.Plan.random(local_graph, s)["d"]}) > 1 for s in range(3))


def test_a_plan_is_an_immutable_value():
    given_vector = np.array([1, 0, 2])
    plan = rb.Plan({"h": given_vector})
    given_vector[:] = 0
    assert_array_equal(plan["h"], [1, 0, 2])
    with pytest.raises(ValueError, match=r"read-only"):
        plan["h"][0] = 2
    assert plan == rb.Plan({"h": [1, 0, 2]})
    assert plan != rb.Plan({"h": [0, 1, 2]})
    assert plan != {"h": 3}
    assert len({plan, rb.Plan({"h": [1, 0, 2]})}) == 1
    replaced = plan.replace("h", [0, 1, 2])
    assert replaced.is_identity
    assert not plan.is_identity
    assert (plan.moved("h"), replaced.moved("h")) == (2, 0)


def test_a_plan_of_small_integers_is_widened():
    assert rb.Plan({"h": np.array([1, 0], dtype=np.uint8)})["h"].dtype == np.int64


@pytest.mark.parametrize(
    ("permutations", "parents", "words"),
    [
        ({"h": [0, 0, 1]}, None, "'h'.*0 to 2.*each once"),
        ({"h": [1, 2, 3]}, None, "'h'.*0 to 2"),
        ({"h": [0, -1]}, None, "'h'.*0 to 1"),
        ({"h": [0.0, 1.0]}, None, "'h'.*integers.*float64"),
        ({"h": [True, False]}, None, "'h'.*integers.*bool"),
        ({"h": ["0", "1"]}, None, "'h'.*integers"),
        ({"h": np.eye(2, dtype=int)}, None, r"'h'.*vector.*\(2, 2\)"),
        ({"h": 0}, None, r"'h'.*vector"),
        ({"h": None}, None, r"'h'"),
        ({"h": [[0, 1], [0]]}, None, "'h'.*different lengths"),
        ({"h": [0, 1], "d": [0, 1]}, {"d": "h"}, r"'d'.*places of 'h'"),
        ({"h": [0, 1], "d": [[0, 1]]}, {"d": "h"}, "'d' has 1 rows.*'h' has 2"),
        ({"h": [0, 1], "d": [[0, 1], [1, 1]]}, {"d": "h"}, "'d'.*each once"),
        ({"d": [[0, 1], [1, 0]]}, {"d": "h"}, "'d' is local to 'h'.*no permutation"),
    ],
)
def test_what_is_no_permutation_is_refused_by_name(permutations, parents, words):
    with pytest.raises(PlanError, match=words):
        rb.Plan(permutations, parents)


def test_plans_of_other_groups_do_not_compose():
    with pytest.raises(PlanError, match=r"lacks 'c'"):
        rb.Plan({"h": [0, 1]}).compose(rb.Plan({"h": [0, 1], "c": [0]}))
    with pytest.raises(PlanError, match=r"'h' has shape"):
        rb.Plan({"h": [0, 1]}).compose(rb.Plan({"h": [0, 1, 2]}))


def test_a_plan_for_another_graph_is_refused_by_name():
    w = np.zeros((4, 3))
    graph = from_axes({"w": "h ."}, {"w": w})
    for plan, words in [
        (rb.Plan({"c": [0]}), "lacks 'h' and it has 'c'"),
        (rb.Plan({}), "lacks 'h'"),
        (rb.Plan({"h": [0, 1, 2]}), r"'h' has shape \(3,\).*\(4,\)"),
    ]:
        with pytest.raises(PlanError, match=words):
            rb.permute({"w": w}, plan, graph)


def test_a_local_plan_is_refused_where_the_group_is_plain_even_if_the_shapes_agree():
    params = {"v": np.zeros(4), "w": np.arange(16.0)}
    local = from_axes({"v": "h", "w": "(h d[h])"}, params)
    plain = from_axes({"v": "h", "w": "(h d)"}, params)
    for kind in (rb.Plan, rb.SoftPlan):
        with pytest.raises(PlanError, match=r"'d' is local to 'h', the graph's is a plain group"):
            kind.random(local).apply(params, plain)
        with pytest.raises(PlanError, match=r"'d' is a plain group, the graph's is local to 'h'"):
            kind.random(plain).apply(params, local)


def test_parameters_of_another_graph_are_refused_by_name():
    graph = from_axes({"w": "h ."}, {"w": np.zeros((4, 3))})
    plan = rb.Plan.identity(graph)
    with pytest.raises(ShapeError, match=r"'w'.*\(4, 2\)"):
        rb.permute({"w": np.zeros((4, 2))}, plan, graph)
    with pytest.raises(SpecError, match=r"'v'"):
        rb.permute({"w": np.zeros((4, 3)), "v": np.zeros(2)}, plan, graph)
    with pytest.raises(SpecError, match=r"lacks 'w'"):
        plan.apply({}, graph)


def test_what_is_no_plan_or_no_graph_is_refused():
    params = {"w": np.zeros((2, 3))}
    graph = from_axes({"w": "h ."}, params)
    with pytest.raises(PlanError, match=r"expected a Plan.*got dict"):
        rb.permute(params, {"h": [0, 1]}, graph)
    with pytest.raises(RebasinError, match=r"expected a Plan.*got PermutationGraph"):
        rb.permute(params, graph, rb.Plan.identity(graph))
    with pytest.raises(SpecError, match=r"expected a PermutationGraph, got dict"):
        rb.permute(params, rb.Plan.identity(graph), {"w": "h ."})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "not JSON"),
        ("3", "Plan.to_json"),
        ('{"format": "rebasin-core/graph/1"}', "Plan.to_json"),
        ('{"format": "rebasin-core/plan/1"}', "lacks 'permutations'"),
        (json.dumps({"format": "rebasin-core/plan/1", "parents": {}, "permutations": {"h": [0, 0]}}), "'h'"),
    ],
)
def test_text_that_is_no_plan_is_refused(text, words):
    with pytest.raises(PlanError, match=words):
        rb.Plan.from_json(text)


def test_a_plan_shows_what_moves():
    assert repr(rb.Plan({"h": [1, 0, 2]})) == "Plan(h: 2 of 3 moved)"


def test_a_plan_of_many_groups_shows_in_a_line_and_in_a_notebook():
    plan = rb.Plan({f"<h{k}>": [1, 0] for k in range(50)})
    assert len(repr(plan)) < 120
    assert repr(plan).endswith("more)")
    page = plan._repr_html_()
    assert page.count("<tr>") == 22  # a header, twenty groups, a count of the rest
    assert "<td>&lt;h0&gt;</td><td></td><td>2 of 2</td>" in page


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda graph: rb.Plan([1, 0]), PlanError, "groups of a Plan as a dictionary.*got list"),
        (lambda graph: rb.Plan({"h": [0]}, "h"), PlanError, "parents of a Plan as a dictionary.*got str"),
        (lambda graph: rb.Plan({"h": [[0]]}, {"h": "h"}), PlanError, "which is local itself"),
        (lambda graph: rb.Plan({1: [0]}), PlanError, "names of groups as text, got 1"),
        (lambda graph: rb.Plan({"h": {"a": 1}}), PlanError, "'h'"),
        (lambda graph: rb.Plan({"h": [10**30, 0]}), PlanError, "'h'"),
        (lambda graph: rb.Plan.random(graph, seed=-1), SettingError, "seed as a whole number of at least 0.*got -1"),
        (lambda graph: rb.Plan.random(graph, seed="x"), SettingError, "got 'x'"),
        (lambda graph: rb.Plan.random({"h": 3}), SpecError, "expected a PermutationGraph, got dict"),
        (lambda graph: rb.Plan.identity(None), SpecError, "expected a PermutationGraph, got NoneType"),
        (lambda graph: rb.Plan.identity(graph).apply([], graph), SpecError, "params as a mapping.*got list"),
        (lambda graph: rb.Plan.identity(graph).apply({}, None), SpecError, "expected a PermutationGraph, got NoneType"),
        (lambda graph: rb.Plan.identity(graph).compose({}), PlanError, "another Plan.*got dict"),
    ],
)
def test_what_plans_are_not_made_of_is_refused(local_graph, make, error, words):
    with pytest.raises(error, match=words):
        make(local_graph)
