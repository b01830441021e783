"""Several networks in one common order: laws of the plans, of the spread and of the mean."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import EquivalenceError, NonFiniteError, SettingError, ShapeError

QUIET = {"progress": False}
QUICK = rb.solvers.Sinkhorn(max_steps=2, num_rounds=1, max_swaps=0)
METHODS = ("iterative", "cycle", "star")


@pytest.fixture
def networks(mlp):
    net = mlp((3, 7, 6, 2))
    return net, net.graph(), [net.params(seed) for seed in (1, 2, 3, 4)]


def spread(networks, plans, graph, weights):
    moved = [plan.apply(params, graph) for plan, params in zip(plans, networks, strict=True)]
    mean = {name: sum(w * m[name] for w, m in zip(weights, moved, strict=True)) for name in moved[0]}
    return sum(
        w * sum(((m[name] - mean[name]) ** 2).sum() for name in mean) for w, m in zip(weights, moved, strict=True)
    )


@pytest.mark.parametrize("method", METHODS)
def test_permuted_copies_are_brought_together(networks, method):
    _, graph, (a, *_) = networks
    plans = [rb.Plan.random(graph, seed) for seed in (1, 2, 3)]
    found = rb.align_many([a, *(rb.permute(a, p, graph) for p in plans)], graph=graph, method=method, **QUIET)
    assert found.plans == (rb.Plan.identity(graph), *(p.inverse() for p in plans))
    assert_allclose(found.spread, 0.0, atol=1e-20)
    for name, x in found.merge().items():
        assert_allclose(x, a[name])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", [None, [1, 2, 3, 4]])
def test_the_spread_is_what_it_says_and_never_rises(networks, method, weights):
    net, graph, models = networks
    inputs = net.inputs()
    found = rb.align_many(models, inputs, graph=graph, method=method, weights=weights, forward=net.forward, **QUIET)
    shares = np.full(4, 0.25) if weights is None else np.array(weights) / 10
    assert_allclose(found.weights, shares)
    assert_allclose(found.spread, spread(models, found.plans, graph, shares))
    assert_allclose(found.initial_spread, spread(models, [rb.Plan.identity(graph)] * 4, graph, shares))
    assert np.all(np.diff(found.history) <= 1e-12)
    assert found.spread < found.initial_spread
    assert found.converged
    assert found.plans[0] == rb.Plan.identity(graph)
    for model, plan, params in zip(found.models, found.plans, models, strict=True):
        assert_allclose(net.forward(model, inputs), net.forward(params, inputs))
        for name, x in plan.apply(params, graph).items():
            assert_allclose(model[name], x)
    assert f"4 networks, {method}" in str(found)


@pytest.mark.parametrize("seed", range(5))
def test_more_work_never_ends_farther_apart(mlp, seed):
    net = mlp((3, 8, 7, 2))
    models = [net.params(10 * seed + i) for i in range(4)]
    star, iterative, cycle = (
        rb.align_many(models, graph=net.graph(), method=method, **QUIET).spread for method in ("star", *METHODS[:2])
    )
    assert cycle <= iterative * (1 + 1e-12)
    assert iterative <= star * (1 + 1e-12)


def test_a_star_that_ends_farther_apart_says_so(mlp):
    """Near the first network is not near the others: the spread is that of the plans, also where it rose."""
    net, weights = mlp((1, 3, 1)), [0.2] * 5
    models = [net.params(410 + i) for i in range(5)]
    found = rb.align_many(models, graph=net.graph(), method="star", **QUIET)
    assert found.spread > found.initial_spread
    assert_allclose(found.spread, spread(models, found.plans, net.graph(), weights))


def test_two_networks_end_where_weight_matching_does(networks):
    _, graph, (a, b, *_) = networks
    pair = rb.align(a, b, graph=graph, solver=rb.solvers.WeightMatching(), **QUIET)
    found = rb.align_many([a, b], graph=graph, **QUIET)
    # The spread of two is a quarter of their squared distance.
    assert found.spread <= pair.objective / 4 * (1 + 1e-12)


def test_merging_many_is_the_weighted_mean_of_the_re_based_networks(networks):
    _, graph, models = networks
    found = rb.align_many(models, graph=graph, weights=[4, 3, 2, 1], **QUIET)
    merged = rb.merge(models, graph=graph, weights=[4, 3, 2, 1], **QUIET)
    for name, x in merged.items():
        assert_allclose(x, sum(w * m[name] for w, m in zip([0.4, 0.3, 0.2, 0.1], found.models, strict=True)))


def test_two_with_weights_are_a_place_on_the_line(networks):
    _, graph, (a, b, *_) = networks
    for name, x in rb.merge([a, b], graph=graph, weights=[7, 3], **QUIET).items():
        assert_allclose(x, rb.merge([a, b], graph=graph, t=0.3, **QUIET)[name])


# A new interpreter per process: a fork of this one would carry the threads of the frameworks that other tests loaded.
SPAWNING = partial(ProcessPoolExecutor, mp_context=get_context("spawn"))


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, SPAWNING], ids=["threads", "processes"])
def test_pairs_are_aligned_by_an_executor_with_the_same_result(networks, pool):
    _, graph, models = networks
    alone = rb.align_many(models, graph=graph, method="star", **QUIET)
    with pool(2) as executor:
        assert rb.align_many(models, graph=graph, method="star", executor=executor, **QUIET).plans == alone.plans


def test_a_star_takes_any_objective(networks, mse):
    net, graph, models = networks
    objective = rb.objectives.Midpoint(mse, net.data())
    settings = {"graph": graph, "objective": objective, "forward": net.forward, **QUIET}
    solver = rb.solvers.Sinkhorn(max_steps=3, num_rounds=1, max_swaps=0)
    found = rb.align_many(models[:3], net.inputs(), method="star", solver=solver, **settings)
    alone = rb.align(models[0], models[2], net.inputs(), solver=solver, **settings)
    assert found.plans[2] == alone.plan
    with pytest.raises(SettingError, match=r'pass method="star"'):
        rb.align_many(models, method="iterative", **settings)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_minimized_and_how_it_ended_is_told(networks, method):
    net, graph, models = networks
    inputs = net.inputs()
    found = rb.align_many(models, inputs, graph=graph, method=method, forward=net.forward, **QUIET)
    assert found.error < 1e-12
    pairs = [
        rb.align(models[0], model, graph=graph, solver=rb.solvers.WeightMatching(), **QUIET) for model in models[1:]
    ]
    if method == "star":
        assert_allclose(found.objective, np.mean([pair.objective for pair in pairs]))
        assert_allclose(found.initial_objective, np.mean([pair.initial_objective for pair in pairs]))
        assert found.stop_reason == "; ".join(dict.fromkeys(pair.stop_reason for pair in pairs))
    else:
        assert (found.objective, found.initial_objective) == (found.spread, found.initial_spread)
        assert found.stop_reason == "no plan changed any more"
    assert rb.align_many(models, graph=graph, method=method, **QUIET).error is None


def test_a_search_that_was_cut_short_says_so(networks, mse):
    net, graph, models = networks
    settings = {"graph": graph, "forward": net.forward, **QUIET}
    solver = rb.solvers.Sinkhorn(max_steps=1, num_rounds=1, max_swaps=0)
    objective = rb.objectives.Midpoint(mse, net.data())
    pairs = [rb.align(models[0], model, objective=objective, solver=solver, **settings) for model in models[1:]]
    found = rb.align_many(models, method="star", objective=objective, solver=solver, **settings)
    assert found.converged == all(pair.converged for pair in pairs)
    assert found.stop_reason == "; ".join(dict.fromkeys(pair.stop_reason for pair in pairs))


@pytest.mark.parametrize("method", METHODS)
def test_a_result_does_not_change_with_the_networks_it_was_made_of(networks, method):
    _, graph, models = networks
    found = rb.align_many(models, graph=graph, method=method, **QUIET)
    before = found.merge()
    for params in models:
        for x in params.values():
            x[...] = 0.0
    for name, x in found.merge().items():
        assert_array_equal(x, before[name])


def test_a_result_is_told_in_a_line(networks):
    _, graph, models = networks
    assert len(repr(rb.align_many(models, graph=graph, **QUIET))) < 150


def test_other_weights_need_no_other_search(networks):
    _, graph, models = networks
    found = rb.align_many(models, graph=graph, **QUIET)
    for name, x in found.merge(weights=[1, 1, 1, 5]).items():
        assert_allclose(x, sum(w * m[name] for w, m in zip([1, 1, 1, 5], found.models, strict=True)) / 8)
    with pytest.raises(SettingError, match="pass weights="):
        found.merge(t=0.5)


def test_errors_name_the_network_by_its_place(networks, mse):
    net, graph, models = networks
    with pytest.raises(NonFiniteError, match="'w1' of model 3"):
        rb.align_many([*models[:2], {**models[2], "w1": models[2]["w1"] * np.nan}, models[3]], graph=graph, **QUIET)
    with pytest.raises(ShapeError, match=r"in model 1 and .* in model 4"):
        rb.align_many([*models[:3], {**models[3], "w1": np.ones((2, 2))}], graph=graph, **QUIET)

    def uneven(params, x):
        return net.forward(params, x) + params["w2"][0, 0] * (params["mark"] == 3)

    axes = {**net.axes(), "mark": ""}
    marked = [{**params, "mark": np.array(float(i == 2) * 3)} for i, params in enumerate(models)]
    graph = rb.PermutationGraph.from_axes(axes, marked[0])
    for settings in ({}, {"method": "star", "objective": rb.objectives.Midpoint(mse, net.data()), "solver": QUICK}):
        with pytest.raises(EquivalenceError, match="not the same function as model 3"):
            rb.align_many(marked, net.inputs(), graph=graph, forward=uneven, **settings, **QUIET)


def test_nothing_is_changed(networks, unchanged):
    _, graph, models = networks
    with unchanged(*models):
        rb.merge(models, graph=graph, **QUIET)


def test_bad_input_is_refused(networks):
    net, graph, models = networks
    for settings, message in (
        ({"weights": [1, 2]}, "4 positive numbers"),
        ({"weights": [1, 1, 1, -1]}, "4 positive numbers"),
        ({"weights": "abcd"}, "4 positive numbers"),
        ({"method": "best"}, "expected method as one of"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(SettingError, match=message):
            rb.align_many(models, graph=graph, **settings, **QUIET)
    with pytest.raises(SettingError, match="expected at least two models, got 1"):
        rb.align_many(models[:1], graph=graph, **QUIET)
    wrong = rb.PermutationGraph.from_axes({**net.axes(), "b0": "."}, models[0])
    with pytest.raises(EquivalenceError, match="not the same function"):
        rb.align_many(models, net.inputs(), graph=wrong, forward=net.forward, **QUIET)
