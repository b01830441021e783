"""A module as a function: what a call computes depends on its parameters and inputs, and on no call before."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from rebasin_torch import RebasinNet
from torch import nn
from torch.nn import functional

import rebasin_core as rb
from rebasin_core.models.model import open_model


class Folding(nn.Linear):
    """Folds its weight once and keeps it, in a way that the subclass chooses."""

    def __init__(self):
        super().__init__(3, 4)
        self.folded = None
        self.memory = {"weights": []}
        self.steps = torch.zeros(1)
        self.count = 0

    def forward(self, x):
        return functional.linear(x, self.kept(lambda: 2 * self.weight), self.bias)


class InAttribute(Folding):
    def kept(self, fold):
        if self.folded is None:
            self.folded = fold()
        return self.folded


class InNewAttribute(Folding):
    def kept(self, fold):
        if not hasattr(self, "made"):
            self.made = fold()
        return self.made


class InList(Folding):
    def kept(self, fold):
        if not self.memory["weights"]:
            self.memory["weights"].append(fold())
        return self.memory["weights"][0]


class InNewBuffer(Folding):
    def kept(self, fold):
        if "made" not in self._buffers:
            self.register_buffer("made", fold().detach())
        return self.made


class InNewModule(Folding):
    def kept(self, fold):
        if "made" not in self._modules:
            self.made = nn.ParameterList([fold().detach()])
        return self.made[0]


class InTensor(Folding):
    def kept(self, fold):
        self.steps += 1
        return fold() * self.steps


class InNumber(Folding):
    def kept(self, fold):
        self.count += 1
        return fold() * self.count


KINDS = [InAttribute, InNewAttribute, InList, InNewBuffer, InNewModule, InTensor, InNumber]


def network(kind, seed):
    torch.manual_seed(seed)
    return nn.Sequential(kind(), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_is_as_if_it_were_the_first(kind):
    models = [network(kind, seed) for seed in (0, 1)]
    x = torch.ones(5, 3)
    opened = [open_model(model) for model in models]
    graph = rb.PermutationGraph.from_axes(
        {"0.weight": "h .", "0.bias": "h", "2.weight": ". h", "2.bias": "."}, opened[0].params
    )
    forward = opened[0].forward
    for _ in range(2):
        for model in opened:
            fresh = network(kind, 2).eval()
            fresh.load_state_dict(model.params)
            assert torch.equal(forward(model.params, x), fresh(x))
    net = RebasinNet(models[1], graph).eval()
    assert torch.equal(net(x), forward(opened[1].params, x))
    assert torch.equal(net(x), forward(opened[1].params, x))
    assert sorted(net.model().state_dict()) == sorted(models[1].state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_keeps_something_between_calls_is_aligned(kind):
    a, b = network(kind, 0), network(kind, 1)
    graph = rb.PermutationGraph.from_axes(
        {"0.weight": "h .", "0.bias": "h", "2.weight": ". h", "2.bias": "."}, open_model(a).params
    )
    result = rb.align(a, b, torch.ones(5, 3), graph=graph, progress=False)
    assert torch.allclose(result.model(torch.ones(5, 3)), network(kind, 1)(torch.ones(5, 3)), atol=1e-6)


def test_a_call_that_fails_leaves_nothing_behind_either():
    class Failing(Folding):
        def kept(self, fold):
            self.count += 1
            if self.count > 1:
                raise AssertionError("called before")
            self.memory["weights"].append(1)
            return fold()

    model = open_model(network(Failing, 0))
    with pytest.raises(rb.RebasinError):
        model.forward(model.params, torch.ones(5, 7))
    model.forward(model.params, torch.ones(5, 3))


def test_calls_in_several_threads_do_not_meet():
    model = network(InAttribute, 0)
    opened = open_model(model)
    x = torch.ones(5, 3)
    params = [{name: k * value for name, value in opened.params.items()} for k in range(1, 5)]
    expected = [opened.forward(p, x) for p in params]
    barrier = threading.Barrier(4)

    def work(k):
        barrier.wait()
        return all(torch.equal(opened.forward(params[k], x), expected[k]) for _ in range(50))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
