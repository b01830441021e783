"""Frank-Wolfe: never worse than the identity or weight matching, on whatever objective, and monotone on the way."""

import autograd.numpy as anp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.models.model import open_model
from rebasin_core.solvers import frank_wolfe as module
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.relaxation import Relaxation

QUICK = {"max_steps": 6, "num_starts": 2, "max_swaps": 50}
KINDS = ["L2", "cosine", "midpoint", "random point", "two arguments", "three arguments"]


@pytest.fixture
def net(mlp):
    return mlp((3, 6, 5, 2))


@pytest.fixture
def alone(monkeypatch):
    """Frank-Wolfe without the plan of weight matching to fall back on, and without polishing."""
    monkeypatch.setattr(module, "see_matchings", lambda search, progress: None)
    monkeypatch.setattr(module, "polish", lambda search, max_swaps, progress: "")


@pytest.mark.parametrize("kind", KINDS)
def test_never_worse_than_the_identity_or_weight_matching(net, task, objectives, kind, unchanged):
    problem = task(net, objectives(net)[kind])
    matched = rb.solvers.WeightMatching().solve(task(net, rb.objectives.L2())).plan
    with unchanged(problem.params_a, problem.params_b):
        solution = rb.solvers.FrankWolfe(**QUICK).solve(problem)
    assert solution.value <= problem.judge(rb.Plan.identity(problem.graph))
    assert solution.value <= problem.judge(matched)
    assert_allclose(solution.value, problem.judge(solution.plan), rtol=1e-12)
    bests = [entry.best for entry in solution.history]
    assert bests == sorted(bests, reverse=True)
    assert bests[-1] == solution.value
    assert [entry.step for entry in solution.history] == list(range(len(bests)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_relaxed_objective_never_rises(net, task, objectives, kind, monkeypatch):
    starts = []
    descend, watched = rb.solvers.FrankWolfe._descend, Relaxation.value_and_grad

    def new_start(*args):
        starts.append([])
        return descend(*args)

    def watch(self, matrices):
        value, gradient = watched(self, matrices)
        starts[-1].append(value)
        for matrix in matrices.values():  # and every step stays doubly stochastic
            assert_allclose(matrix.sum(0), 1.0)
            assert_allclose(matrix.sum(1), 1.0)
            assert matrix.min() > -1e-12
        return value, gradient

    monkeypatch.setattr(rb.solvers.FrankWolfe, "_descend", new_start)
    monkeypatch.setattr(Relaxation, "value_and_grad", watch)
    rb.solvers.FrankWolfe(num_starts=3, max_steps=12).solve(task(net, objectives(net)[kind]))
    assert len(starts) == 3
    assert max(map(len, starts)) > 2
    for values in starts:
        assert (np.diff(values) <= 1e-9 * np.abs(values[0])).all()


@pytest.mark.parametrize("kind", ["L2", "random point"])
def test_the_same_seed_gives_the_same_result(net, task, objectives, kind):
    first, second = (rb.solvers.FrankWolfe(**QUICK).solve(task(net, objectives(net)[kind], 3)) for _ in range(2))
    assert first.history == second.history
    assert first.plan == second.plan


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("blocks", [10, 30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_deep_residual_networks_are_seen_through(residual, blocks, dtype):
    a, graph = residual(blocks, dtype=dtype)
    plan = rb.Plan.random(graph, 1)
    problem = Problem(graph, a, rb.permute(a, plan, graph), rb.objectives.L2().on(graph))
    solution = rb.solvers.FrankWolfe(num_starts=1).solve(problem)
    assert solution.plan == plan.inverse()
    assert solution.converged
    assert solution.value == 0.0


@pytest.mark.usefixtures("alone")
def test_a_local_and_a_repeated_group_are_recovered():
    rng = np.random.default_rng(0)
    a = {"v": rng.normal(size=(6, 4)), "mix": rng.normal(size=(4, 4)), "scale": rng.normal(size=2)}
    graph = rb.PermutationGraph.from_axes({"v": "(h d[h]) c", "mix": "c c", "scale": "h"}, a)
    plan = rb.Plan.random(graph, 3)
    problem = Problem(graph, a, rb.permute(a, plan, graph), rb.objectives.L2().on(graph))
    assert rb.solvers.FrankWolfe().solve(problem).plan == plan.inverse()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("objective", [rb.objectives.L2(), rb.objectives.Cosine()])
def test_one_hidden_layer_takes_one_step(mlp, objective):
    """The inner product is linear there: the first corner is the best of all plans, and the gap vanishes in it."""
    net = mlp((3, 7, 2))
    a, b, graph = net.params(1), net.params(2), net.graph()
    problem = Problem(graph, a, b, objective.on(graph))
    solution = rb.solvers.FrankWolfe(num_starts=1).solve(problem)
    assert len(solution.history) == 4  # the identity, two corners, the end
    assert solution.converged
    assert solution.stop_reason == "the gap vanished"
    assert solution.plan == rb.solvers.WeightMatching(num_starts=1).solve(problem).plan


@pytest.mark.usefixtures("alone")
def test_a_planted_permutation_is_found_from_the_loss_alone(net, mse, task):
    a = net.params(1)
    plan = rb.Plan.random(net.graph(), 1)
    x = net.inputs(64)
    objective = rb.objectives.RandomPoint(mse, (x, net.forward(a, x)))
    problem = task(net, objective, 0, a, rb.permute(a, plan, net.graph()))
    solution = rb.solvers.FrankWolfe().solve(problem)
    assert_allclose(solution.value, 0.0, atol=1e-12)
    assert solution.plan == plan.inverse()


def test_a_loss_is_brought_below_that_of_the_plans_it_sets_out_from(net, task, objectives):
    problem = task(net, objectives(net)["midpoint"], seed=4)
    matched = rb.solvers.WeightMatching().solve(task(net, rb.objectives.L2(), seed=4)).plan
    known = min(problem.judge(matched), problem.judge(rb.Plan.identity(problem.graph)))
    assert rb.solvers.FrankWolfe(num_starts=1, max_swaps=0).solve(problem).value < 0.9 * known


def test_starts_lie_between_the_center_and_the_best_plan_and_never_repeat(net, task):
    problem = task(net, rb.objectives.L2())
    plan, rng, tried = rb.Plan.random(problem.graph, 1), np.random.default_rng(0), set()
    hard = rb.SoftPlan.from_plan(plan)
    soft = [module._start(problem, plan, height, tried, rng) for height in (0.0, 0.5, 0.75, 0.0, 0.5)]
    for group, n in problem.graph.groups.items():
        assert_allclose(soft[0][group], 1 / n)
        assert_allclose(soft[1][group], (hard[group] + soft[0][group]) / 2)
        assert_allclose(soft[2][group], (3 * hard[group] + soft[0][group]) / 4)
        assert abs(soft[3][group] - soft[4][group]).max() > 0.01
        for other in soft[3:]:
            assert_allclose(other[group].sum(0), 1.0)
            assert min(abs(other[group] - x[group]).max() for x in soft[:3]) > 0.01
    other = module._start(problem, rb.Plan.random(problem.graph, 2), 0.5, tried, rng)
    assert_allclose(other["h1"].max(), 0.5 + 0.5 / 6)


def test_float32_parameters_are_aligned_in_float32(net, mse):
    a, b = net.params(1, "float32"), net.params(2, "float32")
    data = net.data(dtype="float32")
    for objective in (rb.objectives.L2(), rb.objectives.RandomPoint(mse, data)):
        solver = rb.solvers.FrankWolfe(**QUICK)
        result = rb.align(
            a, b, data[0], graph=net.graph(), objective=objective, solver=solver, forward=net.forward, progress=False
        )
        assert {x.dtype.name for x in result.model.values()} == {"float32"}


def test_buffers_move_but_do_not_count():
    rng = np.random.default_rng(0)
    a = {"count": np.array(1), "w": rng.normal(size=(6, 3)), "mean": rng.normal(size=6), "only": rng.normal(size=2)}
    axes = {"count": "", "w": "h .", "mean": "h", "only": "c"}
    graph = rb.PermutationGraph.from_axes(axes, a, buffers=["mean", "only"])
    plan = rb.Plan.random(graph, 1)
    b = rb.permute(a, plan, graph)
    b["mean"] = 1e6 * rng.normal(size=6)
    solution = rb.solvers.FrankWolfe().solve(Problem(graph, a, b, rb.objectives.L2().on(graph)))
    assert solution.plan["h"].tolist() == plan.inverse()["h"].tolist()
    assert solution.value == 0.0


def test_running_out_of_steps_is_said(net, task, objectives):
    solution = rb.solvers.FrankWolfe(max_steps=2, num_starts=3, max_swaps=0).solve(
        task(net, objectives(net)["midpoint"])
    )
    assert not solution.converged
    assert solution.stop_reason == "3 of 3 starts reached max_steps=2"
    assert len(solution.history) == 1 + 3 * (2 + 1)


def test_a_gap_below_the_tolerance_ends_a_start(net, task, objectives):
    """The gap is a share of the terms it is the difference of: never more than twice them."""
    solution = rb.solvers.FrankWolfe(tol=2.0, num_starts=2, max_swaps=0).solve(task(net, objectives(net)["midpoint"]))
    assert len(solution.history) == 1 + 2 * (1 + 1)
    assert solution.converged
    assert solution.stop_reason == "the gap vanished"


@pytest.mark.usefixtures("alone")
def test_a_start_ends_where_no_step_lowers_the_objective():
    """The gradient promises what no segment keeps: it leaves out a term that is lowest at the center."""
    w, direction = np.random.default_rng(0).normal(size=(2, 4, 3))
    graph = rb.PermutationGraph.from_axes({"w": "h ."}, {"w": w})

    def kink(a, b):
        seen_by_no_gradient = np.abs(getattr(b["w"], "_value", b["w"]) - w.mean(0)).sum()
        return anp.sum(direction * b["w"]) + 100.0 * seen_by_no_gradient

    problem = Problem(graph, {"w": w}, {"w": w}, rb.objectives.Custom(kink).bind(open_model({"w": w}), graph))
    solution = rb.solvers.FrankWolfe(num_starts=1).solve(problem)
    assert len(solution.history) == 3
    assert solution.converged


def test_nothing_to_permute(mlp, task):
    net = mlp((3, 2))
    solution = rb.solvers.FrankWolfe().solve(task(net, rb.objectives.L2()))
    assert solution.converged
    assert "nothing to permute" in solution.stop_reason


def test_an_objective_without_a_gradient_is_refused(net):
    b = net.params(2)
    bound = rb.objectives.Custom(lambda a, b: 1.0, name="mine").bind(open_model(b, net.forward), net.graph())
    with pytest.raises(SettingError, match="'mine' has no gradient"):
        rb.solvers.FrankWolfe().solve(Problem(net.graph(), net.params(1), b, bound))


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        *((name, bad) for name in ("num_starts", "max_steps") for bad in (0, -1, 1.5, "3", True, None)),
        *(("max_swaps", bad) for bad in (-1, 1.5, "3", True)),
        *(("tol", bad) for bad in (-1e-9, np.nan, np.inf, "1", None, True)),
    ],
)
def test_bad_settings_are_refused_by_name(setting, bad):
    with pytest.raises(SettingError, match=setting):
        rb.solvers.FrankWolfe(**{setting: bad})
