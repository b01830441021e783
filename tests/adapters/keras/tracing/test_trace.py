"""Whole models: nested and shared ones, several inputs and outputs, users' rules, and everything that goes wrong."""

import re

import pytest

keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras import layers as L  # noqa: E402, N812
from rebasin_keras.tracing import register_rule, trace, variable_names  # noqa: E402
from rebasin_keras.tracing.registry import RULES  # noqa: E402

from rebasin_core.errors import ShapeError, SpecError, UnsupportedModelError  # noqa: E402

from ..zoo.harness import arrays_of, check, permute_one_axis, randomize  # noqa: E402


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def sizes(graph):
    return sorted(graph.groups.values())


def mlp(*hidden, inputs=5, outputs=3, name=None):
    return keras.Sequential(
        [keras.Input((inputs,)), *(L.Dense(n, "relu") for n in hidden), L.Dense(outputs)], name=name
    )


def residual_net():
    x = keras.Input((8, 8, 3))
    h = L.Conv2D(6, 3, padding="same", name="stem")(x)
    for i in range(2):
        y = L.BatchNormalization(name=f"norm{i}")(L.Conv2D(5, 3, padding="same", name=f"a{i}")(L.ReLU()(h)))
        h = L.Add()([h, L.Conv2D(6, 1, name=f"b{i}")(y)])
    return keras.Model(x, L.Dense(4, name="head")(L.GlobalAveragePooling2D()(h)))


# Structure --------------------------------------------------------------------------------------------------------


def test_residual_network():
    report = check(residual_net(), normal(2, 8, 8, 3))
    assert report.graph.groups == {"stem": 6, "a0": 5, "a1": 5}
    assert report.graph.buffers == {f"norm{i}/moving_{what}" for i in range(2) for what in ("mean", "variance")}
    assert report.graph.axes["a0/kernel"].text == ". . stem a0"
    assert report.graph.pinned["head/kernel", 1] == "reaches the output"


def test_an_explanation_names_the_layers():
    graph = check(residual_net(), normal(2, 8, 8, 3)).graph
    assert [link.operation for link in graph.explain("a0", ("a0/kernel", 3), ("b0/kernel", 2)).links] == [
        "Conv2D (layer 'b0')"
    ]
    sums = graph.explain("stem", ("stem/kernel", 3), ("b1/kernel", 3)).links
    assert len(sums) == 1
    assert re.fullmatch(r"Add \(layer 'add(_\d+)?'\)", sums[0].operation)


def test_nested_and_shared_models():
    encoder = mlp(7, outputs=6, name="encoder")
    a, b = keras.Input((5,)), keras.Input((5,))
    joined = L.Concatenate()([encoder(a), encoder(b)])
    inner = keras.Model(joined, L.Dense(4)(L.Dense(9)(joined)))
    model = keras.Model([a, b], [L.Dense(3)(inner(joined)), L.Dense(2)(encoder(a))])
    # The output of the encoder stands twice in the concatenation: one group of six.
    assert sizes(check(model, normal(3, 5), normal(3, 5, seed=2), clone=False).graph) == [4, 6, 7, 9]


def test_a_layer_called_twice_has_one_group():
    x = keras.Input((6,))
    dense = L.Dense(6)
    model = keras.Model(x, L.Dense(2)(dense(L.ReLU()(dense(L.Dense(6)(x))))))
    # Its inputs are its outputs, and the first layer writes what it reads.
    assert sizes(check(model, normal(3, 6)).graph) == [6]


def test_inputs_and_outputs_by_name():
    inputs = {"left": keras.Input((5,), name="left"), "right": keras.Input((4,), name="right")}
    h = L.Add()([L.Dense(6)(inputs["left"]), L.Dense(6)(inputs["right"])])
    model = keras.Model(inputs, {"one": L.Dense(2)(h), "two": L.Dense(3)(L.ReLU()(h))})
    examples = {"right": normal(2, 4), "left": normal(2, 5)}
    graph = trace(model, examples)
    assert sizes(graph) == [6]
    assert graph == trace(model)
    outer = [keras.Input((5,)), keras.Input((4,))]
    result = model({"left": outer[0], "right": outer[1]})
    assert sizes(trace(keras.Model(outer, [result["one"], result["two"]]))) == [6]


def test_open_axes_need_example_inputs():
    model = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 3), L.GlobalMaxPooling2D(), L.Dense(2)])
    with pytest.raises(UnsupportedModelError, match="Pass example inputs"):
        trace(model)
    assert sizes(check(model, normal(2, 9, 8, 3), examples=[normal(1, 9, 8, 3)]).graph) == [4]


