"""Statistics of batch normalization: re-estimated, and replaced by those of the batch where a gradient is to flow."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import rebasin_core as rb
from rebasin_core.errors import DataError, NonFiniteError, SpecError
from rebasin_core.models.model import find_adapter, open_model

Midpoint, RandomPoint = rb.objectives.Midpoint, rb.objectives.RandomPoint


def statistics(model):
    return {name: x for name, x in model.named_buffers() if "running" in name or "tracked" in name}


def same_state(a, b, **tolerance):
    assert list(a.state_dict()) == list(b.state_dict())
    for name, x in a.state_dict().items():
        assert_allclose(x.double(), b.state_dict()[name].double(), err_msg=name, **tolerance)


def by_torch(model, batches):
    """What torch's own function makes of a copy; it leaves dropout on, so that is taken out."""
    expected = copy.deepcopy(model)
    for module in expected.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    update_bn(batches, expected)
    return expected


class Corners(nn.Module):
    """A norm called twice, one under two names, one never called, one per process, and others that only look alike."""

    def __init__(self):
        super().__init__()
        self.twice, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.named = self.again = nn.BatchNorm1d(4, momentum=None, affine=False)
        self.unused = nn.BatchNorm1d(4)
        self.synced = nn.SyncBatchNorm(4)
        self.instance = nn.InstanceNorm1d(4, track_running_stats=True)
        self.stateless = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x):  # (n, 4, 5)
        x = self.drop(torch.tanh(self.twice(x)))
        x = torch.relu(self.twice(2.0 * x + 1.0))
        x = self.again(self.named(input=x))
        return self.stateless(self.synced(self.instance(x) + x))


@pytest.fixture
def corners():
    torch.manual_seed(0)
    model = Corners().eval()
    for name, x in model.named_buffers():
        x.copy_(torch.rand(4) + 0.5 if "running" in name else torch.tensor(7))
    return model, torch.randn(12, 4, 5)


# --- measuring --------------------------------------------------------------------------------------------------------
def test_mean_and_variance_by_hand():
    """Mean over the batches, whatever their size; the variance of a batch with divisor n - 1."""
    model = nn.Sequential(nn.BatchNorm1d(2))
    first, second = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[2.0, 1.0], [2.0, 1.0], [5.0, 4.0]])
    found = rb.reestimate(model, [(first, None), (second, None)])
    assert_allclose(found[0].running_mean, [(2 + 3) / 2, (2 + 2) / 2])
    assert_allclose(found[0].running_var, [(2 + 3) / 2, (8 + 3) / 2])
    assert found[0].num_batches_tracked == 2
    assert found[0].momentum == 0.1


@pytest.mark.parametrize("batch_size", [12, 4, 5])
def test_the_result_is_that_of_torchs_own_update_without_dropout(conv_nets, pictures, batch_size):
    model, (x, y) = conv_nets[0], pictures
    same_state(
        rb.reestimate(model, (x, y), batch_size=batch_size), by_torch(model, x.split(batch_size)), rtol=1e-5, atol=1e-6
    )


def test_only_batch_norms_with_statistics_that_are_reached_are_measured(corners, record):
    model, x = corners
    watch = record(model)
    found = rb.reestimate(model, x, batch_size=4)
    watch.check()
    expected = by_torch(model, x.split(4))
    expected.unused.load_state_dict(model.unused.state_dict())  # torch resets it; here it keeps what it has
    expected.instance.load_state_dict(model.instance.state_dict())
    # torch normalizes the instances by themselves meanwhile: behind them, it sees other values.
    expected.synced.load_state_dict(found.synced.state_dict())
    same_state(found, expected, rtol=1e-4, atol=1e-6)
    assert not torch.equal(found.synced.running_mean, model.synced.running_mean)
    assert found.twice.num_batches_tracked == 6
    assert found.named is found.again


def test_statistics_that_fit_the_data_stay_as_they_are(conv_nets, pictures):
    model = by_torch(conv_nets[0], pictures[0].split(16))
    once = rb.reestimate(model, pictures, batch_size=16)
    same_state(once, model, rtol=1e-5, atol=1e-6)
    same_state(rb.reestimate(once, pictures, batch_size=16), once, rtol=0)


def test_permuting_and_measuring_commute(conv_nets, pictures):
    model = conv_nets[0]
    graph = rb.permutation_graph(model, pictures[0])
    plan = rb.Plan.random(graph, seed=3)
    one = rb.reestimate(rb.permute(model, plan, graph), pictures, batch_size=20)
    other = rb.permute(rb.reestimate(model, pictures, batch_size=20), plan, graph)
    same_state(one, other, rtol=1e-4, atol=1e-6)
    assert not torch.equal(one[1].running_mean, model[1].running_mean)


