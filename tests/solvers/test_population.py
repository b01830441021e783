"""Many plans at once: the same values as one by one, and the same gradients."""

import autograd
import numpy as np
import pytest
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.solvers.population import Population
from rebasin_core.solvers.search import Search

KINDS = ["L2", "cosine", "midpoint", "random point", "two arguments", "three arguments"]
WEIGHTS = np.array([1.0, 10.0, 100.0])


@pytest.fixture
def net(mlp):
    return mlp((3, 5, 4, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_plans_are_judged_as_one_by_one(net, objectives, task, kind):
    problem = task(net, objectives(net)[kind])
    plans = [rb.Plan.random(problem.graph, seed) for seed in range(4)]
    assert_allclose(Population(problem).judge(plans), [problem.judge(plan) for plan in plans], rtol=1e-12)
    assert Population(problem).judge([]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_soft_values_and_gradients_are_those_of_single_plans(net, objectives, task, kind):
    problem = task(net, objectives(net)[kind])
    rng = np.random.default_rng(0)
    matrices = {g: rng.random((3, n, n)) for g, n in problem.graph.groups.items()}  # any will do
    _, sample = next(iter(problem.objective.evaluation()))
    population = Population(problem)

    def single(i, here):
        return problem.soft_value(rb.SoftPlan({g: m[i] for g, m in here.items()}), sample)

    together = autograd.value_and_grad(lambda m: problem.backend.sum(WEIGHTS * population.soft_values(m, sample)))
    apart = autograd.value_and_grad(lambda m: sum(w * single(i, m) for i, w in enumerate(WEIGHTS)))
    (value, gradient), (wanted_value, wanted) = together(matrices), apart(matrices)
    assert_allclose(value, wanted_value, rtol=1e-12)
    for group in matrices:
        assert_allclose(gradient[group], wanted[group], rtol=1e-10, atol=1e-12)


def test_what_a_framework_cannot_vectorize_is_computed_plan_by_plan(net, task, monkeypatch):
    problem = task(net, rb.objectives.L2())
    population = Population(problem)
    calls = []

    def refuse(fun, x):
        calls.append(x)
        raise RuntimeError("no .item() under vmap")

    monkeypatch.setattr(type(problem.backend), "vmap", staticmethod(refuse))
    plans = [rb.Plan.random(problem.graph, seed) for seed in range(3)]
    for _ in range(2):
        assert_allclose(population.judge(plans), [problem.judge(plan) for plan in plans])
    assert len(calls) == 1


def test_a_search_never_returns_a_value_that_only_rounding_made_lower(net, objectives, task, monkeypatch):
    """Values of vectorized calls differ in the last digits from those that are compared in the end."""
    search = Search(task(net, objectives(net)["L2"]))
    monkeypatch.setattr(search.population, "judge", lambda plans: [search.best - 1e-9 for _ in plans])
    search.see_all([rb.Plan.random(search.problem.graph, 1)])
    solution = search.solution(True, "")
    assert solution.value == search.problem.judge(solution.plan)
    assert solution.value <= search.problem.judge(rb.Plan.identity(search.problem.graph))
