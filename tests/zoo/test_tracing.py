"""What tracing promises: it fails closed, it names what it pins, and it leaves the model as it was."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rebasin_torch.tracing import register_rule, trace  # noqa: E402
from rebasin_torch.tracing.registry import RULES  # noqa: E402
from torch import nn  # noqa: E402

from rebasin_core.errors import SpecError, UnsupportedModelError  # noqa: E402
from rebasin_core.symmetry.axes import AxesSpec  # noqa: E402

from .harness import check_family, negative_control, randomize  # noqa: E402
from .test_small_models import Attention, Recurrent, UNet, images, resnet20, sequences  # noqa: E402


class Two(nn.Module):
    """Two dense layers with a function between them."""

    def __init__(self, function, width=8, hidden=8):
        super().__init__()
        self.first, self.last = nn.Linear(6, width), nn.Linear(hidden, 4)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


@torch.library.custom_op("rebasin_tests::halve", mutates_args=())
def halve(x: torch.Tensor) -> torch.Tensor:
    """An operation that no table knows."""
    return x * 0.5


@halve.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.fixture
def rules():
    """Put the table of rules back after a test."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


def test_an_operation_without_a_rule_pins_what_it_touches_and_is_named():
    graph = trace(Two(halve), sequences())
    assert graph.groups == {}
    assert graph.pinned["first.weight", 0] == "no rule for rebasin_tests.halve"
    assert graph.pinned["last.weight", 1] == "no rule for rebasin_tests.halve"


def test_a_rule_of_ones_own_replaces_the_pin(rules):
    register_rule("rebasin_tests.halve")(lambda p, call: call.tensor("x"))
    assert check_family(Two(halve), sequences(), moved=0.7).graph.groups == {"first": 8}


def test_a_rule_that_gives_another_shape_pins(rules):
    register_rule("rebasin_tests.halve")(lambda p, call: p.permute(call.tensor("x"), [1, 0, 2]))
    graph = trace(Two(halve), sequences())
    assert graph.groups == {}
    assert "gives shape" in graph.pinned["first.weight", 0]


def test_a_rule_that_raises_pins(rules):
    register_rule("rebasin_tests.halve")(lambda p, call: 1 / 0)
    graph = trace(Two(halve), sequences())
    assert graph.groups == {}
    assert "ZeroDivisionError" in graph.pinned["first.weight", 0]


@pytest.mark.parametrize(
    ("function", "hidden"),
    [
        (lambda y: y.sort(-1)[0], 8),
        (lambda y: y.cumsum(-1), 8),
        (lambda y: y.topk(3, -1)[0], 3),
        (lambda y: y * torch.arange(8.0), 8),
        (lambda y: torch.fft.fft(y).real, 8),
        (lambda y: nn.functional.one_hot(y.argmax(-1), 8).double(), 8),
        (lambda y: y.gather(-1, torch.zeros(3, 7, 8, dtype=torch.int64)), 8),
    ],
    ids=["sort", "cumsum", "topk", "table", "fft", "argmax", "gather"],
)
def test_operations_that_depend_on_the_order_pin(function, hidden):
    model = Two(function, hidden=hidden).double()
    graph = trace(model, sequences())
    assert "first" not in graph.groups
    assert graph.pinned["first.weight", 0]


def test_the_index_of_a_maximum_pins_but_its_value_does_not():
    value = trace(Two(lambda y: y.max(-1, keepdim=True)[0], hidden=1), sequences())
    index = trace(Two(lambda y: y.max(-1, keepdim=True)[1].float(), hidden=1), sequences())
    assert value.groups == {"first": 8}
    assert index.groups == {}


def test_tied_parameters_share_their_axes():
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4))
    model[2].weight = model[1].weight
    graph = trace(model, sequences())
    assert graph.axes["1.weight"] == graph.axes["2.weight"] == AxesSpec("layer0 layer0")


def test_parameters_that_nothing_reads_stay():
    model = Two(nn.Identity())
    model.unused = nn.Linear(8, 8)
    graph = trace(model, sequences().float())
    assert graph.pinned["unused.weight", 0] == "not used by the computation"


def test_every_tensor_of_the_state_has_axes_and_what_is_not_learned_is_a_buffer():
    model = resnet20()
    graph = trace(model, images().float())
    assert list(graph.axes) == list(model.state_dict())
    assert graph.buffers == set(model.state_dict()) - dict(model.named_parameters()).keys()
    assert graph.axes["1.running_mean"].groups


