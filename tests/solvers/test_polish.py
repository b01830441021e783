"""The local search: it reaches an optimum of swaps, never climbs, and predicts gains from the gradient."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.solvers.polish import affordable_swaps, pairs, polish, promising_pairs, swap_units
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.relaxation import relax
from rebasin_core.solvers.search import Search
from rebasin_core.solvers.weight_matching import descend


@pytest.fixture
def net(mlp):
    return mlp((3, 5, 4, 2))


def test_pairs_are_all_pairs_of_a_group_and_of_each_place_of_a_local_one():
    graph = rb.PermutationGraph.from_axes({"v": "(h d[h]) c", "h": "h"}, {"v": np.zeros((6, 4)), "h": np.zeros(2)})
    plan = rb.Plan.identity(graph)
    found = list(pairs(plan))
    assert len(found) == len(set(found)) == 1 + 2 * 3 + 6
    for pair in found:
        other = swap_units(plan, [pair])
        assert sum(other.moved(group) for group in other) == 2
        assert swap_units(other, [pair]) == plan


@pytest.mark.parametrize("kind", ["midpoint", "random point", "two arguments", "three arguments"])
def test_no_swap_of_two_units_improves_what_comes_out(net, objectives, task, kind):
    search = Search(task(net, objectives(net)[kind]))
    before = search.best
    said = polish(search, 5000, False)
    assert "no swap of two units improved" in said
    assert search.best <= before
    for pair in pairs(search.plan):
        assert search.problem.judge(swap_units(search.plan, [pair])) >= search.best - 1e-12


def test_a_distance_of_weights_is_improved_by_assignments(net, objectives, task):
    search = Search(task(net, objectives(net)["L2"]))
    assert polish(search, None, False) == "then no group of the best plans improves"
    assert search.best < search.history[0].best
    problem = search.problem
    again = descend(problem.graph, problem.params_a, problem.params_b, search.plan, problem.rng(), problem.backend)
    assert next(again) == (search.plan, False)


def test_a_budget_of_nothing_is_kept(net, objectives, task):
    search = Search(task(net, objectives(net)["midpoint"]))
    assert polish(search, 0, False) == ""
    assert polish(search, 1, False) == ""
    assert len(search.values) == 1


def test_where_all_swaps_are_too_many_the_most_promising_are_judged(mlp, objectives, task):
    net = mlp((3, 12, 12, 2))
    search = Search(task(net, objectives(net)["random point"]))
    before = search.best
    said = polish(search, 100, False)
    assert said.startswith("then ")
    assert len(search.values) <= 101
    assert search.best < before


def test_promised_gains_are_those_of_the_gradient(net, objectives, task):
    """The derivative of the relaxed objective along the segment from a plan to the swapped one, best first."""
    problem = task(net, objectives(net)["midpoint"])
    plan = rb.Plan.random(problem.graph, 3)
    relaxation, t = relax(problem), 1e-6

    def slope(pair):
        here, there = (dict(rb.SoftPlan.from_plan(p)) for p in (plan, swap_units(plan, [pair])))
        towards = {g: (1 - t) * here[g] + t * there[g] for g in here}
        return (relaxation.value(towards) - relaxation.value(here)) / t

    slopes = {pair: slope(pair) for pair in pairs(plan)}
    promised = promising_pairs(problem, plan, 100)
    assert set(promised) == {pair for pair, s in slopes.items() if s < 0}
    assert_allclose([slopes[pair] for pair in promised], sorted(slopes[pair] for pair in promised), atol=1e-5)
    assert promising_pairs(problem, plan, 3) == promised[:3]


def test_large_networks_and_long_evaluations_are_not_polished_by_default(net, mlp, mse, task):
    data = net.data(2000)
    few = affordable_swaps(task(net, rb.objectives.RandomPoint(mse, net.data())))
    assert few == 256  # NumPy judges one plan after the other
    wide = mlp((3, 400, 400, 2))
    problem = task(wide, rb.objectives.RandomPoint(mse, [data] * 8))
    assert affordable_swaps(problem) < 64
    assert polish(Search(problem), None, False) == ""


@pytest.mark.parametrize(
    ("inputs", "uses"),
    [
        (np.zeros((5, 784)), 5),
        (np.zeros((5, 3, 32, 32)), 5 * 1024),
        (np.zeros((5, 32, 32, 3)), 5 * 1024),
        (np.zeros((5, 128), dtype=int), 5 * 128),
        ({"ids": np.zeros((5, 7), dtype=int)}, 5 * 7),
        (np.zeros(5), 5),
    ],
)
def test_weights_that_are_used_at_many_places_cost_more(net, task, inputs, uses, monkeypatch):
    """Deterministic, unlike a measured time; a kernel is charged once per place of the image."""
    from rebasin_core.solvers import polish as module

    monkeypatch.setattr(module, "MOST_SWAPS_IN_A_LOOP", 10**12)
    problem = task(net, rb.objectives.Custom(lambda a, b, batch: (a["w0"] ** 2).sum(), [(inputs, np.zeros(5))]))
    size = sum(x.size for x in problem.params_b.values())
    assert affordable_swaps(problem) == 2**39 // ((size - 2) * uses)  # the last bias moves with no group


def test_swaps_of_a_local_group_stay_within_their_place():
    rng = np.random.default_rng(0)
    a = {"v": rng.normal(size=(6, 3)), "h": rng.normal(size=2)}
    graph = rb.PermutationGraph.from_axes({"v": "(h d[h]) .", "h": "h"}, a)
    plan = rb.Plan.random(graph, 5)
    b = rb.permute(a, plan, graph)

    def gap(x, y):
        return sum(((x[name] - y[name]) ** 4).sum() for name in x)

    problem = Problem(graph, a, b, rb.objectives.Custom(gap).bind(None, graph))
    search = Search(problem)
    polish(search, 1000, False)
    best = min(
        problem.judge(rb.Plan({"h": h, "d": [p, q]}, {"d": "h"}))
        for h in itertools.permutations(range(2))
        for p in itertools.permutations(range(3))
        for q in itertools.permutations(range(3))
    )
    assert search.best >= best
    for pair in pairs(search.plan):
        assert problem.judge(swap_units(search.plan, [pair])) >= search.best - 1e-12
