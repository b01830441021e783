"""Every objective with every solver, on small trained networks: the same function afterwards, nothing changed."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rebasin_core as rb
from rebasin_core.errors import DataError, SettingError

QUICK = rb.solvers.Sinkhorn(max_steps=8, num_rounds=1)
OBJECTIVES = {
    "L2": lambda data: rb.objectives.L2(),
    "cosine": lambda data: rb.objectives.Cosine(),
    "midpoint": lambda data: rb.objectives.Midpoint(nn.CrossEntropyLoss(), data),
    "random point": lambda data: rb.objectives.RandomPoint("cross_entropy", data, strata=2),
    "own": lambda data: lambda a, b: sum(((a[n] - b[n]) ** 4).sum() for n in a if a[n].is_floating_point()),
}
CASES = [(name, solver) for name in OBJECTIVES for solver in ("Sinkhorn", "WeightMatching")]


def same_function(model, other, x):
    with torch.no_grad():
        return torch.allclose(copy.deepcopy(model).eval()(x), copy.deepcopy(other).eval()(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["mlps", "conv_nets"])
@pytest.mark.parametrize(("objective", "solver"), CASES)
def test_b_moves_onto_a_as_the_same_function(request, record, family, objective, solver):
    a, b = request.getfixturevalue(family)
    data = request.getfixturevalue("blobs" if family == "mlps" else "pictures")
    graph = rb.permutation_graph(b, data[0])
    watch = record(a, b)
    chosen = QUICK if solver == "Sinkhorn" else rb.solvers.WeightMatching()
    settings = {"graph": graph, "objective": OBJECTIVES[objective](data), "solver": chosen, "progress": False}
    if solver == "WeightMatching" and objective not in ("L2", "cosine"):
        with pytest.raises(SettingError, match="cannot minimize"):
            rb.align(a, b, data[0], **settings)
        watch.check()
        return
    result = rb.align(a, b, data[0], **settings)
    watch.check()
    assert type(result.model) is type(b)
    assert result.error < 1e-4
    assert same_function(b, result.model, data[0])
    assert [m.training for m in result.model.modules()] == [m.training for m in b.modules()]
    assert result.objective <= result.initial_objective


@pytest.mark.parametrize("family", ["mlps", "conv_nets"])
def test_a_planted_permutation_is_found_bit_by_bit(request, family):
    a = request.getfixturevalue(family)[0]
    x = request.getfixturevalue("blobs" if family == "mlps" else "pictures")[0]
    graph = rb.permutation_graph(a, x)
    plan = rb.Plan.random(graph, seed=3)
    result = rb.align(a, rb.permute(a, plan, graph), x, graph=graph, solver=rb.solvers.WeightMatching(), progress=False)
    assert plan.compose(result.plan).is_identity
    for name, value in a.state_dict().items():
        assert torch.equal(value, result.model.state_dict()[name]), name
    assert result.objective == 0.0


def test_learned_plans_bring_the_barrier_down(mlps, blobs):
    a, b = mlps
    result = rb.align(
        a,
        b,
        blobs[0],
        objective=rb.objectives.RandomPoint("cross_entropy", blobs),
        progress=False,
        solver=rb.solvers.Sinkhorn(max_steps=60, num_rounds=1),
    )
    before, after = (rb.connectivity(a, m, "cross_entropy", blobs, 9, metrics=["accuracy"]) for m in (b, result.model))
    assert after.barrier < 0.5 * before.barrier
    assert after.metrics["accuracy"].min() > before.metrics["accuracy"].min()


def test_the_same_seed_gives_the_same_result_whatever_the_global_state(mlps, blobs):
    loader = DataLoader(TensorDataset(*blobs), batch_size=32, shuffle=True)
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append(
            rb.align(
                *mlps,
                blobs[0],
                objective=rb.objectives.RandomPoint("cross_entropy", loader),
                solver=QUICK,
                progress=False,
                seed=5,
            )
        )
    assert results[0].plan == results[1].plan
    assert results[0].history == results[1].history


def test_loaders_leave_the_random_state_alone(mlps, blobs, record):
    loader = DataLoader(TensorDataset(*blobs), batch_size=40, shuffle=True)
    whole = rb.connectivity(*mlps, "cross_entropy", blobs, 3)
    watch = record(*mlps)
    curve = rb.connectivity(
        *mlps, nn.CrossEntropyLoss(), loader, 3, metrics={"right": lambda o, y: (o.argmax(1) == y).float().mean()}
    )
    watch.check()
    assert torch.allclose(torch.tensor(curve.losses), torch.tensor(whole.losses), rtol=1e-5)
    assert set(curve.metrics) == {"right"}
    with pytest.raises(DataError, match="one Tensor of shape"):
        rb.connectivity(*mlps, nn.CrossEntropyLoss(), [blobs[0]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("solver", [QUICK, rb.solvers.WeightMatching()], ids=["Sinkhorn", "WeightMatching"])
def test_every_floating_dtype(mlps, blobs, dtype, solver, record):
    a, b = (copy.deepcopy(model).to(dtype) for model in mlps)
    x = blobs[0].to(dtype)
    graph = rb.permutation_graph(a, x)
    planted = rb.Plan.random(graph, seed=1)
    watch = record(a, b)
    result = rb.align(a, rb.permute(a, planted, graph), x, graph=graph, solver=solver, progress=False)
    assert planted.compose(result.plan).is_identity
    result = rb.align(
        a,
        b,
        x,
        graph=graph,
        solver=solver,
        progress=False,
        objective=rb.objectives.Midpoint("cross_entropy", (x, blobs[1])) if solver is QUICK else None,
    )
    rb.verify(a, graph, x)
    watch.check()
    for model in (result.model, result.merge(), rb.interpolate(a, b)):
        assert {p.dtype for p in model.parameters()} == {dtype}


def test_half_precision_distances_neither_overflow_nor_round():
    a = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).half()
    with torch.no_grad():
        for p in a.parameters():
            p.fill_(4.0)
    b = copy.deepcopy(a)
    with torch.no_grad():
        b[0].weight += 4.0
        b[2].bias += 0.125
    x = torch.zeros(1, 64).half()
    result = rb.align(a, b, x, graph=rb.permutation_graph(a, x), solver=rb.solvers.WeightMatching(), progress=False)
    assert result.objective == 64 * 64 * 16.0 + 64 / 64


def test_results_can_be_pickled_and_merged(mlps, blobs):
    result = rb.align(*mlps, blobs[0], solver=rb.solvers.WeightMatching(), progress=False)
    again = pickle.loads(pickle.dumps(result))
    assert again.plan == result.plan
    merged, expected = again.merge(0.25), rb.interpolate(mlps[0], result.model, 0.25)
    for x, y in zip(merged.parameters(), expected.parameters(), strict=True):
        assert torch.equal(x, y)
        assert x.requires_grad
    assert same_function(
        rb.merge(mlps, blobs[0], t=0.25, solver=rb.solvers.WeightMatching(), progress=False), merged, blobs[0]
    )


def test_merged_batch_norms_take_statistics_from_both_and_counters_from_the_first(conv_nets):
    a, b = conv_nets
    merged = rb.interpolate(a, b)
    assert torch.equal(merged[1].running_mean, 0.5 * a[1].running_mean + 0.5 * b[1].running_mean)
    assert torch.equal(merged[1].num_batches_tracked, a[1].num_batches_tracked)


def test_losses_are_named_given_or_refused(mlps, blobs):
    expected = rb.connectivity(*mlps, nn.CrossEntropyLoss(), blobs, 2).losses
    assert (rb.connectivity(*mlps, "cross_entropy", blobs, 2).losses == expected).all()
    for loss, message in (
        (nn.CrossEntropyLoss, "with brackets"),
        ("croissant", "'croissant'"),
        (None, "no loss was given"),
    ):
        with pytest.raises(SettingError, match=message):
            rb.connectivity(*mlps, loss, blobs, 2)
    with pytest.raises(SettingError, match='"accuracy", got'):
        rb.connectivity(*mlps, "cross_entropy", blobs, 2, metrics=["accurracy"])


@pytest.mark.parametrize("pin", [(), ("all",)], ids=["units move", "nothing moves"])
def test_an_alignment_stays_as_it_is_while_its_models_are_trained_on(conv_nets, pictures, pin):
    a, b = copy.deepcopy(conv_nets)
    graph = rb.permutation_graph(b, pictures[0])
    result = rb.align(a, b, graph=graph.pin(graph.groups) if pin else graph, solver="weight-matching", progress=False)
    assert pin or not result.plan.is_identity
    before = [result.merge(t).state_dict() for t in (0, 0.5, 1)]
    for model in (a, b, result.model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        nn.functional.cross_entropy(model.train()(pictures[0]), pictures[1]).backward()
        optimizer.step()
    for t, state in zip((0, 0.5, 1), before, strict=True):
        for name, value in result.merge(t).state_dict().items():
            assert torch.equal(value, state[name]), name
