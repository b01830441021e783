"""The straight-through estimator: hard plans only, and a gradient that moves the surrogate."""

import autograd.numpy as anp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.models.model import open_model
from rebasin_core.objectives.resolve import as_objective
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.straight_through import _Projection
from rebasin_core.solvers.weight_matching import descend

QUICK = {"max_steps": 12}
KINDS = ["L2", "cosine", "midpoint", "random point", "two arguments", "three arguments"]


@pytest.fixture
def net(mlp):
    return mlp((3, 6, 5, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_never_worse_than_the_identity_or_weight_matching(net, task, objectives, kind, unchanged):
    problem = task(net, objectives(net)[kind])
    matched = rb.solvers.WeightMatching().solve(task(net, rb.objectives.L2())).plan
    with unchanged(problem.params_a, problem.params_b):
        solution = rb.solvers.StraightThrough(**QUICK).solve(problem)
    assert solution.value <= problem.judge(rb.Plan.identity(problem.graph))
    assert solution.value <= problem.judge(matched)
    assert_allclose(solution.value, problem.judge(solution.plan), rtol=1e-12)
    bests = [entry.best for entry in solution.history]
    assert bests == sorted(bests, reverse=True)
    assert len(bests) == 13


def test_the_objective_sees_hard_plans_only(net):
    """Bit by bit B, reordered: the surrogate is there for the gradient alone."""
    seen = []

    def watch(a, b):
        seen.append({name: np.sort(getattr(x, "_value", x), axis=None) for name, x in b.items()})
        return sum(anp.sum((a[name] - b[name]) ** 4) for name in a)

    a, b = net.params(1), net.params(2)
    bound = as_objective(watch).bind(open_model(b, net.forward), net.graph())
    rb.solvers.StraightThrough(**QUICK).solve(Problem(net.graph(), a, b, bound))
    assert len(seen) > 12
    for params in seen:
        for name, values in params.items():
            assert_array_equal(values, np.sort(b[name], axis=None))


def test_the_gradient_passes_straight_to_the_surrogate(net, monkeypatch):
    """The first step of Adam is its learning rate against the sign of the gradient, in units of each parameter."""
    direction = {name: np.sign(x) for name, x in net.params(7).items()}

    def linear(a, b):
        return sum(anp.sum(direction[name] * b[name]) for name in b)

    surrogates = []
    rebased = _Projection.rebased

    def watch(self, surrogate):
        surrogates.append({name: np.array(getattr(x, "_value", x)) for name, x in surrogate.items()})
        return rebased(self, surrogate)

    monkeypatch.setattr(_Projection, "rebased", watch)
    a, b = net.params(1), net.params(2)
    bound = as_objective(linear).bind(open_model(b, net.forward), net.graph())
    problem = Problem(net.graph(), a, b, bound)
    rb.solvers.StraightThrough(learning_rate=0.25, max_steps=2).solve(problem)
    first, second = surrogates
    assert first.keys() == set(problem.learned) < set(a)
    for name, x in first.items():
        assert_allclose(x, a[name] / np.sqrt(np.mean(a[name] ** 2)))
        assert_allclose(second[name], x - 0.25 * direction[name], rtol=1e-6)


def test_the_first_plan_is_that_of_weight_matching(mlp, task, objectives):
    """Which a descent from the identity does not find."""
    net = mlp((3, 12, 12, 12, 2))
    problem = task(net, objectives(net)["midpoint"])
    matched = rb.solvers.WeightMatching().solve(task(net, rb.objectives.L2())).plan
    a, b, identity = problem.params_a, problem.params_b, rb.Plan.identity(problem.graph)
    *_, (other, _) = descend(problem.graph, a, b, identity, problem.rng(), problem.backend)
    assert other != matched
    solution = rb.solvers.StraightThrough(max_steps=1).solve(problem)
    assert solution.history[1].hard == problem.judge(matched)


def test_a_loss_is_brought_below_that_of_the_plans_it_sets_out_from(net, task, objectives):
    problem = task(net, objectives(net)["midpoint"], seed=4)
    matched = rb.solvers.WeightMatching().solve(task(net, rb.objectives.L2(), seed=4)).plan
    known = min(problem.judge(matched), problem.judge(rb.Plan.identity(problem.graph)))
    assert rb.solvers.StraightThrough(max_steps=100).solve(problem).value < 0.9 * known


def test_the_same_seed_gives_the_same_result(net, task, objectives):
    first, second = (
        rb.solvers.StraightThrough(**QUICK).solve(task(net, objectives(net)["random point"], 3)) for _ in range(2)
    )
    assert first.history == second.history
    assert first.plan == second.plan


def test_a_parameter_of_zeros_moves_in_units_of_the_others():
    a = {"w": np.random.default_rng(0).normal(size=(4, 3)), "b": np.zeros(4)}
    graph = rb.PermutationGraph.from_axes({"w": "h .", "b": "h"}, a)
    projection = _Projection(Problem(graph, a, a, rb.objectives.L2().on(graph)), rb.Plan.identity(graph))
    assert projection.units["b"] == projection.units["w"] == pytest.approx(np.sqrt(np.mean(a["w"] ** 2)))
    a["w"] = np.zeros((4, 3))
    assert set(_Projection(projection.problem, rb.Plan.identity(graph)).units.values()) == {1.0}


def test_groups_of_every_form_are_carried():
    rng = np.random.default_rng(0)
    shapes = {"v": (6, 4), "mix": (4, 4), "scale": (2,), "mean": (4,), "only": (3,)}
    a, b = ({name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in range(2))
    axes = {"v": "(h d[h]) c", "mix": "c c", "scale": "h", "mean": "c", "only": "e"}
    graph = rb.PermutationGraph.from_axes(axes, a, buffers=["mean", "only"])
    problem = Problem(
        graph, a, b, as_objective(lambda a, b: anp.sum((a["v"] - b["v"]) ** 4)).bind(open_model(b), graph)
    )
    solution = rb.solvers.StraightThrough(**QUICK).solve(problem)
    assert solution.value <= problem.judge(rb.Plan.identity(graph))
    assert solution.plan["e"].tolist() == [0, 1, 2]


def test_float32_parameters_are_aligned_in_float32(net, mse):
    a, b = net.params(1, "float32"), net.params(2, "float32")
    data = net.data(dtype="float32")
    solver = rb.solvers.StraightThrough(**QUICK)
    objective = rb.objectives.RandomPoint(mse, data)
    result = rb.align(
        a, b, data[0], graph=net.graph(), objective=objective, solver=solver, forward=net.forward, progress=False
    )
    assert {x.dtype.name for x in result.model.values()} == {"float32"}


def test_patience_and_steps_are_kept_and_told(net, task, objectives):
    problem = task(net, objectives(net)["midpoint"])
    patient = rb.solvers.StraightThrough(patience=3, learning_rate=1e-9).solve(problem)
    assert patient.converged
    assert patient.stop_reason == "no better plan in 3 steps"
    assert len(patient.history) == 4
    hurried = rb.solvers.StraightThrough(max_steps=2).solve(problem)
    assert not hurried.converged
    assert "max_steps=2" in hurried.stop_reason


def test_nothing_to_permute(mlp, task):
    net = mlp((3, 2))
    solution = rb.solvers.StraightThrough().solve(task(net, rb.objectives.L2()))
    assert solution.converged
    assert "nothing to permute" in solution.stop_reason


def test_an_objective_without_a_gradient_is_refused(net):
    b = net.params(2)
    bound = rb.objectives.Custom(lambda a, b: 1.0, name="mine").bind(open_model(b, net.forward), net.graph())
    with pytest.raises(SettingError, match="'mine' has no gradient"):
        rb.solvers.StraightThrough().solve(Problem(net.graph(), net.params(1), b, bound))


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        *((name, bad) for name in ("max_steps", "patience") for bad in (0, -1, 1.5, "3", True, None)),
        *(("learning_rate", bad) for bad in (0, -1.0, np.nan, np.inf, "1", None, True)),
    ],
)
def test_bad_settings_are_refused_by_name(setting, bad):
    with pytest.raises(SettingError, match=setting):
        rb.solvers.StraightThrough(**{setting: bad})
