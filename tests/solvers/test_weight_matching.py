"""Weight matching: exact where it can be, never worse than the identity, and blind to buffers."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.problem import Problem
from rebasin_core.solvers.weight_matching import descend

from_axes = rb.PermutationGraph.from_axes


def problem(graph, a, b, objective=None, seed=0):
    return Problem(graph, a, b, (objective or rb.objectives.L2()).on(graph), seed)


def solve(graph, a, b, objective=None, seed=0, **settings):
    return rb.solvers.WeightMatching(**settings).solve(problem(graph, a, b, objective, seed))


def every_plan(graph):
    choices = []
    for group, n in graph.groups.items():
        orders = list(permutations(range(n)))
        if group in graph.parents:
            orders = list(product(orders, repeat=graph.groups[graph.parents[group]]))
        choices.append(orders)
    for chosen in product(*choices):
        yield rb.Plan(dict(zip(graph.groups, chosen, strict=True)), graph.parents)


def best_of_all(graph, a, b):
    return min(problem(graph, a, b).judge(plan) for plan in every_plan(graph))


def assert_monotone(solution):
    bests = [entry.best for entry in solution.history]
    assert bests == sorted(bests, reverse=True)
    assert bests[-1] == solution.value == min(entry.hard for entry in solution.history)
    assert all(entry.best <= entry.hard for entry in solution.history)
    assert [entry.step for entry in solution.history] == list(range(len(bests)))


@settings(max_examples=25)
@given(
    widths=st.lists(st.integers(2, 9), min_size=3, max_size=5).map(tuple), bias=st.booleans(), seed=st.integers(0, 1000)
)
def test_planted_permutations_are_recovered(mlp, widths, bias, seed):
    net = mlp((*widths[:1], *(w + 4 for w in widths[1:-1]), widths[-1]), bias=bias)
    a, graph = net.params(seed), net.graph()
    plan = rb.Plan.random(graph, seed)
    solution = solve(graph, a, rb.permute(a, plan, graph), seed=seed, num_starts=10)
    assert_monotone(solution)
    if len(widths) == 3:  # a single group: exact
        assert solution.plan == plan.inverse()
        assert_allclose(solution.value, 0.0, atol=1e-12)
    assert solution.value <= solution.history[0].value


def test_planted_permutations_of_wide_networks_are_recovered_with_noise(mlp):
    net = mlp((16, 32, 32, 8))
    a, graph = net.params(0), net.graph()
    plan = rb.Plan.random(graph, 1)
    rng = np.random.default_rng(2)
    b = {name: x + 0.1 * rng.normal(size=x.shape) for name, x in rb.permute(a, plan, graph).items()}
    assert solve(graph, a, b).plan == plan.inverse()


@pytest.mark.parametrize("seed", range(6))
def test_one_hidden_layer_is_solved_exactly(mlp, seed):
    net = mlp((2, 5, 2))
    a, b, graph = net.params(seed), net.params(seed + 50), net.graph()
    solution = solve(graph, a, b, num_starts=1)
    assert_allclose(solution.value, best_of_all(graph, a, b))
    assert solution.converged


@pytest.mark.parametrize("seed", range(3))
def test_two_hidden_layers_reach_the_best_of_all_plans_with_restarts(mlp, seed):
    net = mlp((2, 4, 4, 2))
    a, b, graph = net.params(seed), net.params(seed + 50), net.graph()
    assert_allclose(solve(graph, a, b, num_starts=30).value, best_of_all(graph, a, b))


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), objective=st.sampled_from([rb.objectives.L2(), rb.objectives.Cosine()]))
def test_never_worse_than_the_identity_and_never_rising(mlp, seed, objective):
    net = mlp((3, 5, 4, 2))
    a, b, graph = net.params(seed), net.params(seed + 1), net.graph()
    solution = solve(graph, a, b, objective, num_starts=2)
    assert_monotone(solution)
    assert_allclose(solution.value, problem(graph, a, b, objective).judge(solution.plan))
    assert solution.value <= problem(graph, a, b, objective).judge(rb.Plan.identity(graph))


@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_the_similarity_never_falls_from_sweep_to_sweep(strategies, data, seed):
    """On random notations with products, sums, fixed orders and local groups, standing several times."""
    graph, params = data.draw(strategies.networks())
    rng = np.random.default_rng(seed)
    a, b = ({name: rng.normal(size=x.shape) for name, x in params.items()} for _ in range(2))
    task = problem(graph, a, b)
    values = [task.judge(rb.Plan.identity(graph))]
    values += [task.judge(plan) for plan, _ in descend(graph, a, b, rb.Plan.identity(graph), rng, task.backend)]
    assert (np.diff(values) <= 1e-9).all()


def residual(rng):
    params = {"in": rng.normal(size=(4, 3)), "mix": rng.normal(size=(4, 4)), "out": rng.normal(size=(2, 4))}
    return params, from_axes({"in": "d .", "mix": "d d", "out": ". d"}, params)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_twice_in_one_parameter(seed):
    rng = np.random.default_rng(seed)
    a, graph = residual(rng)
    b, _ = residual(rng)
    solution = solve(graph, a, b, num_starts=20)
    assert_monotone(solution)  # quadratic in this group: a local optimum, near the best
    assert best_of_all(graph, a, b) <= solution.value + 1e-9
    assert solution.value <= 1.1 * best_of_all(graph, a, b)
    plan = rb.Plan.random(graph, seed)
    assert solve(graph, a, rb.permute(a, plan, graph), num_starts=20).plan == plan.inverse()


def heads(rng):
    params = {"v": rng.normal(size=(6, 3)), "o": rng.normal(size=(3, 6)), "scale": rng.normal(size=2)}
    return params, from_axes({"v": "(h d[h]) .", "o": ". (h d[h])", "scale": "h"}, params)


@pytest.mark.parametrize("seed", range(5))
def test_local_groups(seed):
    rng = np.random.default_rng(seed)
    a, graph = heads(rng)
    b, _ = heads(rng)
    solution = solve(graph, a, b, num_starts=10)
    assert_monotone(solution)
    assert_allclose(solution.value, best_of_all(graph, a, b))
    plan = rb.Plan.random(graph, seed)
    assert solve(graph, a, rb.permute(a, plan, graph), num_starts=10).plan == plan.inverse()


def test_buffers_move_but_do_not_count():
    rng = np.random.default_rng(0)
    a = {"w": rng.normal(size=(6, 3)), "mean": rng.normal(size=6), "v": rng.normal(size=(2, 6))}
    graph = from_axes({"w": "h .", "mean": "h", "v": ". h"}, a, buffers=["mean"])
    plan = rb.Plan.random(graph, 1)
    b = rb.permute(a, plan, graph)
    b["mean"] = 1e6 * rng.normal(size=6)
    result = rb.align(a, b, graph=graph, solver=rb.solvers.WeightMatching(), progress=False)
    assert result.plan == plan.inverse()
    assert_array_equal(result.model["mean"], b["mean"][plan.inverse()["h"]])
    assert_allclose(result.objective, 0.0)


def test_a_group_that_stands_in_buffers_only_stays():
    a = {"w": np.ones((2, 3)), "mean": np.arange(4.0)}
    graph = from_axes({"w": "h .", "mean": "c"}, a, buffers=["mean"])
    assert solve(graph, a, a, num_starts=1).plan.is_identity


def test_float32_is_matched_as_float64_is(mlp):
    net = mlp((4, 12, 10, 3))
    graph = net.graph()
    plans = [solve(graph, net.params(1, dtype), net.params(2, dtype)).plan for dtype in ("float32", "float64")]
    assert plans[0] == plans[1]


def test_the_same_seed_gives_the_same_history(mlp, unchanged):
    net = mlp((3, 6, 5, 2))
    a, b, graph = net.params(1), net.params(2), net.graph()
    with unchanged(a, b):
        first, second = (solve(graph, a, b, seed=4) for _ in range(2))
    assert first.history == second.history
    assert first.plan == second.plan


def test_running_out_of_sweeps_is_said(mlp):
    net = mlp((6, 20, 20, 20, 2))
    a, b, graph = net.params(1), net.params(2), net.graph()
    short = solve(graph, a, b, max_sweeps=1, num_starts=2)
    assert not short.converged
    assert "max_sweeps=1" in short.stop_reason
    assert solve(graph, a, b).converged


def test_nothing_to_permute(mlp):
    net = mlp((3, 2))
    solution = solve(net.graph(), net.params(1), net.params(2))
    assert solution.converged
    assert len(solution.plan) == 0


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3", True, None])
@pytest.mark.parametrize("setting", ["num_starts", "max_sweeps"])
def test_bad_settings_are_refused_by_name(setting, bad):
    with pytest.raises(SettingError, match=setting):
        rb.solvers.WeightMatching(**{setting: bad})
