"""`check_adapter`: every kind of wrong adapter is caught, by the law it breaks, on a model written in NumPy."""

import pickle
import random

import autograd.numpy as anp
import numpy as np
import pytest

import rebasin_core as rb
from rebasin_core.errors import LawError, UnsupportedModelError
from rebasin_core.models.batch_norms import BatchNorms
from rebasin_core.models.mapping import MappingAdapter
from rebasin_core.testing import check_adapter

X = np.random.default_rng(1).normal(size=(7, 3))


class Net:
    """One hidden layer with batch normalization, which its user calls."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.training = False
        self.p = {
            "w": rng.normal(size=(3, 5)),
            "mean": rng.normal(size=5),
            "var": rng.uniform(0.5, 1.5, size=5),
            "v": rng.normal(size=(5, 2)),
            "count": np.array(3),
        }

    def __call__(self, x):
        return head(self.p, x @ self.p["w"], self.p["mean"], self.p["var"])


def head(p, h, mean, var):
    return anp.dot(anp.tanh((h - mean) / anp.sqrt(var + 1e-5)), p["v"])


class Adapter:
    """What is right; flaws are put on it one by one."""

    name = "net"
    loss, metric = MappingAdapter.loss, MappingAdapter.metric
    axes = {"w": ". h", "mean": "h", "var": "h", "v": "h .", "count": ""}  # noqa: RUF012

    def params(self, model):
        return dict(model.p)

    def forward(self, model):
        return lambda p, x: head(p, anp.dot(x, p["w"]), p["mean"], p["var"])

    def rebuild(self, model, params):
        made = Net()
        made.p = {name: np.array(x) for name, x in params.items()}
        return made

    def graph(self, model, *example_inputs, pin=()):
        return rb.PermutationGraph.from_axes(self.axes, model.p, pin=pin, buffers=["mean", "var", "count"])

    def example_inputs(self, model):
        return (X,)

    def check_pair(self, model_a, model_b):
        if model_a.p.keys() != model_b.p.keys():
            raise UnsupportedModelError("other layers")

    def activations(self, model, graph):
        return lambda p, x: {"h": [np.asarray((x @ p["w"] - p["mean"]) / p["var"])]}

    def batch_norms(self, model):
        def measure(p, x):
            h = x @ p["w"]
            return {"mean": h.mean(0), "var": h.var(0)}

        def forward(p, x):
            h = anp.dot(x, p["w"])
            return head(p, h, anp.mean(h, 0), anp.var(h, 0))

        return BatchNorms(forward, measure)


PROTOCOL = (
    "params: named arrays, always the same",
    "example_inputs: None, or a tuple that forward takes",
    "forward: a function of the parameters it is given",
    "forward: differentiable in the parameters",
    "forward: computes what the model computes",
    "rebuild: a copy of the same type that holds what it was given",
    "rebuild: copies share no memory",
    "rebuild: a permuted copy computes the same",
    "graph: fits the parameters and can be pinned",
    "graph: random plans leave the outputs",
    "check_pair: accepts a model and its copy",
    "loss and metric: a function stays what it is",
    "activations: move with their groups",
    "batch_norms: measures running statistics",
)


def test_a_right_adapter_passes_every_law(unchanged):
    model = Net()
    with unchanged(model.p):
        assert set(check_adapter(Adapter(), model, X, state=pickle.dumps)) == set(PROTOCOL)


def test_inputs_may_be_the_adapters_own_and_optional_methods_absent():
    plain = type("Plain", (), {k: v for k, v in vars(Adapter).items() if k not in ("activations", "batch_norms")})()
    assert set(check_adapter(plain, Net())) == {law for law in PROTOCOL if not law.startswith(("activ", "batch"))}


def test_a_model_that_cannot_be_called_is_not_compared():
    class Mute:
        p, training = Net().p, False

    class Remakes(Adapter):
        def rebuild(self, model, params):
            made = Mute()
            made.p = super().rebuild(model, params).p
            return made

    found = check_adapter(Remakes(), Mute(), X)
    assert set(PROTOCOL) - set(found) == {law for law in PROTOCOL if "computes" in law}
    everything = check_adapter(Remakes(), Mute(), X, outputs=lambda model, x: Net.__call__(model, x))
    assert set(everything) == set(PROTOCOL)


# --- flaws ------------------------------------------------------------------------------------------------------------
class EditsTheModel(Adapter):
    def forward(self, model):
        def forward(p, x):
            model.p = dict(p) if all(type(v) is np.ndarray for v in p.values()) else model.p
            return super(EditsTheModel, self).forward(model)(p, x)

        return forward


class SwitchesTheMode(Adapter):
    def graph(self, model, *example_inputs, pin=()):
        model.training = True
        return super().graph(model, pin=pin)


class DrawsRandomNumbers(Adapter):
    def example_inputs(self, model):
        np.random.rand()  # noqa: NPY002
        random.random()
        return (X,)


class CountsInTheState(Adapter):
    def check_pair(self, model_a, model_b):
        model_a.log = [*getattr(model_a, "log", []), "checked"]


class IgnoresTheParameters(Adapter):
    def forward(self, model):
        fixed = dict(model.p)
        return lambda p, x: super(IgnoresTheParameters, self).forward(model)(fixed, x) + 0.0 * anp.sum(p["w"])


class ComputesSomethingElse(Adapter):
    def forward(self, model):
        return lambda p, x: 1.01 * super(ComputesSomethingElse, self).forward(model)(p, x)


class IsNoisy(Adapter):
    def forward(self, model):
        rng = np.random.default_rng(0)
        return lambda p, x: super(IsNoisy, self).forward(model)(p, x) + rng.normal()


class CutsAGradient(Adapter):
    def forward(self, model):
        B = rb.get_backend(X)
        cut = lambda p: {**p, "v": B.stop_gradient(p["v"])}  # noqa: E731
        return lambda p, x: super(CutsAGradient, self).forward(model)(cut(p), x)


class DoublesAGradient(Adapter):
    def forward(self, model):
        B = rb.get_backend(X)
        double = lambda x: 2.0 * x - B.stop_gradient(x)  # noqa: E731
        return lambda p, x: super(DoublesAGradient, self).forward(model)({**p, "v": double(p["v"])}, x)


class ReturnsTheModel(Adapter):
    def rebuild(self, model, params):
        return model


class ReturnsAnotherType(Adapter):
    def rebuild(self, model, params):
        made = super().rebuild(model, params)
        made.__class__ = type("Other", (Net,), {})
        return made


class ForgetsStatistics(Adapter):
    def rebuild(self, model, params):
        return super().rebuild(model, {**params, "mean": model.p["mean"]})


class NarrowsTheDtype(Adapter):
    def rebuild(self, model, params):
        return super().rebuild(model, {**params, "w": params["w"].astype(np.float32)})


class SharesMemory(Adapter):
    def rebuild(self, model, params):
        made = Net()
        made.p = dict(params)
        return made


class WritesIntoTheFirstCopy(Adapter):
    def rebuild(self, model, params):
        made = super().rebuild(model, params)
        if hasattr(model, "is_copy"):
            model.p.update(made.p)
        made.is_copy = True
        return made


class ConfusesAxes(Adapter):
    axes = {**Adapter.axes, "mean": "."}  # noqa: RUF012


class CannotPin(Adapter):
    def graph(self, model, *example_inputs, pin=()):
        return super().graph(model)


class RenamesParameters(Adapter):
    def params(self, model):
        self.calls = getattr(self, "calls", 0) + 1
        return {name if self.calls % 2 else name + "_": x for name, x in model.p.items()}


class RefusesTheCopy(Adapter):
    def check_pair(self, model_a, model_b):
        raise UnsupportedModelError("other values")


class AveragesTheLoss(Adapter):
    def loss(self, model, loss):
        return lambda outputs, targets: loss(outputs, targets) / 2.0


class SwallowsErrors(Adapter):
    class Keeps:
        def __enter__(self):
            return None

        def __exit__(self, *error):
            return True

    def keep_random_state(self, seed=None):
        return self.Keeps()


class CollectsOutputs(Adapter):
    def activations(self, model, graph):
        return lambda p, x: {"h": [np.asarray(head(p, x @ p["w"], p["mean"], p["var"]))]}


class CollectsInAnotherOrder(Adapter):
    def activations(self, model, graph):
        return lambda p, x: {"h": [np.sort(x @ p["w"], axis=1)]}


class MeasuresSums(Adapter):
    def batch_norms(self, model):
        norms = super().batch_norms(model)
        return BatchNorms(norms.forward, lambda p, x: {"mean": norms.measure(p, x)["mean"].sum()})


class AddsToWhatWasMeasured(Adapter):
    def batch_norms(self, model):
        norms = super().batch_norms(model)
        return BatchNorms(norms.forward, lambda p, x: {"mean": norms.measure(p, x)["mean"] + p["mean"]})


FLAWS = {
    EditsTheModel: ("forward: a function of the parameters it is given", "it changed parameter"),
    SwitchesTheMode: ("graph: fits the parameters and can be pinned", "it changed attribute 'training'"),
    DrawsRandomNumbers: ("example_inputs: None, or a tuple that forward takes", "it changed Python's random state and"),
    CountsInTheState: ("check_pair: accepts a model and its copy", "it changed the state"),
    IgnoresTheParameters: ("forward: a function of the parameters it is given", "does not use what it is given"),
    ComputesSomethingElse: (
        "forward: computes what the model computes",
        "forward and the model differ: relative error",
    ),
    IsNoisy: ("forward: a function of the parameters it is given", "the same parameters give two results"),
    CutsAGradient: ("forward: differentiable in the parameters", "the gradient in 'v' is zero, but"),
    DoublesAGradient: ("forward: differentiable in the parameters", "along the gradient the outputs change by"),
    ReturnsTheModel: ("rebuild: a copy of the same type that holds what it was given", "the model itself"),
    ReturnsAnotherType: ("rebuild: a copy of the same type that holds what it was given", "it made a Other of a Net"),
    ForgetsStatistics: ("rebuild: a copy of the same type that holds what it was given", "'mean' is off by"),
    NarrowsTheDtype: (
        "rebuild: a copy of the same type that holds what it was given",
        "'w' became float32, was float64",
    ),
    SharesMemory: ("rebuild: copies share no memory", "the copy's ['w', 'mean', 'var'] lie where the model's do"),
    WritesIntoTheFirstCopy: ("rebuild: copies share no memory", "of a copy of which another copy was made"),
    ConfusesAxes: ("graph: random plans leave the outputs", "Axis 0 of parameter 'mean' must move with 'h'"),
    CannotPin: ("graph: fits the parameters and can be pinned", "with every group pinned, ['h'] still move"),
    RenamesParameters: ("params: named arrays, always the same", "names differ from call to call"),
    RefusesTheCopy: ("check_pair: accepts a model and its copy", "UnsupportedModelError: other values"),
    AveragesTheLoss: ("loss and metric: a function stays what it is", "expected"),
    SwallowsErrors: ("keep_random_state: lets errors through", "did not come out"),
    CollectsOutputs: ("activations: move with their groups", "those of 'h' have shape (7, 2), expected (7, 5)"),
    CollectsInAnotherOrder: ("activations: move with their groups", "'h' under a plan is off by"),
    MeasuresSums: ("batch_norms: measures running statistics", "'mean' has shape (), expected (5,)"),
    AddsToWhatWasMeasured: ("batch_norms: measures running statistics", "'mean', measured twice, is off by"),
}


@pytest.mark.filterwarnings("ignore:Output seems independent of input")
@pytest.mark.parametrize("flawed", FLAWS, ids=lambda flawed: flawed.__name__)
def test_a_flaw_is_caught_by_its_law(flawed):
    law, words = FLAWS[flawed]
    with pytest.raises(LawError, match="the adapter 'net' breaks") as caught:
        check_adapter(flawed(), Net(), X, state=lambda model: len(getattr(model, "log", [])))
    assert law in caught.value.laws
    assert words in caught.value.laws[law]


def test_what_was_changed_by_one_law_is_not_blamed_on_the_next():
    with pytest.raises(LawError) as caught:
        check_adapter(SwitchesTheMode(), Net(), X)
    assert len(caught.value.laws) == 1


def test_a_law_that_cannot_be_checked_says_what_was_raised():
    adapter = Adapter()
    adapter.loss = None
    with pytest.raises(LawError) as caught:
        check_adapter(adapter, Net(), X)
    assert caught.value.laws == {
        "loss and metric: a function stays what it is": "TypeError: 'NoneType' object is not callable"
    }
    assert isinstance(caught.value.__cause__, TypeError)
    assert pickle.loads(pickle.dumps(caught.value)).laws == caught.value.laws
