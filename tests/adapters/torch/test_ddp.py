"""Two processes on the CPU: gradients of the logits are averaged, and both learn the same plan."""

import socket

import pytest
import torch
import torch.distributed
from rebasin_torch import RebasinNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import rebasin_core as rb

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")


def make_net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    axes = {
        "0.weight": "h .",
        "0.bias": "h",
        **{f"1.{n}": "h" for n in ("weight", "bias", "running_mean", "running_var")},
        "1.num_batches_tracked": "",
        "3.weight": ". h",
        "3.bias": ".",
    }
    graph = rb.PermutationGraph.from_axes(
        axes, model.state_dict(), buffers=["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    )
    x = torch.randn(8, 4)
    return RebasinNet(model, graph), x, torch.randn(8, 2)


def steps(net, x, y):
    optimizer = torch.optim.SGD(net.parameters(), lr=10.0)
    for _ in range(3):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()


def worker(rank, port, results):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    try:
        net, x, y = make_net()
        wrapped = DistributedDataParallel(net)
        half = slice(4 * rank, 4 * rank + 4)
        steps(wrapped, x[half], y[half])
        results[rank] = {name: p.detach().tolist() for name, p in net.named_parameters()}
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_do_what_one_does_with_all_the_data():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(worker, (port, results), nprocs=2)
        found = dict(results)
    net, x, y = make_net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    steps(net, x, y)
    assert found[0] == found[1]
    for name, p in net.named_parameters():
        assert not torch.allclose(p, before[name])
        assert torch.allclose(torch.tensor(found[0][name]), p, rtol=1e-4, atol=1e-6)
