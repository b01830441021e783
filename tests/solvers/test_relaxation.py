"""An objective of soft plans: the polynomial it is said to be, and the objective itself where the plan is hard."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.errors import NonFiniteError, SettingError
from rebasin_core.models.model import open_model
from rebasin_core.solvers.problem import Problem
from rebasin_core.solvers.relaxation import relax


def weights_problem(graph, a, b, objective=None):
    return Problem(graph, a, b, (objective or rb.objectives.L2()).on(graph))


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_along_a_segment_the_inner_product_is_a_polynomial_of_the_degree(strategies, data, seed):
    """On random notations: the differences of order degree + 1 vanish."""
    graph, params = data.draw(strategies.networks())
    rng = np.random.default_rng(seed)
    a, b = ({name: rng.normal(size=x.shape) for name, x in params.items()} for _ in range(2))
    relaxed = relax(weights_problem(graph, a, b))
    one, other = (rb.SoftPlan.random(graph, rng) for _ in range(2))
    places = np.linspace(0.0, 1.0, relaxed.degree + 2)
    values = [relaxed.value({g: (1 - t) * one[g] + t * other[g] for g in graph.groups}) for t in places]
    assert_allclose(np.diff(values, relaxed.degree + 1), 0.0, atol=1e-9 * np.abs(values).max())


@pytest.mark.parametrize(
    ("text", "shape", "degree"),
    [
        ("h .", (3, 2), 1),
        ("h c", (3, 2), 2),
        ("(3 h) h", (9, 3), 2),
        ("h h h", (3, 3, 3), 3),
        ("(h+c) (h+c+h)", (5, 8), 2),  # an entry lies in one term of every sum
        ("(h d[h]) c", (12, 2), 3),
        ("(h 2)@[0 1 2 3 4 5] c", (6, 2), 2),
    ],
)
def test_the_degree_counts_the_matrices_of_one_entry(text, shape, degree):
    a = {"w": np.ones(shape), "sizes": np.ones((3, 2))}
    graph = rb.PermutationGraph.from_axes({"w": text, "sizes": "h c"}, a)
    assert relax(weights_problem(graph, a, a)).degree == max(degree, 2)


@pytest.mark.parametrize("seed", range(3))
def test_hard_plans_rank_as_the_distance_does(mlp, seed):
    """Minus the inner product is half of what the plan changes in the squared distance."""
    net = mlp((3, 5, 4, 2))
    a, b, graph = net.params(seed), net.params(seed + 10), net.graph()
    problem = weights_problem(graph, a, b)
    relaxed = relax(problem)
    norms = sum((x**2).sum() for p in (a, b) for name, x in p.items() if graph.axes[name].groups)
    fixed = sum(((a[name] - b[name]) ** 2).sum() for name in a if not graph.axes[name].groups)
    for plan in (rb.Plan.random(graph, s) for s in range(4)):
        value = relaxed.value(dict(rb.SoftPlan.from_plan(plan)))
        assert_allclose(problem.judge(plan), norms + fixed + 2.0 * value)


def test_a_loss_of_a_hard_plan_is_the_mean_over_the_evaluation_set(mlp, mse):
    net = mlp((3, 5, 4, 2))
    b, graph = net.params(2), net.graph()
    objective = rb.objectives.RandomPoint(mse, [net.data(8, 1), net.data(5, 2)], strata=2)
    problem = Problem(graph, net.params(1), b, objective.bind(open_model(b, net.forward), graph))
    relaxed, plan = relax(problem), rb.Plan.random(graph, 1)
    matrices = dict(rb.SoftPlan.from_plan(plan))
    assert_allclose(relaxed.value(matrices), problem.judge(plan))
    assert relaxed.degree is None
    value, gradient = relaxed.value_and_grad(matrices)
    assert_allclose(value, problem.judge(plan))
    for group, g in gradient.items():  # against differences, one entry of each
        moved = matrices | {group: matrices[group] + 1e-6 * np.eye(len(g))}
        assert_allclose(np.trace(g), (relaxed.value(moved) - value) / 1e-6, rtol=1e-3, atol=1e-5)


def test_half_precision_is_relaxed_in_single():
    a = {"w": np.random.default_rng(0).normal(size=(4, 3)).astype("float16")}
    graph = rb.PermutationGraph.from_axes({"w": "h ."}, a)
    relaxed = relax(weights_problem(graph, a, a))
    assert relaxed.like.dtype == "float32"
    assert relaxed.value_and_grad({"h": np.eye(4, dtype="float32")})[1]["h"].dtype == "float32"


def custom(function):
    a = {"w": np.random.default_rng(0).normal(size=(4, 3))}
    graph = rb.PermutationGraph.from_axes({"w": "h ."}, a)
    bound = rb.objectives.Custom(function, name="mine").bind(open_model(a), graph)
    return relax(Problem(graph, a, a, bound)), {"h": np.full((4, 4), 0.25)}


def test_an_objective_without_a_gradient_is_refused_with_the_solvers_that_need_none():
    relaxed, center = custom(lambda a, b: 1.0)
    with pytest.raises(SettingError, match=r"'mine' has no gradient.*WeightMatching.*ActivationMatching"):
        relaxed.value_and_grad(center)


def test_a_value_that_is_not_finite_is_refused():
    relaxed, center = custom(lambda a, b: (b["w"] * np.nan).sum())
    with pytest.raises(NonFiniteError, match="'mine' is nan for a soft plan"):
        relaxed.value_and_grad(center)
