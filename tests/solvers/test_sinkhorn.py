"""The Sinkhorn solver: never worse than the identity or weight matching, on whatever objective."""

import autograd.numpy as anp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.models.model import open_model
from rebasin_core.objectives.resolve import as_objective
from rebasin_core.solvers.problem import Problem

QUICK = {"max_steps": 15, "num_rounds": 1, "max_swaps": 0}


@pytest.fixture
def net(mlp):
    return mlp((3, 6, 5, 2))


def largest_gap(a, b):
    return sum(anp.sum((a[name] - b[name]) ** 4) for name in a)


def disagreement(a, b, batch):
    x = batch[0]
    return anp.mean((anp.tanh(anp.dot(x, a["w0"].T)) - anp.tanh(anp.dot(x, b["w0"].T))) ** 2)


def objectives(net, mse):
    data = [net.data(n, seed=n) for n in (8, 5)]
    return {
        "L2": rb.objectives.L2(),
        "cosine": rb.objectives.Cosine(),
        "midpoint": rb.objectives.Midpoint(mse, data),
        "random point": rb.objectives.RandomPoint(mse, data),
        "two arguments": largest_gap,
        "three arguments": rb.objectives.Custom(disagreement, data),
    }


def task(net, objective, seed=0, a=None, b=None):
    a, b = a or net.params(seed + 1), b or net.params(seed + 2)
    bound = as_objective(objective).bind(open_model(b, net.forward), net.graph())
    return Problem(net.graph(), a, b, bound, seed)


@pytest.mark.parametrize("kind", ["L2", "cosine", "midpoint", "random point", "two arguments", "three arguments"])
@pytest.mark.parametrize("init", ["weight_matching", "identity", "random"])
def test_never_worse_than_the_identity_or_weight_matching(net, mse, kind, init, unchanged):
    problem = task(net, objectives(net, mse)[kind])
    matching = rb.solvers.WeightMatching().solve(task(net, rb.objectives.L2()))
    with unchanged(problem.params_a, problem.params_b):
        solution = rb.solvers.Sinkhorn(init=init, **QUICK).solve(problem)
    assert solution.value <= problem.judge(rb.Plan.identity(problem.graph))
    assert solution.value <= problem.judge(matching.plan)
    assert_allclose(solution.value, problem.judge(solution.plan), rtol=1e-12)
    bests = [entry.best for entry in solution.history]
    assert bests == sorted(bests, reverse=True)
    # Every step is judged, but of the random points, whose evaluation set is ten samples, every other one.
    assert len(bests) == (9 if kind == "random point" else 16)


@pytest.mark.parametrize("kind", ["L2", "random point"])
def test_the_same_seed_gives_the_same_result(net, mse, kind):
    first, second = (rb.solvers.Sinkhorn(**QUICK).solve(task(net, objectives(net, mse)[kind], 3)) for _ in range(2))
    assert first.history == second.history
    assert first.plan == second.plan


@pytest.mark.parametrize("seed", range(3))
def test_planted_permutations_of_small_networks_are_recovered(net, seed):
    a = net.params(seed)
    plan = rb.Plan.random(net.graph(), seed)
    b = rb.permute(a, plan, net.graph())
    solution = rb.solvers.Sinkhorn(init="identity").solve(task(net, rb.objectives.L2(), seed, a, b))
    assert solution.plan == plan.inverse()
    assert_allclose(solution.value, 0.0, atol=1e-12)


def test_the_descent_alone_recovers_a_planted_permutation(net, monkeypatch):
    """Without weight matching's plan to fall back on."""
    from rebasin_core.solvers import sinkhorn as module

    monkeypatch.setattr(module, "see_matchings", lambda search, progress: rb.Plan.identity(search.problem.graph))
    a = net.params(1)
    plan = rb.Plan.random(net.graph(), 1)
    problem = task(net, rb.objectives.L2(), 0, a, rb.permute(a, plan, net.graph()))
    assert rb.solvers.Sinkhorn().solve(problem).plan == plan.inverse()


