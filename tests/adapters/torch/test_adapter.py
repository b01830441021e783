"""Modules in and out: names, copies that share nothing, and everything that is refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

import rebasin_core as rb
from rebasin_core.errors import DataError, NonFiniteError, SettingError, ShapeError, SpecError, UnsupportedModelError
from rebasin_core.models.model import find_adapter
from rebasin_core.testing import check_adapter


def adapter():
    return find_adapter(nn.Linear(1, 1))


# --- the protocol -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_laws_of_the_protocol(conv_nets, pictures, dtype):
    def state(model):
        return pickle.dumps(model), torch.get_rng_state().tolist()

    model = copy.deepcopy(conv_nets[0]).eval().to(dtype)
    laws = check_adapter(adapter(), model, pictures[0][:6].to(dtype), state=state)
    assert {"batch_norms: measures running statistics", "activations: move with their groups"} <= set(laws)


def test_the_laws_hold_for_tied_parameters_too():
    torch.manual_seed(0)
    check_adapter(adapter(), Tied(), torch.randn(9, 5), state=pickle.dumps)


def shares_memory(a, b):
    places = {x.untyped_storage().data_ptr() for x in [*a.parameters(), *a.buffers()]}
    return any(x.untyped_storage().data_ptr() in places for x in [*b.parameters(), *b.buffers()])


@pytest.fixture
def moved(conv_nets, pictures):
    model = conv_nets[0]
    graph = rb.permutation_graph(model, pictures[0])
    return model, graph, rb.permute(model, rb.Plan.random(graph, seed=4), graph)


# --- copies -----------------------------------------------------------------------------------------------------------
def test_parameters_are_those_of_the_state_dictionary(conv_nets):
    model = conv_nets[0]
    params = adapter().params(model)
    assert list(params) == list(model.state_dict())
    assert not any(x.requires_grad for x in params.values())


def test_a_permuted_copy_is_the_same_function_with_all_its_statistics(moved, pictures):
    model, graph, other = moved
    x, _ = pictures
    assert sorted(graph.groups.values()) == [6, 8]
    for name, statistic in other.named_buffers():
        if name.endswith("running_mean"):
            assert not torch.equal(statistic, model.get_buffer(name))
    with torch.no_grad():
        expected, found = copy.deepcopy(model).eval()(x), copy.deepcopy(other).eval()(x)
        assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        # In train mode, too: batch statistics are permuted like the rest. Dropout draws per place: switched off.
        for net in (a := copy.deepcopy(model), b := copy.deepcopy(other)):
            net[8].p = 0.0
        assert_allclose(b.train()(x), a.train()(x), rtol=1e-3, atol=1e-5)


def test_a_copy_keeps_type_mode_flags_layout_and_hooks_and_shares_no_memory(build, record):
    model = build.conv_net().to(memory_format=torch.channels_last)
    model[0].weight.requires_grad_(False)
    model[4].eval()
    calls = []
    model[2].register_forward_hook(lambda *args: calls.append(1))
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    calls.clear()
    graph = rb.permutation_graph(model, torch.zeros(2, 1, 8, 8))
    watch = record(model)
    other = rb.permute(model, rb.Plan.random(graph, seed=1), graph)
    watch.check()
    assert type(other) is type(model)
    assert [m.training for m in other.modules()] == [m.training for m in model.modules()]
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert type(q) is nn.Parameter
        assert (p.requires_grad, p.dtype, p.stride()) == (q.requires_grad, q.dtype, q.stride()), name
        assert q.grad is None
    assert not shares_memory(model, other)
    calls.clear()
    other(torch.zeros(2, 1, 8, 8))
    assert calls == [1]


def test_a_permuted_copy_can_be_pickled_copied_and_trained(moved, pictures):
    _, _, other = moved
    again = pickle.loads(pickle.dumps(other))
    assert all(torch.equal(x, y) for x, y in zip(other.state_dict().values(), again.state_dict().values(), strict=True))
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    nn.functional.cross_entropy(again(pictures[0]), pictures[1]).backward()
    optimizer.step()
    assert not torch.equal(again[0].weight, other[0].weight)


def test_frozen_models_are_aligned_and_stay_frozen(mlps, blobs, record):
    a, b = (copy.deepcopy(model).requires_grad_(False) for model in mlps)
    watch = record(a, b)
    result = rb.align(
        a,
        b,
        blobs[0],
        objective=rb.objectives.Midpoint("cross_entropy", blobs),
        progress=False,
        solver=rb.solvers.Sinkhorn(max_steps=3, num_rounds=1),
    )
    watch.check()
    assert not any(p.requires_grad for p in result.model.parameters())
    assert not any(p.requires_grad for p in result.merge().parameters())


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder's weight, and a layer used twice."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 7, bias=False)
        self.shared = nn.Linear(7, 7)
        self.out = nn.Linear(7, 5, bias=False)
        self.head = nn.Linear(7, 7, bias=False)
        self.head.weight = self.shared.weight

    def forward(self, x):
        h = torch.relu(self.encoder(x))
        h = torch.relu(self.shared(torch.relu(self.shared(h))))
        return self.out(self.head(h))


def test_tied_and_shared_parameters_stay_tied():
    torch.manual_seed(0)
    a, b = Tied(), Tied()
    x = torch.randn(9, 5)
    graph = rb.permutation_graph(a, x)
    assert graph.groups
    rb.verify(a, graph, x)
    result = rb.align(a, b, x, progress=False, solver=rb.solvers.WeightMatching())
    for model in (result.model, result.merge(0.3), rb.permute(a, rb.Plan.random(graph), graph)):
        assert model.head.weight is model.shared.weight
        assert len(list(model.parameters())) == len(list(a.parameters()))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)
        self.out = nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.lstm(x)[0])


def test_recurrent_layers_really_run_with_the_weights_that_are_handed_in():
    torch.manual_seed(0)
    model, x = Recurrent(), torch.randn(2, 4, 3)
    params = adapter().params(model)
    forward = adapter().forward(model)
    # Not to the last bit: with gradients and without, torch chooses kernels that round differently.
    torch.testing.assert_close(forward(params, x), model(x))
    other = Recurrent()
    torch.testing.assert_close(forward(adapter().params(other), x), other(x))
    rb.verify(model, rb.permutation_graph(model, x), x)


class Untidy(nn.Module):
    """Counts its calls in a buffer, keeps its last activations, and draws noise."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x):
        self.calls += 1
        self.scale.mul_(1.5)
        self.last = torch.relu(self.fc1(x))
        torch.rand(1)
        return self.fc2(self.last)


