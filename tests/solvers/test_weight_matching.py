"""Weight matching: exact where it can be, never worse than the identity, and blind to buffers."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.backends import get_backend
from rebasin_core.errors import SettingError
from rebasin_core.solvers import weight_matching as module
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.weight_matching import descend
from rebasin_core.symmetry.assignment import linear_assignment

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


QUADRATIC = {
    "mixing": {"in": ("d .", (5, 3)), "mix": ("d d", (5, 5)), "out": (". d", (2, 5))},
    "a recurrent layer": {"ih": ("(3 h) .", (15, 2)), "hh": ("(3 h) h", (15, 5)), "out": (". h", (2, 5))},
    "a sum on either side": {"mix": ("(d+2) (d+d)", (7, 10)), "bias": ("d", (5,))},
    "three times": {"mix": ("d d d", (4, 4, 4)), "in": ("d .", (4, 2))},
    "beside a local group": {"mix": ("(h d[h]) h", (9, 3)), "out": (". (h d[h])", (2, 9))},
}


@pytest.mark.parametrize("kind", QUADRATIC)
@pytest.mark.parametrize("seed", range(3))
def test_a_group_twice_in_one_parameter_reaches_the_best_of_all_plans(kind, seed):
    """An assignment alone gets stuck there; swaps and restarts do not."""
    rng = np.random.default_rng(seed)
    a, b = ({name: rng.normal(size=shape) for name, (_, shape) in QUADRATIC[kind].items()} for _ in range(2))
    graph = from_axes({name: text for name, (text, _) in QUADRATIC[kind].items()}, a)
    solution = solve(graph, a, b, num_starts=30)
    assert_monotone(solution)
    assert_allclose(solution.value, best_of_all(graph, a, b))
    plan = rb.Plan.random(graph, seed)
    assert solve(graph, a, rb.permute(a, plan, graph)).plan == plan.inverse()


def test_swaps_find_what_assignments_miss(monkeypatch):
    """Of ten recurrent layers of twelve units, from one start each."""

    def values():
        for seed in range(10):
            rng = np.random.default_rng(seed)
            a, b = ({"hh": rng.normal(size=(12, 12)), "b": rng.normal(size=12)} for _ in range(2))
            yield solve(from_axes({"hh": "h h", "b": "h"}, a), a, b, num_starts=1).value

    with_swaps = np.array(list(values()))
    monkeypatch.setattr(module, "helpful_swaps", lambda *args: [])
    without = np.array(list(values()))
    assert with_swaps.mean() < 0.95 * without.mean()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("blocks", [10, 50])
def test_planted_permutations_of_deep_residual_networks_are_recovered(residual, blocks, dtype):
    for seed in range(3):
        a, graph = residual(blocks, 30, seed, dtype)
        plan = rb.Plan.random(graph, seed)
        solution = solve(graph, a, rb.permute(a, plan, graph), seed=seed)
        assert solution.plan == plan.inverse()
        assert solution.value == 0.0
        assert solution.converged
        assert "cannot be lower" in solution.stop_reason


def test_a_network_that_lies_close_is_left_where_it_is(residual):
    """Fine-tuned from one start: whatever the first guess makes of it."""
    a, graph = residual(5)
    rng = np.random.default_rng(1)
    b = {name: x + 0.5 * rng.normal(size=x.shape) for name, x in a.items()}
    assert solve(graph, a, b, num_starts=2).plan.is_identity


def count_assignments(monkeypatch, graph, a, b, plan):
    """Groups of `descend`, sweep by sweep, that an assignment was solved for."""
    sizes = {n: group for group, n in graph.groups.items()}
    assert len(sizes) == len(graph.groups), "groups are told by their sizes"
    solved = []

    def count(scores):
        solved.append(sizes[len(scores)])
        return linear_assignment(scores)

    monkeypatch.setattr(module, "linear_assignment", count)
    per_sweep = []
    for _ in descend(graph, a, b, plan, np.random.default_rng(0), get_backend(*a.values())):
        per_sweep.append(sorted(solved))
        solved.clear()
    return per_sweep


def test_a_group_is_solved_again_only_after_a_neighbor_moved(monkeypatch):
    """Two perceptrons side by side: the one that lies as A does is looked at once, the other until it lies so."""
    rng = np.random.default_rng(0)
    sizes = {"still1": 4, "still2": 5, "lone": 6, "move1": 7, "move2": 8}
    a = {"u": rng.normal(size=(5, 4)), "t": rng.normal(size=(4, 9)), "l": rng.normal(size=(6, 9))}
    a |= {"w": rng.normal(size=(8, 7)), "v": rng.normal(size=(7, 9))}
    axes = {"u": "still2 still1", "t": "still1 .", "l": "lone .", "w": "move2 move1", "v": "move1 ."}
    graph = from_axes(axes, a)
    assert graph.groups == sizes
    plan = rb.Plan.identity(graph).replace("lone", rng.permutation(6)).replace("move2", np.roll(np.arange(8), 1))
    b = rb.permute(a, plan, graph)
    first, *others = count_assignments(monkeypatch, graph, a, b, rb.Plan.identity(graph))
    assert first == sorted(sizes)
    # `lone` has no neighbor: its assignment is final. `still1` and `still2` never move.
    assert {group for sweep in others for group in sweep} <= {"move1", "move2"}


@settings(max_examples=30)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_skipped_groups_would_not_have_moved(strategies, data, seed):
    """On random notations: a second descent, which looks at every group anew, finds nothing to do."""
    graph, params = data.draw(strategies.networks())
    rng = np.random.default_rng(seed)
    a, b = ({name: rng.normal(size=x.shape) for name, x in params.items()} for _ in range(2))
    backend = get_backend(*a.values())
    *_, (plan, _) = descend(graph, a, b, rb.Plan.random(graph, seed), rng, backend)
    assert list(descend(graph, a, b, plan, rng, backend)) == [(plan, False)]


def test_an_objective_that_does_not_fit_is_refused_with_the_solvers_that_do(mlp, mse):
    net = mlp((3, 5, 2))
    for objective in (rb.objectives.Midpoint(mse, net.data()), lambda a, b: 0.0):
        with pytest.raises(
            SettingError, match=r"WeightMatching needs.*Sinkhorn\(\).*FrankWolfe\(\).*StraightThrough\(\)"
        ):
            rb.align(
                net.params(1),
                net.params(2),
                graph=net.graph(),
                objective=objective,
                solver=rb.solvers.WeightMatching(),
                forward=net.forward,
                progress=False,
            )


def test_activation_matching_names_the_solver_made_for_a_distance(mlp):
    net = mlp((3, 5, 2))
    with pytest.raises(SettingError, match=r"ActivationMatching needs.*Use solvers.WeightMatching\(\), which was made"):
        rb.solvers.ActivationMatching().solve(problem(net.graph(), net.params(1), net.params(2)))


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


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3", True])
@pytest.mark.parametrize("setting", ["num_starts", "max_sweeps"])
def test_bad_settings_are_refused_by_name(setting, bad):
    with pytest.raises(SettingError, match=setting):
        rb.solvers.WeightMatching(**{setting: bad})