def test_a_local_and_a_repeated_group_are_recovered():
    rng = np.random.default_rng(0)
    a = {"v": rng.normal(size=(6, 4)), "mix": rng.normal(size=(4, 4)), "scale": rng.normal(size=2)}
    graph = rb.PermutationGraph.from_axes({"v": "(h d[h]) c", "mix": "c c", "scale": "h"}, a)
    plan = rb.Plan.random(graph, 3)
    problem = Problem(graph, a, rb.permute(a, plan, graph), rb.objectives.L2().on(graph))
    assert rb.solvers.Sinkhorn().solve(problem).plan == plan.inverse()


def test_a_soft_plan_of_the_problem_equals_a_hard_one_where_it_is_hard(net, mse):
    problem = task(net, rb.objectives.Midpoint(mse, net.data()))
    plan = rb.Plan.random(problem.graph, 1)
    assert_allclose(problem.soft_value(rb.SoftPlan.from_plan(plan), net.data()), problem.judge(plan))


def test_float32_parameters_are_aligned_in_float32(net, mse):
    a, b = net.params(1, "float32"), net.params(2, "float32")
    data = net.data(dtype="float32")
    for objective in (rb.objectives.L2(), rb.objectives.RandomPoint(mse, data)):
        result = rb.align(
            a,
            b,
            data[0],
            graph=net.graph(),
            objective=objective,
            solver=rb.solvers.Sinkhorn(**QUICK),
            forward=net.forward,
            progress=False,
        )
        assert {x.dtype.name for x in result.model.values()} == {"float32"}
        assert {x.dtype.name for x in result.merge().values()} == {"float32"}


def test_an_integer_parameter_may_stand_first():
    a = {"count": np.array(1), "w": np.random.default_rng(0).normal(size=(3, 2))}
    graph = rb.PermutationGraph.from_axes({"count": "", "w": "h ."}, a)
    plan = rb.Plan.random(graph, 1)
    problem = Problem(graph, a, rb.permute(a, plan, graph), rb.objectives.L2().on(graph))
    assert rb.solvers.Sinkhorn(**QUICK).solve(problem).plan == plan.inverse()


def test_patience_and_steps_are_kept_and_told(net):
    problem = task(net, rb.objectives.L2())
    patient = rb.solvers.Sinkhorn(patience=4, num_rounds=1, max_swaps=0).solve(problem)
    assert patient.converged
    assert "no better hard plan in 4 steps" in patient.stop_reason
    hurried = rb.solvers.Sinkhorn(max_steps=3, num_rounds=1, max_swaps=0).solve(problem)
    assert not hurried.converged
    assert "max_steps=3" in hurried.stop_reason
    assert len(hurried.history) == 4


@pytest.mark.parametrize("seed", range(3))
def test_starts_side_by_side_are_no_worse_than_the_first_alone(net, mse, seed):
    """The first start takes the same path whether others run beside it or not."""
    problem = task(net, rb.objectives.RandomPoint(mse, net.data()), seed)
    one, four = (rb.solvers.Sinkhorn(num_starts=n, **QUICK).solve(problem) for n in (1, 4))
    assert four.value <= one.value
    assert len(four.history) == len(one.history)


def test_the_scale_of_the_objective_does_not_matter(net, mse):
    """Down to gradients that are tiny beside the epsilon that Adam adds to them."""
    plain, tiny = (
        rb.solvers.Sinkhorn(**QUICK).solve(task(net, lambda a, b, c=c: c * largest_gap(a, b))) for c in (1.0, 1e-12)
    )
    assert plain.plan == tiny.plan
    assert_allclose([1e12 * e.hard for e in tiny.history], [e.hard for e in plain.history], rtol=1e-6)


def test_annealing_ends_at_the_final_temperature(net, monkeypatch):
    from rebasin_core.solvers import sinkhorn as module

    seen = []
    original = module.matrices_of

    def spy(logits, tau, num_iters):
        seen.append(tau)
        return original(logits, tau, num_iters)

    monkeypatch.setattr(module, "matrices_of", spy)
    rb.solvers.Sinkhorn(tau=2.0, final_tau=0.5, **QUICK).solve(task(net, rb.objectives.L2()))
    steps = seen[1:]  # the first call measures the gradient
    assert_allclose([steps[0], steps[-1]], [2.0, 0.5])
    ratios = np.array(steps[1:]) / np.array(steps[:-1])
    assert_allclose(ratios, ratios[0])