def test_tracing_leaves_the_model_and_the_random_state():
    model = residual_net()
    before, state = arrays_of(model), np.random.get_state()[1].copy()  # noqa: NPY002, the state is what is watched
    trace(model)
    assert all(np.array_equal(x, before[name]) for name, x in arrays_of(model).items())
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_tracing_reads_the_values_of_no_weight(monkeypatch):
    model = residual_net()
    expected = trace(model)

    def refuse(self, *args, **kwargs):
        raise AssertionError(f"{self.path} was read")

    for name in ("numpy", "__array__"):
        monkeypatch.setattr(keras.Variable, name, refuse)
    monkeypatch.setattr(keras.ops, "convert_to_numpy", lambda x: pytest.fail(f"values of {x} were read"))
    assert trace(model) == expected


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch refuses such names of weights")
def test_names_of_layers_and_weights_may_hold_dots(rules):
    class Scaled(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(name="b.scale", shape=(shape[-1],), initializer="ones")

        def call(self, x):
            return x * self.scale

    class Other(Scaled):
        def build(self, shape):
            self.scale = self.add_weight(name="scale", shape=(shape[-1],), initializer="ones")

    for kind in (Scaled, Other):
        register_rule(kind)(lambda p, call: p.elementwise(call.tensor(), call.weight(call.layer.scale)))
    layers = [L.Dense(6, name="x"), Scaled(name="a"), L.Dense(7, name="y"), Other(name="a.b"), L.Dense(2, name="z")]
    model = keras.Sequential([keras.Input((5,)), *layers])
    graph = trace(model)
    assert graph.shapes["a/b.scale"] == (6,)
    assert graph.shapes["a.b/scale"] == (7,)
    assert sizes(graph) == [6, 7]


def test_frozen_weights_are_learned_ones():
    model = residual_net()
    graph = trace(model)
    model.trainable = False
    assert trace(model).buffers == graph.buffers
    assert trace(model).groups == graph.groups


def test_low_rank_updates_follow_their_kernel():
    model = mlp(6, 4)
    model.layers[1].enable_lora(2)
    graph = check(model, normal(3, 5), clone=False).graph
    # The rank itself is an axis of its own; the update reads and writes the units of its kernel.
    assert sizes(graph) == [2, 4, 6]


def recurrent_net():
    layers = [L.Bidirectional(L.LSTM(4, return_sequences=True)), L.LayerNormalization(), L.GRU(6), L.Dense(3)]
    return keras.Sequential([keras.Input((5, 4)), *layers])


def separable_net():
    layers = [L.Conv2D(4, 3), L.SeparableConv2D(6, 3, depth_multiplier=2), L.PReLU(), L.Flatten(), L.Dense(3)]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


@pytest.mark.parametrize("make", [residual_net, recurrent_net, separable_net])
def test_every_axis_matters(make):
    """Negative control: an axis that moves alone changes the outputs, so that the other tests can fail."""
    model = randomize(make())
    graph = trace(model)
    for group in graph.groups:
        errors = permute_one_axis(model, graph, [normal(2, *model.input_shape[1:])], group)
        assert len(errors) >= 2
        assert min(errors.values()) > 1e-3, errors


def test_pin():
    model = residual_net()
    assert "stem" not in trace(model, pin=["stem"]).groups
    with pytest.raises(SpecError, match="stern"):
        trace(model, pin=["stern"])


# Names ------------------------------------------------------------------------------------------------------------


def test_equal_paths_get_numbers():
    x = keras.Input((5,))
    parts = []
    for _ in range(2):
        y = keras.Input((5,))
        parts.append(keras.Model(y, L.Dense(4, name="dense")(y)))
    model = keras.Model(x, L.Dense(2, name="head")(L.Concatenate()([part(x) for part in parts])))
    names = list(variable_names(model))
    assert names == ["dense/kernel", "dense/bias", "dense/kernel#2", "dense/bias#2", "head/kernel", "head/bias"]
    assert check(model, normal(3, 5), clone=False).graph.groups == {"dense": 4, "dense/2": 4}


def test_seed_generators_are_no_weights():
    model = keras.Sequential([keras.Input((5,)), L.Dense(4), L.Dropout(0.5), L.Dense(2)])
    assert len(variable_names(model)) == 4 < len(model.variables)


# What has no rule -------------------------------------------------------------------------------------------------


class Cumulate(L.Layer):
    """A layer of a user's, whose order of features matters."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        return keras.ops.cumsum(x, axis=-1) * self.scale


class Halve(L.Layer):
    def call(self, x):
        return keras.ops.add(*keras.ops.split(x, 2, axis=-1))


class LoudDense(L.Dense):
    def call(self, x):
        return super().call(x) + np.arange(1.0, 5.0, dtype="float32")


class RenamedDense(L.Dense):
    """Changes nothing but its construction."""

    def __init__(self, **settings):
        super().__init__(4, **settings)


def test_a_layer_without_a_rule_pins_what_it_touches():
    x = keras.Input((5,))
    h = L.Dense(4, name="b")(Cumulate(name="c")(L.Dense(6, name="a")(x)))
    graph = check(keras.Model(x, L.Dense(2)(h)), normal(3, 5), moved=0, clone=False).graph
    assert graph.groups == {"b": 4}
    for place in (("a/kernel", 1), ("a/bias", 0), ("c/scale", 0), ("b/kernel", 0)):
        assert graph.pinned[place] == "no rule for Cumulate (layer 'c')"


def test_a_lambda_is_pinned_and_named():
    turn = L.Lambda(lambda x: keras.ops.flip(x, axis=-1), name="turn")
    model = keras.Sequential([keras.Input((5,)), L.Dense(6), turn, L.Dense(2)])
    graph = trace(model)
    assert not graph.groups
    assert "no rule for Lambda (layer 'turn')" in graph.pinned.values()


def test_weights_that_a_lambda_reaches_are_pinned():
    x = keras.Input((5,))
    dense = L.Dense(6, use_bias=False)
    h = dense(x)
    out = L.Lambda(lambda t: keras.ops.matmul(t, dense.kernel), output_shape=(6,))(x)
    model = keras.Model(x, L.Concatenate()([L.Dense(3)(h), out]))
    assert not check(model, normal(3, 5), moved=0, clone=False).graph.groups


def test_a_subclass_has_the_rule_of_its_base_only_where_it_changes_nothing():
    assert sizes(trace(keras.Sequential([keras.Input((5,)), RenamedDense(), L.Dense(2)]))) == [4]
    graph = trace(keras.Sequential([keras.Input((5,)), LoudDense(4, name="loud"), L.Dense(2)]))
    assert not graph.groups
    assert "no rule for LoudDense (layer 'loud')" in graph.pinned.values()


def test_an_activation_without_a_rule():
    dense = L.Dense(4, activation=lambda x: keras.ops.cumsum(x, axis=-1), name="odd")
    graph = trace(keras.Sequential([keras.Input((5,)), dense, L.Dense(2)]))
    assert not graph.groups
    assert any("the rule for Dense (layer 'odd') failed" in reason for reason in graph.pinned.values())


@pytest.fixture
def rules():
    """The table of rules, put back afterwards."""
    before = dict(RULES)
    yield RULES
    RULES.clear()
    RULES.update(before)


def halve_model():
    return keras.Sequential([keras.Input((5,)), L.Dense(6), Halve(name="halve"), L.Dense(2)])


def test_a_user_registers_a_rule(rules):
    assert not trace(halve_model()).groups

    @register_rule(Halve)
    def halve(p, call):
        x = call.tensor()
        n = x.shape[-1] // 2
        return p.elementwise(p.gather(x, -1, range(n)), p.gather(x, -1, range(n, 2 * n)))

    assert sizes(check(halve_model(), normal(3, 5), clone=False).graph) == [3]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (lambda p, call: call.tensor(), r"gives shapes \(3, 6\), Keras \(3, 3\)"),
        (lambda p, call: 1 / 0, "failed: ZeroDivisionError"),
        (lambda p, call: [call.tensor()] * 2, r"gives shapes \(3, 6\), \(3, 6\), Keras \(3, 3\)"),
        (lambda p, call: None, "gives shapes"),
    ],
)
def test_a_wrong_rule_pins(rules, rule, reason):
    register_rule(Halve)(rule)
    graph = trace(halve_model())
    assert not graph.groups
    assert any(re.search(reason, why) for why in graph.pinned.values())


def test_register_rule_wants_classes():
    with pytest.raises(TypeError, match="register_rule takes classes"):
        register_rule(Halve())


# Bad input --------------------------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def call(self, x):
        return self.dense(x)


class Overridden(keras.Model):
    """Made of a graph, but runs something else."""

    def call(self, x, **settings):
        return super().call(x, **settings)[:, ::-1]


def test_a_subclassed_model_gets_shown_from_axes():
    model = Subclassed()
    with pytest.raises(UnsupportedModelError, match="from_axes"):
        trace(model)
    model(np.ones((2, 3), "float32"))
    with pytest.raises(UnsupportedModelError, match=r"dense.*/kernel': '. .'"):
        trace(model)
    x = keras.Input((3,))
    with pytest.raises(UnsupportedModelError, match="subclassed"):
        trace(Overridden(x, L.Dense(2)(x)))


def test_a_subclassed_part_is_pinned():
    x = keras.Input((3,))
    model = keras.Model(x, L.Dense(2)(Subclassed()(L.Dense(5)(x))))
    graph = check(model, normal(2, 3), moved=0, clone=False).graph
    assert not graph.groups
    assert any("no rule for Subclassed" in reason for reason in graph.pinned.values())


def test_an_unbuilt_model():
    with pytest.raises(UnsupportedModelError, match="is not built"):
        trace(keras.Sequential([L.Dense(3)]))
    with pytest.raises(UnsupportedModelError, match=r"model.build\(\(2, 5\)\)"):
        trace(keras.Sequential([L.Dense(3)]), np.ones((2, 5)))


def test_wrong_inputs():
    model = mlp(4)
    with pytest.raises(ShapeError, match=r"shape \(2, 6\), but the model takes \(None, 5\)"):
        trace(model, np.ones((2, 6)))
    with pytest.raises(ShapeError, match=r"shape \(5,\)"):
        trace(model, np.ones(5))
    with pytest.raises(ShapeError, match="the model has 1 inputs"):
        trace(model, np.ones((2, 5)), np.ones((2, 5)))
    with pytest.raises(UnsupportedModelError, match=r"expected a keras\.Model"):
        trace(L.Dense(2))
