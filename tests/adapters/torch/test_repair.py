"""REPAIR of modules: which layers are repaired, and that their statistics are then what they should be."""

import copy

import pytest
import torch
from rebasin_torch.unit_layers import unit_layers
from torch import nn
from torch.testing import assert_close

import rebasin_core as rb
from rebasin_core.errors import UnsupportedModelError

MATCHING = {"solver": rb.solvers.WeightMatching(), "progress": False}


class Layers(nn.Module):
    """One of every kind: with a bias and without, a norm, channels before units, tied weights, a layer of no group."""

    def __init__(self):
        super().__init__()
        self.stem, self.bare = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 6, 3, bias=False)
        self.up, self.norm = nn.ConvTranspose2d(6, 4, 2), nn.BatchNorm2d(4)
        self.wide, self.scale = nn.Linear(4, 7), nn.LayerNorm(7)
        self.tied, self.again = nn.Linear(7, 7), nn.Linear(7, 7)
        self.again.weight = self.tied.weight
        self.unused, self.head = nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x):  # (n, 2, 6, 6)
        x = torch.relu(self.bare(torch.relu(self.stem(x))))
        x = torch.tanh(self.norm(self.up(x))).mean((2, 3))
        x = self.scale(torch.relu(self.wide(x)))
        return self.head(x + torch.tanh(self.again(torch.tanh(self.tied(x)))))


REPAIRED = ("stem", "bare", "up", "norm", "wide", "scale")


@pytest.fixture(scope="module")
def data():
    return torch.randn(50, 2, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.fixture(scope="module")
def ends():
    return scrambled(Layers(), 0), scrambled(Layers(), 1)


def scrambled(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in (*model.named_parameters(), *model.named_buffers()):
            if x.is_floating_point():
                values = torch.rand(x.shape, generator=generator)
                x.copy_(values + 0.5 if "var" in name or "norm" in name else 2.0 * values - 1.0)
    return model.double()


def outputs(model, x):
    """What every layer gives, (samples and places, units), by hooks of the test's own."""
    model, seen = copy.deepcopy(model).eval(), {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda m, i, y, name=name: seen.update({name: y.transpose(0, 1).flatten(1).T}))
    with torch.no_grad():
        model(x.to(next(model.parameters()).dtype))
    return seen


def test_statistics_are_those_between_the_networks(ends, data, record):
    merged = rb.interpolate(*ends, 0.25)
    watch = record(merged, *ends)
    found = rb.repair(merged, ends, data.double(), weights=[3, 1], batch_size=16)
    watch.check()
    a, b, now = (outputs(model, data) for model in (*ends, found))
    for name in REPAIRED:
        wanted = [0.75 * moment(a[name]) + 0.25 * moment(b[name]) for moment in (mean, deviation)]
        assert_close(deviation(now[name]), wanted[1], rtol=1e-9, atol=1e-9)
        if name == "bare":
            ratio = found.bare.weight / merged.bare.weight
            assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))
        else:
            assert_close(mean(now[name]), wanted[0], rtol=1e-9, atol=1e-9)
    for name, x in merged.state_dict().items():
        if name.partition(".")[0] not in REPAIRED or "running" in name:
            assert torch.equal(x, found.state_dict()[name]), name
    assert found.again.weight is found.tied.weight


def mean(x):
    return x.mean(0)


def deviation(x):
    return x.std(0, correction=0)


def test_layers_are_told_in_the_order_in_which_they_compute(ends, data):
    graph = rb.permutation_graph(ends[0], data.double())
    found = unit_layers(ends[0], graph)
    assert set(REPAIRED) <= set(found.layers) <= {*REPAIRED, "unused"}
    assert [name for name, _ in found.outputs(ends[0].state_dict(), data.double())] == list(REPAIRED)
    assert not any(x.requires_grad for _, x in found.outputs(dict(ends[0].named_parameters()), data.double()))
    assert found.layers["up"].axis == 1
    assert found.layers["bare"].bias is None


def test_a_layer_called_twice_is_measured_over_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, left, right):
            return self.head(torch.relu(self.hidden(left)) * torch.relu(self.hidden(right)))

    a, b = scrambled(Twice(), 0), scrambled(Twice(), 1)
    left, right = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = rb.repair(rb.interpolate(a, b), [a, b], [((left, right), None)])
    pooled = torch.cat([left, right])
    wanted, now = (model.hidden(pooled).detach() for model in (a, b)), found.hidden(pooled).detach()
    wanted = tuple(wanted)
    for moment in (mean, deviation):
        assert_close(moment(now), (moment(wanted[0]) + moment(wanted[1])) / 2)


def test_what_follows_in_place_is_not_seen(blobs):
    a, b = (scrambled(nn.Sequential(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 2)), s) for s in (0, 1))
    x = blobs[0].double()
    found = rb.repair(rb.interpolate(a, b), [a, b], x)
    ends = [deviation(model[0](x)) for model in (a, b)]
    assert_close(deviation(found[0](x)), (ends[0] + ends[1]) / 2)


def test_half_precision_is_measured_in_single(data):
    a, b = (scrambled(nn.Sequential(nn.Linear(72, 9), nn.ReLU(), nn.Linear(9, 2)), s).bfloat16() for s in (0, 1))
    x = data.flatten(1).bfloat16()
    found = rb.repair(rb.interpolate(a, b), [a, b], x)
    assert found[0].weight.dtype == found[0].bias.dtype == torch.bfloat16
    ends = [deviation(model[0](x).float()) for model in (a, b)]
    assert_close(deviation(found[0](x).float()), (ends[0] + ends[1]) / 2, rtol=0.03, atol=0.0)


def test_both_remedies_together_leave_the_statistics_exact(conv_nets, pictures):
    """Re-estimated statistics come first, so that what is repaired behind them is what will be computed."""
    result = rb.align(*conv_nets, pictures[0][:2], **MATCHING)
    found = result.merge(reestimate=pictures[0], repair=pictures[0], batch_size=24)
    a, b, now = (outputs(model, pictures[0]) for model in (conv_nets[0], result.model, found))
    for name in ("0", "1", "3", "4"):
        assert_close(deviation(now[name]), (deviation(a[name]) + deviation(b[name])) / 2, rtol=1e-3, atol=1e-4)


def test_a_module_without_such_layers_is_refused(blobs):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w1, self.w2 = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(3, 5))

        def forward(self, x):
            return torch.relu(x @ self.w1.T) @ self.w2.T

    with pytest.raises(UnsupportedModelError, match="no layer of this Bare can be repaired"):
        rb.repair(Bare(), [Bare(), Bare()], blobs)