def test_rounds_after_the_first_start_sharply_from_the_best_plan(net, mse, monkeypatch):
    from rebasin_core.solvers import sinkhorn as module

    problem = task(net, rb.objectives.RandomPoint(mse, net.data()))
    rounds = []
    original = module.minimize

    def spy(backend, fun, x, *settings):
        rounds.append({group: np.array(logits) for group, logits in x.items()})
        return original(backend, fun, x, *settings)

    monkeypatch.setattr(module, "minimize", spy)
    best = module.Sinkhorn(max_steps=4, num_rounds=1, num_starts=1, max_swaps=0).solve(problem).plan
    module.Sinkhorn(max_steps=4, num_rounds=2, num_starts=1, max_swaps=0, tau=0.5, refine_scale=8.0).solve(problem)
    assert len(rounds) == 3  # the second round is made whether the first found anything or not
    assert max(x.max() for x in rounds[1].values()) == 0.25
    for group, perm in best.items():
        assert_array_equal(rounds[2][group][0].max(axis=-1), np.full(len(perm), 4.0))


def test_a_search_is_over_when_nothing_can_be_better(net):
    a = net.params(1)
    plan = rb.Plan.random(net.graph(), 1)
    solution = rb.solvers.Sinkhorn().solve(task(net, rb.objectives.L2(), 0, a, rb.permute(a, plan, net.graph())))
    assert solution.value == 0.0
    assert solution.converged
    assert "cannot be lower" in solution.stop_reason
    assert len(solution.history) < 20


def test_where_the_evaluation_is_long_not_every_step_is_judged(net, mse):
    batches = [net.data(4, seed=n) for n in range(8)]
    problem = task(net, rb.objectives.RandomPoint(mse, batches))
    solution = rb.solvers.Sinkhorn(max_steps=21, num_rounds=1, max_swaps=0).solve(problem)
    assert len(solution.history) == 1 + 3  # steps 0, 10 and 20 of forty samples in the evaluation set


def test_patience_counts_steps_however_seldom_plans_are_judged(net, mse):
    batches = [net.data(4, seed=n) for n in range(8)]
    problem = task(net, rb.objectives.RandomPoint(mse, batches))
    settings = {"max_steps": 200, "num_rounds": 1, "num_starts": 1, "max_swaps": 0, "learning_rate": 1e-9}
    solution = rb.solvers.Sinkhorn(patience=25, **settings).solve(problem)
    assert "no better hard plan in 25 steps" in solution.stop_reason
    assert len(solution.history) == 1 + 4  # steps 0, 10, 20 and 30: the first that is 25 steps behind the best


def test_polishing_is_told_and_written_down(net, mse):
    problem = task(net, rb.objectives.RandomPoint(mse, net.data()))
    plain = rb.solvers.Sinkhorn(**QUICK).solve(problem)
    polished = rb.solvers.Sinkhorn(**{**QUICK, "max_swaps": 500}).solve(problem)
    assert polished.value <= plain.value
    assert "swaps of two units" in polished.stop_reason
    bests = [entry.best for entry in polished.history]
    assert bests == sorted(bests, reverse=True)


def test_nothing_to_permute(mlp):
    net = mlp((3, 2))
    solution = rb.solvers.Sinkhorn().solve(task(net, rb.objectives.L2()))
    assert solution.converged
    assert_array_equal(len(solution.plan), 0)
    assert "nothing to permute" in solution.stop_reason


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        *(
            (name, bad)
            for name in ("num_iters", "max_steps", "patience", "num_rounds")
            for bad in (0, -1, 1.5, "3", True)
        ),
        *(("num_starts", bad) for bad in (0, -1, 1.5, "3", True)),
        *(("max_swaps", bad) for bad in (-1, 1.5, "3", True)),
        *(("final_tau", bad) for bad in (0, -1.0, np.nan, "1", True)),
        *((name, bad) for name in ("tau", "learning_rate") for bad in (0, -1.0, np.nan, np.inf, "1", None, True)),
        *((name, bad) for name in ("init_scale", "refine_scale") for bad in (-0.1, np.nan, np.inf, "1", None)),
        *(("init", bad) for bad in ("zeros", None, 0)),
    ],
)
def test_bad_settings_are_refused_by_name(setting, bad):
    with pytest.raises(SettingError, match=setting):
        rb.solvers.Sinkhorn(**{setting: bad})
