"""Frank-Wolfe and the straight-through estimator on trained torch networks."""

import copy

import pytest
import torch

import rebasin_core as rb

SOLVERS = {
    "FrankWolfe": rb.solvers.FrankWolfe(max_steps=50),
    "StraightThrough": rb.solvers.StraightThrough(),
}
OBJECTIVES = {
    "midpoint": lambda data: rb.objectives.Midpoint("cross_entropy", data),
    "random point": lambda data: rb.objectives.RandomPoint("cross_entropy", data, strata=3),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_loss_is_brought_below_that_of_weight_matching(mlps, blobs, record, objective, solver):
    a, b = mlps
    watch = record(a, b)
    matched = rb.align(a, b, blobs[0], solver=rb.solvers.WeightMatching(), progress=False).model
    settings = {"objective": OBJECTIVES[objective](blobs), "progress": False}
    result = rb.align(a, b, blobs[0], solver=SOLVERS[solver], **settings)
    watch.check()
    before = rb.align(a, matched, blobs[0], solver=rb.solvers.StraightThrough(max_steps=1), **settings)
    assert result.objective < before.initial_objective < result.initial_objective
    assert result.error < 1e-4
    bests = [entry.best for entry in result.history]
    assert bests == sorted(bests, reverse=True)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_planted_permutation_is_found_by_the_distance(mlps, blobs, solver, dtype):
    a = copy.deepcopy(mlps[0]).to(dtype)
    graph = rb.permutation_graph(a, blobs[0].to(dtype))
    plan = rb.Plan.random(graph, seed=3)
    b = rb.permute(a, plan, graph)
    result = rb.align(a, b, graph=graph, solver=SOLVERS[solver], progress=False)
    assert plan.compose(result.plan).is_identity
    assert {x.dtype for x in result.model.parameters()} == {dtype}


def test_batch_norm_statistics_move_with_their_channels(conv_nets, pictures, record):
    a, b = conv_nets
    watch = record(a, b)
    for solver in SOLVERS.values():
        objective = rb.objectives.Midpoint("cross_entropy", pictures)
        result = rb.align(a, b, pictures[0], objective=objective, solver=solver, progress=False)
        assert result.error < 1e-4
        assert result.objective <= result.initial_objective
    watch.check()
