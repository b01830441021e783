"""On a CUDA device: nothing leaves it, every dtype, and mixed devices are refused."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from rebasin_torch import RebasinNet
from torch import nn

import rebasin_core as rb
from rebasin_core.errors import UnsupportedModelError

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
QUICK = rb.solvers.Sinkhorn(max_steps=5, num_rounds=1)


@pytest.fixture
def pair(conv_nets):
    return tuple(copy.deepcopy(model).cuda() for model in conv_nets)


@pytest.mark.parametrize("n", [6, 300])
@pytest.mark.parametrize("stop", [{"num_iters": 7}, {"tol": 1e-10}], ids=["iterations", "tolerance"])
def test_the_operator_gives_the_same_numbers_there(n, stop):
    rng = np.random.default_rng(0)
    X, G = (torch.tensor(rng.normal(size=(2, n, n))) for _ in range(2))
    results = []
    for device in ("cpu", "cuda"):
        x = X.to(device).requires_grad_()
        tau = torch.tensor(0.5, dtype=torch.float64, device=device, requires_grad=True)
        plan = rb.sinkhorn(x, tau, **stop)
        gradients = torch.autograd.grad((plan * G.to(device)).sum(), (x, tau), create_graph=True)
        (second,) = torch.autograd.grad((gradients[0] ** 2).sum(), x)
        results.append([plan, *gradients, second])
        assert all(r.device.type == device for r in results[-1])
    for a, b in zip(*results, strict=True):
        assert_allclose(a.detach().cpu(), b.detach().cpu(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_align_keeps_device_and_dtype(pair, pictures, dtype, record):
    a, b = (model.to(dtype) for model in pair)
    x, y = pictures
    data = [(x.to(dtype), y)]  # batches on the host are moved
    random_state = torch.cuda.get_rng_state()
    watch = record(a, b)
    for objective, solver in (
        (None, rb.solvers.WeightMatching()),
        (rb.objectives.L2(), QUICK),
        (rb.objectives.RandomPoint("cross_entropy", data), QUICK),
    ):
        result = rb.align(a, b, x.to(dtype), objective=objective, solver=solver, progress=False)
        for model in (result.model, result.merge(), rb.interpolate(a, b)):
            assert {p.device.type for p in [*model.parameters(), *model.buffers()]} == {"cuda"}
            assert {p.dtype for p in model.parameters()} == {dtype}
    curve = rb.connectivity(a, result.model, "cross_entropy", data, 3, metrics=["accuracy"])
    assert np.isfinite(curve.losses).all()
    watch.check()
    assert torch.equal(torch.cuda.get_rng_state(), random_state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_statistics_are_measured_there(pair, conv_nets, pictures, dtype):
    model = copy.deepcopy(pair[0]).to(dtype)
    found = rb.reestimate(model, pictures[0].to(dtype), batch_size=16)
    expected = rb.reestimate(conv_nets[0], pictures[0], batch_size=16)
    assert {x.device.type for x in found.buffers()} == {"cuda"}
    assert found[1].running_var.dtype == dtype
    assert_allclose(found[1].running_var.double().cpu(), expected[1].running_var, rtol=0.05)


def test_weights_do_not_travel_to_the_host(pair, pictures, monkeypatch):
    a, b = pair
    graph = rb.permutation_graph(a, pictures[0])
    traveled = []
    move = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x, *args: (traveled.append(x.numel()), move(x, *args))[1])
    rb.align(a, b, graph=graph, solver=QUICK, progress=False)
    assert max(traveled) == max(n * n for n in graph.groups.values())


def test_the_network_moves_and_learns_there(conv_nets, pictures):
    model, (x, y) = conv_nets[0], pictures
    net = RebasinNet(model, rb.permutation_graph(model, x)).cuda()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y.cuda()).backward()
        optimizer.step()
    assert net(x).is_cuda
    assert {p.device.type for p in net.model().parameters()} == {"cuda"}
    assert_allclose(net.eval().cpu()(x).detach(), copy.deepcopy(model).eval()(x).detach(), rtol=1e-3, atol=1e-4)


def test_recurrent_layers_are_differentiable_in_eval_mode():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            return self.out(self.lstm(x)[0])

    a, b = Net().cuda().eval(), Net().cuda().eval()
    x = torch.randn(2, 4, 3).cuda()
    rb.align(
        a, b, x, objective=rb.objectives.Midpoint("mse_loss", (x, torch.zeros(2, 4, 2))), solver=QUICK, progress=False
    )


def test_mixed_devices_are_refused(pair, pictures):
    a, b = pair
    with pytest.raises(UnsupportedModelError, match="model A is on cuda:0, model B on cpu; move one"):
        rb.align(a, copy.deepcopy(b).cpu(), pictures[0])
    b[0].cpu()
    with pytest.raises(UnsupportedModelError, match=r"spread over several devices: '0.weight' on cpu"):
        rb.align(a, b, pictures[0])
