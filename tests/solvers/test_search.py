"""Every solver starts where it is told, says what it does, and gives the best plan so far when it is stopped."""

from dataclasses import replace
from itertools import count

import pytest

import rebasin_core as rb
from rebasin_core.solvers import watch, weight_matching
from rebasin_core.solvers.resolve import SOLVERS
from rebasin_core.solvers.watch import Watch

QUICK = {
    "sinkhorn": rb.solvers.Sinkhorn(max_steps=6, num_rounds=2, num_starts=2, max_swaps=300),
    "frank-wolfe": rb.solvers.FrankWolfe(max_steps=6, max_swaps=300),
    "straight-through": rb.solvers.StraightThrough(max_steps=8),
}
CASES = [(name, "L2") for name in SOLVERS if name != "activation-matching"] + [(name, "midpoint") for name in QUICK]
every_solver = pytest.mark.parametrize(("name", "kind"), CASES)


@pytest.fixture
def problem(mlp, objectives, task):
    net = mlp((3, 6, 5, 2))
    return lambda kind, **settings: replace(task(net, objectives(net)[kind]), **settings)


def solve(name, problem):
    return QUICK.get(name, SOLVERS[name]()).solve(problem, progress=False)


def check_is_best_of_its_history(solution, problem):
    assert solution.value == problem.judge(solution.plan) == solution.history[-1].best
    assert solution.value <= problem.initial
    assert [entry.step for entry in solution.history] == list(range(len(solution.history)))
    bests = [entry.best for entry in solution.history]
    assert bests == sorted(bests, reverse=True)


@every_solver
def test_no_result_is_worse_than_the_plan_it_starts_from(problem, name, kind):
    better = rb.solvers.Sinkhorn(max_steps=20, num_rounds=1).solve(problem(kind)).plan
    for start in (better, rb.Plan.random(problem(kind).graph, 5)):
        here = problem(kind, start=start)
        assert solve(name, here).value <= here.judge(start)
        # Stopped before its first step, it has seen the identity and the start.
        stopped = solve(name, replace(here, callback=lambda entry: True))
        assert stopped.value == min(here.initial, here.judge(start))


def test_a_search_begins_at_its_start(problem):
    """With one start, too short to go far, and sharp: the first plan that is judged lies where it began."""
    here = problem("L2")
    start = rb.Plan.random(here.graph, 5)
    here = replace(here, start=start)
    sharp = rb.solvers.Sinkhorn(
        num_starts=1, init_scale=9.0, learning_rate=1e-6, max_steps=1, max_swaps=0, num_rounds=1
    )
    assert sharp.solve(here).history[1].hard == here.judge(start)
    first, _ = next(weight_matching.descend(here.graph, here.params_a, here.params_b, start, here.rng(), here.backend))
    once = rb.solvers.WeightMatching(num_starts=1, max_sweeps=1)
    assert once.solve(here).history[1].hard == here.judge(first)


@every_solver
def test_the_callback_gets_every_entry_of_the_history(problem, name, kind):
    entries = []
    solution = solve(name, problem(kind, callback=entries.append))
    assert tuple(entries) == solution.history
    assert solution == solve(name, problem(kind))


@every_solver
@pytest.mark.parametrize("steps", [0, 2])
def test_a_callback_that_returns_true_ends_the_search(problem, name, kind, steps):
    here = problem(kind, callback=lambda entry: entry.step == steps)
    solution = solve(name, here)
    assert len(solution.history) == steps + 1
    assert not solution.converged
    assert solution.stop_reason == "stopped by callback"
    check_is_best_of_its_history(solution, here)


@every_solver
@pytest.mark.parametrize("seconds", [2, 12, 40])
def test_the_best_so_far_is_returned_when_the_time_is_up(problem, monkeypatch, name, kind, seconds):
    ticks = count()
    monkeypatch.setattr(watch.time, "perf_counter", lambda: next(ticks))  # a second passes at every look
    here = problem(kind, watch=Watch(seconds))
    solution = solve(name, here)
    if solution.stop_reason == f"reached time_limit={seconds}":
        assert next(ticks) <= seconds + 3
        assert not solution.converged
    else:
        assert next(ticks) <= seconds + 3 or solution == solve(name, problem(kind))
    check_is_best_of_its_history(solution, here)


@every_solver
@pytest.mark.parametrize("after", [1, 2, 3, 7, 20])
def test_an_interrupted_search_returns_the_best_so_far(problem, monkeypatch, name, kind, after):
    """Wherever the person at the keyboard ends it, but before anything was seen."""
    here, calls = problem(kind), count(1)
    value = here.objective.value

    def interrupted(a, b, sample):
        if next(calls) == after:
            raise KeyboardInterrupt
        return value(a, b, sample)

    here = replace(here, objective=replace(here.objective, value=interrupted))
    seen = sum(1 for _ in here.objective.evaluation())
    if after <= seen:
        with pytest.raises(KeyboardInterrupt):
            solve(name, here)
        return
    solution = solve(name, here)
    if next(calls) > after:
        assert solution.stop_reason == "interrupted"
        assert not solution.converged
    check_is_best_of_its_history(solution, problem(kind))


@pytest.mark.parametrize("name", QUICK)
def test_an_interruption_of_the_matching_inside_ends_the_whole_search(problem, monkeypatch, name):
    assignments, assign = count(1), weight_matching.linear_assignment

    def interrupted(scores):
        if next(assignments) == 3:
            raise KeyboardInterrupt
        return assign(scores)

    monkeypatch.setattr(weight_matching, "linear_assignment", interrupted)
    here = problem("midpoint")
    solution = solve(name, here)
    assert solution.stop_reason == "interrupted"
    assert len(solution.history) == 1
    check = here.judge(solution.plan)
    assert solution.value == check <= here.initial


@pytest.mark.parametrize("stopped_by", ["time", "person"])
def test_the_plan_within_a_sweep_over_a_large_network_counts(residual, monkeypatch, stopped_by):
    """Of a large network no plan is judged before a start is over; the one at which it is stopped is judged then."""
    monkeypatch.setattr(weight_matching, "SMALL", 0)
    a, graph = residual(3)
    b = rb.permute(a, rb.Plan.random(graph, 1), graph)
    problem = weight_matching.Problem(graph, a, b, rb.objectives.L2().on(graph))
    groups, check = count(1), Watch.check

    def interrupted(self):
        if next(groups) == 4:
            if stopped_by == "person":
                raise KeyboardInterrupt
            self.end("late")
        check(self)

    monkeypatch.setattr(Watch, "check", interrupted)
    solution = rb.solvers.WeightMatching().solve(problem)
    assert solution.stop_reason == {"time": "late", "person": "interrupted"}[stopped_by]
    assert 0 < solution.value < problem.initial
    check_is_best_of_its_history(solution, problem)