def test_the_model_its_mode_and_the_random_state_are_left_alone(conv_nets, pictures, record):
    model = conv_nets[0]
    loader = DataLoader(TensorDataset(*pictures), batch_size=12, shuffle=True)
    watch = record(*conv_nets)
    found = rb.reestimate(model, loader)
    rb.connectivity(*conv_nets, "cross_entropy", loader, 3, reestimate=True)
    rb.interpolate(*conv_nets, reestimate=loader)
    watch.check()
    assert [m.training for m in found.modules()] == [m.training for m in model.modules()]
    assert all(p.requires_grad for p in found.parameters())
    assert not {x.data_ptr() for x in found.buffers()} & {x.data_ptr() for x in model.buffers()}


def test_without_batch_normalization_the_copy_is_the_model(mlps, blobs):
    found = rb.reestimate(mlps[0], blobs)
    same_state(found, mlps[0], rtol=0)
    assert found is not mlps[0]
    assert found[0].weight.data_ptr() != mlps[0][0].weight.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_are_kept(conv_nets, pictures, dtype):
    model = copy.deepcopy(conv_nets[0]).to(dtype)
    found = rb.reestimate(model, pictures[0].to(dtype), batch_size=16)
    assert found[1].running_var.dtype == dtype
    assert_allclose(found[1].running_var.double(), rb.reestimate(conv_nets[0], pictures)[1].running_var, rtol=0.05)


def test_callers_may_switch_gradients_off(conv_nets, pictures):
    expected = rb.reestimate(conv_nets[0], pictures)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found = rb.reestimate(conv_nets[0], pictures)
        same_state(found, expected, rtol=0)
        assert not found[1].running_mean.is_inference()


def test_what_has_no_variance_or_is_not_finite_is_refused(record):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    watch = record(model)
    with pytest.raises(DataError, match=r"more than one value per channel, and got \[1, 4\].*batch_size"):
        rb.reestimate(model, torch.ones(5, 3), batch_size=2)
    with pytest.raises(NonFiniteError, match=r"'1.running_mean' came out as NaN"):
        rb.reestimate(model, torch.full((4, 3), torch.nan))
    with pytest.raises(DataError, match=r"cannot compute with inputs \(float32\[4, 2\]\)"):
        rb.reestimate(model, torch.zeros(4, 2))
    with pytest.raises(DataError, match="this needs data"):
        rb.reestimate(model, None)
    watch.check()


# --- the line ---------------------------------------------------------------------------------------------------------
def test_interpolating_and_merging_measure_on_the_way(conv_nets, pictures):
    a, b = conv_nets
    how = {"reestimate": pictures, "batch_size": 16}
    same_state(rb.interpolate(a, b, 0.3, **how), rb.reestimate(rb.interpolate(a, b, 0.3), pictures, batch_size=16))
    settings = {"solver": rb.solvers.WeightMatching(), "progress": False}
    result = rb.align(a, b, pictures[0], **settings)
    merged = result.merge(0.3, **how)
    same_state(merged, rb.reestimate(result.merge(0.3), pictures, batch_size=16))
    same_state(rb.merge([a, b], pictures[0], t=0.3, **how, **settings), merged)
    assert not torch.equal(merged[1].running_mean, result.merge(0.3)[1].running_mean)


def test_the_curve_is_the_loss_of_networks_measured_anew_at_every_place(conv_nets, pictures):
    (a, b), (x, y) = conv_nets, pictures
    curve = rb.connectivity(a, b, "cross_entropy", pictures, 3, batch_size=16, reestimate=True)
    for t, loss in zip(curve.lambdas, curve.losses, strict=True):
        model = rb.interpolate(a, b, t, reestimate=pictures, batch_size=16).eval()
        with torch.no_grad():
            assert_allclose(nn.functional.cross_entropy(model(x), y), loss, rtol=1e-5)
    other = rb.connectivity(a, b, "cross_entropy", pictures, 3, batch_size=16, reestimate=iter([(x, None)]))
    whole = rb.connectivity(a, b, "cross_entropy", iter([pictures]), 3, reestimate=True)
    assert_allclose(other.losses, whole.losses, rtol=1e-5)
    plain = rb.connectivity(a, b, "cross_entropy", pictures, 3)
    assert not np.allclose(plain.losses[1], curve.losses[1])