def test_the_second_name_of_a_tied_parameter_moves_and_does_not_count_twice():
    model = nn.Sequential(nn.Embedding(11, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 11, bias=False))
    model[3].weight = model[0].weight
    graph = trace(model, torch.randint(11, (4,)))
    assert graph.axes["3.weight"] == graph.axes["0.weight"]
    assert graph.buffers == {"3.weight"}


def test_tracing_leaves_the_model_and_the_random_state_alone():
    model = randomize(resnet20()).train()
    model[0].weight.requires_grad_(False)
    model[0].note = object()  # not copied by anything that matters
    before, inputs = copy.deepcopy(model.state_dict()), images().float()
    state = torch.get_rng_state()
    trace(model, inputs)
    assert model.training
    assert not model[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


class Masked(nn.Module):
    """Weights, statistics, a mask that is read, a table that nothing reads, and a weight used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(7), nn.Linear(8, 4)
        self.tied = nn.Linear(6, 8)
        self.tied.weight = self.first.weight
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.5, 1.0])[:, None])
        self.register_buffer("unread", torch.ones(100))

    def forward(self, x):
        return self.last(self.norm(torch.relu(self.first(x) + self.tied(x))) * self.mask)


def test_tracing_reads_the_values_of_no_weight_and_of_no_table_that_is_not_needed(monkeypatch):
    model = Masked()
    names = {x.data_ptr(): name for name, x in model.state_dict().items()}
    read = []

    def watched(name):
        original = getattr(torch.Tensor, name)

        def method(self, *args, **kwargs):
            if type(self) in (torch.Tensor, nn.Parameter):
                read.append(names.get(self.data_ptr()))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, method)

    for name in ("cpu", "numpy", "item", "tolist", "clone", "to", "__array__", "__deepcopy__"):
        watched(name)
    graph = trace(model, sequences())
    # Some versions of torch look at the counter of a batch norm by themselves; it is neither weight nor table.
    assert set(read) - {None, "norm.num_batches_tracked"} == {"mask"}
    assert len(graph.groups) == 1


def test_models_on_meta_give_the_same_graph():
    real = trace(UNet(), images().float())
    with torch.device("meta"):
        model = UNet()
    assert trace(model, images().float().to("meta")).axes == real.axes


def test_tracing_twice_gives_the_same_graph():
    assert trace(Attention().double(), sequences()) == trace(Attention().double(), sequences())


def test_example_inputs_may_be_nested_and_given_by_name():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Two(torch.tanh)

        def forward(self, pair, *, scale):
            return {"out": self.net(pair[0] + pair[1]["b"]) * scale}

    x = torch.zeros(3, 6)
    assert trace(Nested(), (x, {"b": x}), {"scale": torch.ones(1)}).groups == {"net.first": 8}


def test_control_flow_on_data_is_refused_with_a_way_out():
    def branch(y):
        return y if y.sum() > 0 else -y

    with pytest.raises(UnsupportedModelError, match="from_axes") as caught:
        trace(Two(branch).double(), sequences())
    assert "GuardOnDataDependent" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_shapes_that_depend_on_data_are_refused():
    with pytest.raises(UnsupportedModelError, match="depends on the data"):
        trace(Two(lambda y: y[..., torch.arange(8) > 2], hidden=5).double(), sequences())


def test_groups_can_be_pinned_by_name():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    graph = trace(model, sequences().float(), pin=["layer0"])
    assert graph.groups == {"layer2": 8}
    with pytest.raises(SpecError, match="cannot pin"):
        trace(model, sequences().float(), pin=["nothing"])


@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (resnet20, lambda: images(size=4)),
        (UNet, lambda: images(size=4)),
        (lambda: Recurrent(nn.LSTM, num_layers=2), sequences),
        (lambda: Recurrent(nn.GRU), sequences),
        (Attention, sequences),
    ],
    ids=["resnet20", "unet", "lstm", "gru", "attention"],
)
def test_permuting_one_axis_alone_changes_the_outputs(make, inputs):
    torch.manual_seed(0)
    blind = negative_control(randomize(make().double()), inputs())
    # A bias of keys adds the same to all scores of a query, which the softmax takes away.
    assert all("qkv.bias" in place for place in blind)


def test_an_explanation_names_the_operation_and_its_module():
    graph = trace(resnet20(), images())
    chain = graph.explain("layer0", ("1.weight", 0), ("4.conv2.weight", 0))
    assert [link.operation for link in chain.links] == ["batch_norm 1", "add 3", "add 4"]
    assert [name for name, _ in chain.places] == ["1.weight", "0.weight", "3.conv2.weight", "4.conv2.weight"]
