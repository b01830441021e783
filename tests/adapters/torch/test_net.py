"""`RebasinNet`: a module whose parameters are the logits, at home wherever modules are."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from rebasin_torch import RebasinNet
from torch import nn

import rebasin_core as rb
from rebasin_core.errors import PlanError, SettingError, ShapeError, SpecError, UnsupportedModelError


@pytest.fixture
def net(mlps, blobs):
    return RebasinNet(mlps[1], rb.permutation_graph(mlps[1], blobs[0]))


@pytest.fixture
def conv(conv_nets, pictures):
    model = copy.deepcopy(conv_nets[1]).double()
    return model, RebasinNet(model, rb.permutation_graph(model, pictures[0].double()))


def descend(net, target, x, steps=5, optimizer=torch.optim.Adam, **settings):
    optimizer = optimizer(net.parameters(), **{"lr": 0.1, **settings})
    for _ in range(steps):

        def loss():
            optimizer.zero_grad()
            value = (net(x) - target).square().mean()
            value.backward()
            return value

        optimizer.step(loss)
    return net


def test_its_parameters_are_the_logits_and_nothing_else(net):
    assert {name: tuple(p.shape) for name, p in net.named_parameters()} == {
        "logits:layer0": (16, 16),
        "logits:layer2": (16, 16),
    }
    assert list(net.logits) == ["layer0", "layer2"]
    assert net.logits["layer0"] is net.get_parameter("logits:layer0")
    assert "layer0: 16" in str(net)


def test_train_mode_is_soft_and_eval_mode_is_hard(net, mlps, blobs):
    x, model = blobs[0], mlps[1]
    params = net.soft_parameters()
    assert list(params) == list(model.state_dict())
    expected = rb.SoftPlan.from_logits(net.logits).apply(dict(model.state_dict()), net.graph)
    for name, value in params.items():
        assert torch.equal(value, expected[name])
    assert_allclose(net(x).detach(), torch.func.functional_call(model, params, (x,)).detach(), rtol=1e-6, atol=1e-6)
    assert torch.equal(net.eval()(x), model(x))  # the identity is where it starts
    planted = rb.Plan.random(net.graph, seed=1)
    other = RebasinNet(model, net.graph, init=planted).eval()
    assert other.plan() == planted
    assert_allclose(other(x).detach(), model(x).detach(), rtol=1e-4, atol=1e-5)
    for p, q in zip(other.model().parameters(), rb.permute(model, planted, net.graph).parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_sharp_start_is_nearly_hard(mlps, blobs):
    graph = rb.permutation_graph(mlps[0], blobs[0])
    sharp = RebasinNet(mlps[0], graph, init_scale=30.0)
    assert_allclose(sharp(blobs[0]).detach(), mlps[0](blobs[0]).detach(), rtol=1e-4, atol=1e-5)


def test_gradients_are_differences_through_norms_and_statistics(conv, pictures):
    _, net = conv
    x = pictures[0][:4].double()
    net.tau = 0.7
    assert all(p.dtype == torch.float64 for p in net.parameters())
    target = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss():
        return ((net(x) - target) ** 2).sum()

    # The implicit gradient is that of the converged operator.
    net.num_iters = 200
    gradients = torch.autograd.grad(loss(), list(net.parameters()))
    generator = torch.Generator().manual_seed(1)
    for p, gradient in zip(net.parameters(), gradients, strict=True):
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                p.add_(step * direction)
                values.append(loss())
                p.sub_(step * direction)
        assert_allclose((values[0] - values[1]) / 2e-5, (gradient * direction).sum(), rtol=1e-5, atol=1e-8)


def test_norms_written_out_are_the_fused_ones(conv_nets, pictures):
    from rebasin_torch.norms import differentiable_statistics

    modules = [
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, affine=False),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.InstanceNorm2d(3),
        nn.BatchNorm2d(3, track_running_stats=False),
    ]
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    for norm in modules:
        norm(x)
        norm.eval()
        expected = norm(x)
        statistics = {name: b.requires_grad_() for name, b in norm.named_buffers() if b.is_floating_point()}
        if statistics:
            with differentiable_statistics(statistics):
                found = norm(x)
            assert_allclose(found.detach(), expected.detach(), rtol=1e-4, atol=1e-5)
            found.sum().backward()
            assert all(b.grad is not None for b in statistics.values())
        with differentiable_statistics({"other": torch.ones(1, requires_grad=True)}):
            assert_allclose(norm(x.clone()).detach(), expected.detach(), rtol=1e-4, atol=1e-5)


def test_nothing_of_the_users_model_changes_or_is_shared(conv_nets, pictures, record):
    model = conv_nets[0]
    graph = rb.permutation_graph(model, pictures[0])
    watch = record(model)
    net = RebasinNet(model, graph)
    descend(net, torch.zeros(48, 3), pictures[0], steps=2)
    other = net.model()
    with torch.no_grad():
        for x in [*other.parameters(), *other.buffers(), *net.buffers()]:
            x.zero_()
    watch.check()
    assert [m.training for m in other.modules()] == [m.training for m in model.modules()]


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {}), (torch.optim.LBFGS, {"max_iter": 3})],
)
def test_any_optimizer_will_do(net, mlps, blobs, optimizer, settings):
    target = mlps[0](blobs[0]).detach()
    before = (net(blobs[0]) - target).square().mean()
    descend(net, target, blobs[0], steps=4, optimizer=optimizer, **settings)
    assert (net(blobs[0]) - target).square().mean() < before


def test_it_recovers_a_planted_permutation(mlps, blobs):
    a = mlps[0]
    graph = rb.permutation_graph(a, blobs[0])
    planted = rb.Plan.random(graph, seed=2)
    net = RebasinNet(rb.permute(a, planted, graph), graph)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        sum((a.get_parameter(n) - p).square().sum() for n, p in net.soft_parameters().items()).backward()
        optimizer.step()
    assert planted.compose(net.plan()).is_identity


def test_it_is_saved_loaded_copied_and_pickled(conv, pictures, build):
    _, net = conv
    x = pictures[0].double()
    descend(net, torch.zeros(48, 3), x, steps=2)
    expected = net(x)
    fresh = RebasinNet(build.conv_net().double(), net.graph)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file))
    for other in (fresh, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), expected)
        assert other.plan() == net.plan()
        assert torch.equal(other.eval()(x), copy.deepcopy(net).eval()(x))


def test_to_takes_everything_along(mlps, blobs, net):
    net = copy.deepcopy(net).to(torch.float64)
    assert {x.dtype for x in [*net.parameters(), *net.buffers()]} == {torch.float64}
    assert net(blobs[0].double()).dtype == torch.float64
    assert {p.dtype for p in net.model().parameters()} == {torch.float64}
    net.to("meta")
    assert all(x.is_meta for x in [*net.parameters(), *net.buffers()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_have_single_precision_logits(mlps, blobs, dtype):
    model, x = copy.deepcopy(mlps[0]).to(dtype), blobs[0].to(dtype)
    net = RebasinNet(model, rb.permutation_graph(model, x))
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    descend(net, torch.zeros(96, 3, dtype=dtype), x, steps=2)
    assert net(x).dtype == dtype
    assert {p.dtype for p in net.model().parameters()} == {dtype}


# torch's compiler reads .grad of tensors that have none, and warns itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_it_gives_the_same_numbers(net, blobs):
    x = blobs[0]
    compiled = torch.compile(net, backend="aot_eager")
    results = []
    for call in (compiled, net):
        net.zero_grad()
        net.train()
        outputs = call(x)
        outputs.square().sum().backward()
        results.append([outputs.detach(), *(p.grad.clone() for p in net.parameters())])
        net.eval()
        results[-1].append(call(x).detach())
    for found, expected in zip(*results, strict=True):
        assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a:UserWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_operator_survives_compilation():
    X = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plan = torch.compile(lambda x: rb.sinkhorn(2.0 * x, tau=0.5) + 1.0, backend="eager")(X)
    (gradient,) = torch.autograd.grad((plan**2).sum(), X)
    expected = rb.sinkhorn(2.0 * X, tau=0.5) + 1.0
    assert torch.equal(plan, expected)
    assert torch.equal(gradient, torch.autograd.grad((expected**2).sum(), X)[0])


def test_groups_local_to_others_are_learned_too():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(2 * 3, 4)), nn.Parameter(torch.randn(2, 2 * 3))
            self.gate = nn.Parameter(torch.randn(2))

        def forward(self, x):
            heads = torch.tanh(x @ self.a.T).unflatten(1, (2, 3)) * self.gate[:, None]
            return heads.flatten(1) @ self.b.T

    torch.manual_seed(0)
    model, x = Heads(), torch.randn(5, 4)
    graph = rb.PermutationGraph.from_axes({"a": "(h d[h]) .", "b": ". (h d[h])", "gate": "h"}, model.state_dict())
    planted = rb.Plan.random(graph, seed=0)
    net = RebasinNet(model, graph, init=planted)
    assert {g: tuple(p.shape) for g, p in net.logits.items()} == {"h": (2, 2), "d": (2, 3, 3)}
    assert net.plan() == planted
    descend(net, torch.zeros(5, 2), x, steps=2)
    assert_allclose(net.eval()(x).detach(), model(x).detach(), rtol=1e-5, atol=1e-6)


class Paths(nn.Module):
    """A perceptron whose layers lie at these paths; an entry of several names is a layer within modules."""

    def __init__(self, paths):
        super().__init__()
        self.order = paths
        for k, path in enumerate(paths):
            module = self
            for name in path[:-1]:
                if name not in module._modules:
                    module.add_module(name, nn.Module())
                module = module._modules[name]
            module.add_module(path[-1], nn.Linear(3 + k, 4 + k))

    def layer(self, path):
        module = self
        for name in path:
            module = module._modules[name]
        return module

    def forward(self, x):
        for path in self.order:
            x = torch.tanh(self.layer(path)(x))
        return x


words = st.one_of(
    st.text("a/~01 :_", min_size=1, max_size=3),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="."), min_size=1, max_size=4),
    st.sampled_from(["plan", "model", "logits", "graph", "tau", "weight", "model:a", "_body", "logits:", "a/weight"]),
)


@given(st.lists(st.lists(words, min_size=1, max_size=2).map(tuple), min_size=2, max_size=4, unique=True))
@example([("a", "b"), ("a/b",)])
@example([("a", "b"), ("a~1b",), ("a~0b",), ("a~b",)])
def test_names_of_modules_may_be_anything(paths):
    within = {path[0] for path in paths if len(path) > 1}
    paths = [path for path in paths if len(path) > 1 or path[0] not in within]
    try:
        model, other = Paths(paths), Paths(paths)
    except KeyError:  # a name that torch refuses, such as "forward"
        return
    params = model.state_dict()
    axes = {}
    for k, path in enumerate(paths):
        before, after = f"h{k - 1}" if k else ".", f"h{k}" if k < len(paths) - 1 else "."
        axes |= {".".join((*path, "weight")): f"{after} {before}", ".".join((*path, "bias")): after}
    graph = rb.PermutationGraph.from_axes(axes, params)
    if not graph.groups:
        return
    net = RebasinNet(model, graph, init=rb.Plan.random(graph, seed=1)).eval()
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert len(net.state_dict()) == len(params) + len(graph.groups)
    assert_allclose(net(x).detach(), model(x).detach(), atol=1e-5)
    loaded = RebasinNet(other, graph)
    loaded.load_state_dict(net.state_dict())
    assert torch.equal(loaded.eval()(x), net(x))
    for name, value in rb.permute(model, net.plan(), graph).state_dict().items():
        assert torch.equal(net.model().state_dict()[name], value)


def test_any_plan_can_be_the_start_and_nothing_else(mlps, blobs):
    graph = rb.permutation_graph(mlps[0], blobs[0])
    for init in (rb.Plan.random(graph, seed=3), rb.Plan.random(graph, seed=3).inverse(), rb.Plan.identity(graph)):
        for settings in ({}, {"tau": 1e-3}, {"init_scale": 1e-3}):
            assert RebasinNet(mlps[0], graph, init=init, **settings).plan() == init
    for wrong in (dict(init), rb.SoftPlan.from_plan(init), [0, 1]):
        with pytest.raises(PlanError, match=f"expected init as a Plan, got {type(wrong).__name__}"):
            RebasinNet(mlps[0], graph, init=wrong)


def test_bad_arguments_are_refused(mlps, blobs, net):
    model, graph = mlps[1], net.graph
    for settings in ({"tau": 0.0}, {"tau": "1"}, {"num_iters": 0}, {"num_iters": 2.5}, {"init_scale": -1.0}):
        with pytest.raises(SettingError, match=f"expected {next(iter(settings))}"):
            RebasinNet(model, graph, **settings)
    with pytest.raises(UnsupportedModelError, match=r"expected a torch.nn.Module, got dict"):
        RebasinNet({}, graph)
    with pytest.raises(SpecError, match="expected a PermutationGraph, got NoneType"):
        RebasinNet(model, None)
    with pytest.raises(ShapeError, match="the graph was made for"):
        RebasinNet(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)), graph)
    with pytest.raises(SpecError, match="nothing to learn"):
        RebasinNet(model, graph.pin(graph.groups))
    with pytest.raises(PlanError, match="another graph"):
        RebasinNet(model, graph, init=rb.Plan({"h": np.arange(3)}))