def test_forward_leaves_no_trace_in_buffers_nor_in_the_random_state(record):
    torch.manual_seed(0)
    a, b, x = Untidy(), Untidy(), torch.randn(8, 4)
    a(x)  # leaves an activation with a history behind
    graph = rb.PermutationGraph.from_axes(
        {"fc1.weight": "h .", "fc1.bias": "h", "fc2.weight": ". h", "fc2.bias": ".", "calls": ""},
        a.state_dict(),
        buffers=["calls"],
    )
    watch = record(a, b)
    result = rb.align(
        a,
        b,
        x,
        graph=graph,
        progress=False,
        objective=rb.objectives.Midpoint(nn.functional.mse_loss, (x, torch.zeros(8, 2))),
        solver=rb.solvers.Sinkhorn(max_steps=3, num_rounds=1),
    )
    rb.verify(a, graph, x)
    rb.connectivity(a, result.model, "mse_loss", (x, torch.zeros(8, 2)), lambdas=3)
    rb.interpolate(a, b)
    watch.check()
    assert (result.model.calls, a.calls) == (0, 1)


def test_callers_may_switch_gradients_off(mlps, blobs):
    plans = []
    for off in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with off():
            result = rb.align(
                *mlps,
                blobs[0],
                progress=False,
                solver=rb.solvers.Sinkhorn(max_steps=4, num_rounds=1),
                objective=rb.objectives.Midpoint("cross_entropy", blobs),
            )
        plans.append(result.plan)
        assert next(result.model.parameters()).requires_grad
        assert not next(result.model.parameters()).is_inference()
    assert plans[0] == plans[1] == plans[2]


# --- refusals ---------------------------------------------------------------------------------------------------------
def refused(error, message, a, b, record, *inputs):
    graph = None if inputs else rb.permutation_graph(small(), torch.zeros(2, 6))
    hollow = [any(nn.parameter.is_lazy(p) or p.is_meta for p in model.parameters()) for model in (a, b)]
    watch = record(*(model for model, without_values in zip((a, b), hollow, strict=True) if not without_values))
    with pytest.raises(error, match=message):
        rb.align(a, b, *inputs, graph=graph, progress=False)
    watch.check()


def small(activation=nn.ReLU, width=4):
    return nn.Sequential(nn.Linear(6, width), activation(), nn.Linear(width, 3))