def test_measuring_brings_the_barrier_down(build):
    """The finding of REPAIR and Git Re-Basin, on two small networks that were trained from two seeds."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x = torch.tensor(digits.images[:600, None] / 16.0, dtype=torch.float32)
    y = torch.tensor(digits.target[:600])

    def network():
        layers = []
        for n in (1, 12, 12, 12):
            layers += [nn.Conv2d(n, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(192, 10))

    a, b = (build.train(network, x, y, seed, steps=40) for seed in (0, 1))
    rebased = rb.align(a, b, x, solver=rb.solvers.WeightMatching(), progress=False).model
    plain, repaired = (
        rb.connectivity(a, rebased, "cross_entropy", (x, y), 5, metrics=["accuracy"], reestimate=how)
        for how in (None, True)
    )
    assert repaired.barrier < 0.8 * plain.barrier
    assert repaired.at(0.5)["accuracy"] > plain.at(0.5)["accuracy"]


# --- objectives -------------------------------------------------------------------------------------------------------
def written_by_hand(p, x):
    for i in (0, 3):
        bias = p.get(f"{i}.bias")
        x = nn.functional.conv2d(x, p[f"{i}.weight"], bias, padding=1)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        weight, bias = (p[f"{i + 1}.{name}"].reshape(1, -1, 1, 1) for name in ("weight", "bias"))
        x = torch.relu((x - mean) / torch.sqrt(var + 1e-5) * weight + bias)
    x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
    return x @ p["9.weight"].T + p["9.bias"]


def gradient(function, params):
    leaves = {name: x.detach().clone().requires_grad_() for name, x in params.items() if "weight" in name}
    value = function({**params, **leaves})
    return value, dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))


@pytest.mark.parametrize("normalization", [None, "batch"])
def test_values_and_gradients_are_those_of_a_pass_written_by_hand(conv_nets, pictures, record, normalization):
    a, b = (open_model(model) for model in conv_nets)
    watch = record(*conv_nets)
    bound = Midpoint("cross_entropy", pictures, normalization=normalization).bind(b, None)
    found, gradients = gradient(lambda p: bound.value(a.params, p, pictures), b.params)

    def by_hand(p):
        middle = {name: 0.5 * (x + p[name]) for name, x in a.params.items()}
        return nn.functional.cross_entropy(written_by_hand(middle, pictures[0]), pictures[1])

    value, expected = gradient(by_hand, b.params)
    watch.check()
    assert_allclose(found.detach(), value.detach(), rtol=1e-5)
    for name, g in expected.items():
        assert_allclose(gradients[name], g, rtol=1e-3, atol=1e-6, err_msg=name)


def test_running_statistics_are_used_when_asked_for(conv_nets, pictures):
    a, b = (open_model(model) for model in conv_nets)
    bound = RandomPoint("cross_entropy", pictures, normalization="running").bind(b, None)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(rb.interpolate(*conv_nets, 0.25).eval()(pictures[0]), pictures[1])
        assert_allclose(bound.value(a.params, b.params, (pictures, 0.25)), expected, rtol=1e-5)


def test_the_batch_stands_for_statistics_measured_on_it(conv_nets, pictures):
    """Up to the divisor of the variance, n against n - 1."""
    a, b = (open_model(model) for model in conv_nets)
    bound = RandomPoint("cross_entropy", pictures, normalization="batch").bind(b, None)
    with torch.no_grad():
        model = rb.interpolate(*conv_nets, 0.25, reestimate=pictures).eval()
        expected = nn.functional.cross_entropy(model(pictures[0]), pictures[1])
        assert_allclose(bound.value(a.params, b.params, (pictures, 0.25)), expected, rtol=1e-2)


def test_many_networks_at_once(conv_nets, pictures):
    """Under ``torch.func.vmap``, with its gradients: nothing is done in place."""
    norms = find_adapter(conv_nets[0]).batch_norms(conv_nets[0])
    params = [open_model(model).params for model in conv_nets]
    stacked = {name: torch.stack([p[name] for p in params]) for name in params[0]}
    x, y = pictures

    def loss(p):
        return nn.functional.cross_entropy(norms.forward(p, x), y)

    outputs = torch.func.vmap(lambda p: norms.forward(p, x))(stacked)
    measured = torch.func.vmap(lambda p: norms.measure(p, x), randomness="different")(stacked)
    weights = {name: stacked[name] for name in stacked if "weight" in name}
    gradients = torch.func.vmap(torch.func.grad(lambda w: loss({**params[0], **w})))(weights)
    for i, p in enumerate(params):
        assert_allclose(outputs[i].detach(), norms.forward(p, x), rtol=1e-4, atol=1e-4)
        for name, statistic in norms.measure(p, x).items():
            assert_allclose(measured[name][i], statistic, rtol=1e-4, atol=1e-5)
    _, expected = gradient(loss, params[0])
    for name, g in expected.items():
        assert_allclose(gradients[name][0], g, rtol=1e-3, atol=1e-5)


def test_an_alignment_by_the_loss_with_batch_normalization(conv_nets, pictures, record):
    watch = record(*conv_nets)
    result = rb.align(
        *conv_nets,
        pictures[0],
        objective=RandomPoint("cross_entropy", pictures),
        solver=rb.solvers.Sinkhorn(max_steps=5, num_rounds=1),
        progress=False,
    )
    watch.check()
    assert result.objective <= result.initial_objective
    with pytest.raises(DataError, match=r"normalization='running'"):
        rb.align(
            *(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)) for _ in range(2)),
            torch.zeros(2, 2),
            objective=Midpoint("cross_entropy", (torch.zeros(3, 2), torch.zeros(3).long()), batch_size=2),
            progress=False,
        )


def test_a_forward_of_ones_own_has_no_statistics_to_measure(conv_nets, pictures):
    with pytest.raises(SpecError, match="forward= of your own"):
        rb.connectivity(*conv_nets, "cross_entropy", pictures, 2, forward=lambda p, x: x, reestimate=True)