def test_other_widths_layers_and_activations_are_refused(record):
    refused(ShapeError, "'0.weight' has shape", small(), small(width=5), record)
    refused(SpecError, "'3.weight'", small(), nn.Sequential(*small(), nn.Linear(3, 3)), record)
    refused(UnsupportedModelError, "class.*ReLU.*Tanh", small(), small(nn.Tanh), record)
    refused(UnsupportedModelError, "settings", small(nn.LeakyReLU), small(lambda: nn.LeakyReLU(0.3)), record)
    refused(UnsupportedModelError, "module '3'", small(), nn.Sequential(*small(), nn.Softmax(-1)), record)


def test_functions_kept_as_attributes_are_compared(record):
    class Net(nn.Module):
        def __init__(self, activation):
            super().__init__()
            self.body, self.activation = small(), activation

        def forward(self, x):
            return self.activation(self.body(x))

    refused(UnsupportedModelError, "activation", Net(torch.tanh), Net(torch.relu), record, torch.zeros(1, 6))


def test_dropout_rates_and_in_place_switches_do_not_matter(blobs):
    a = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.1), nn.ReLU(), nn.Linear(4, 3))
    b = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(4, 3))
    rb.align(a, b, blobs[0], progress=False, solver=rb.solvers.WeightMatching())


def test_values_that_cannot_be_aligned_are_refused(record):
    broken = small()
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    refused(NonFiniteError, "'0.weight' of model B", small(), broken, record)
    refused(UnsupportedModelError, "float32 in model A and torch.float64", small(), small().double(), record)
    refused(UnsupportedModelError, "meta device", small(), small().to("meta"), record)
    refused(UnsupportedModelError, "lazy", nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 3)), small(), record)
    integer = small()
    integer[0].weight = nn.Parameter(torch.ones(4, 6, dtype=torch.int8), requires_grad=False)
    refused(UnsupportedModelError, "int8", integer, small(), record)
    spread = small()
    spread[2].to("meta")
    refused(UnsupportedModelError, "meta", spread, small(), record)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_weights_are_refused():
    model = small()
    model.register_buffer("table", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    with pytest.raises(UnsupportedModelError, match=r"'table' is quantized \(qint8\)"):
        adapter().params(model)


def test_several_devices_are_refused():
    from rebasin_torch import state

    with pytest.raises(
        UnsupportedModelError, match=r"'a' on cpu, 'b' on meta; move it to one, as in model.to\('cpu'\)"
    ):
        state._check_devices({"a": torch.zeros(1), "b": torch.zeros(1, device="meta")})


def test_a_model_that_cannot_be_copied_is_refused(blobs):
    class Stubborn(nn.Sequential):
        def __deepcopy__(self, memo):
            raise OSError("a file is open")

    with pytest.raises(UnsupportedModelError, match="cannot be copied: OSError: a file is open"):
        adapter().rebuild(Stubborn(nn.Linear(2, 2)), {})


def test_inputs_that_do_not_fit_are_refused_with_torchs_reason(mlps, record):
    watch = record(*mlps)
    graph = rb.permutation_graph(mlps[0], torch.zeros(1, 6))
    with pytest.raises(DataError, match=r"Sequential cannot compute with inputs \(float32\[2, 5\]\).*shapes"):
        rb.verify(mlps[0], graph, torch.zeros(2, 5))
    with pytest.raises(DataError, match=r"x=float32\[2, 6\]"):
        rb.connectivity(*mlps, "cross_entropy", [({"x": torch.zeros(2, 6)}, torch.zeros(2).long())])
    watch.check()


def test_a_graph_needs_inputs_but_no_values(mlps):
    with pytest.raises(SettingError, match="pass example inputs, as in"):
        rb.permutation_graph(mlps[0])
    with pytest.raises(SettingError, match="pass example inputs"):
        rb.align(*mlps, progress=False)
    assert rb.permutation_graph(copy.deepcopy(mlps[0]).to("meta"), torch.zeros(2, 6)).groups


def test_numpy_and_torch_find_the_same_plan(mlps, blobs):
    a, b = (copy.deepcopy(model).double() for model in mlps)
    graph = rb.permutation_graph(a, blobs[0].double())
    arrays = [{name: x.numpy() for name, x in adapter().params(model).items()} for model in (a, b)]
    for solver in (rb.solvers.WeightMatching(), rb.solvers.Sinkhorn(max_steps=10, num_rounds=1, num_starts=1)):
        ours = rb.align(a, b, graph=graph, solver=solver, progress=False)
        theirs = rb.align(*arrays, graph=graph, solver=solver, progress=False)
        assert ours.plan == theirs.plan
        assert_allclose(ours.objective, theirs.objective, rtol=1e-9)
        assert_allclose([e.value for e in ours.history], [e.value for e in theirs.history], rtol=1e-6)
        for name, x in theirs.model.items():
            assert np.array_equal(ours.model.state_dict()[name].numpy(), x)
