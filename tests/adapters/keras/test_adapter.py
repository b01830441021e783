"""The model adapter: names, copies, the function of the weights, and what it refuses."""

import random

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rebasin_keras.adapter import KerasAdapter
from rebasin_keras.copies import rebuild_model
from rebasin_keras.variables import named_variables

import rebasin_core as rb
from rebasin_core.errors import DataError, NonFiniteError, ShapeError, SpecError, UnsupportedModelError
from rebasin_core.models.model import find_adapter
from rebasin_core.testing import check_adapter

ADAPTER = KerasAdapter()


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def predict(model, x):
    return numpy(model(x, training=False))


# --- the protocol -----------------------------------------------------------------------------------------------------
def test_the_laws_of_the_protocol(models):
    model = models.scrambled(models.conv_net(), 0)
    x = np.random.default_rng(1).normal(size=(5, 6, 6, 2)).astype("float32")
    record = models.Record(model)
    laws = check_adapter(ADAPTER, model, x, outputs=lambda model, x: model(x, training=False))
    record.check()
    assert {"batch_norms: measures running statistics", "activations: move with their groups"} <= set(laws)


# --- parameters -------------------------------------------------------------------------------------------------------
def test_models_are_found_as_those_of_keras_whatever_computes(models):
    assert find_adapter(models.mlp()).name == "keras"


def test_names_do_not_depend_on_what_was_built_before(models):
    first, second = models.conv_net(), models.conv_net()
    assert list(named_variables(first)) == list(named_variables(second))
    assert next(iter(named_variables(first))) == "conv2d/kernel"
    assert len(named_variables(first)) == len(first.weights) == 9
    again = keras.Model.from_config(first.get_config())
    assert list(named_variables(again)) == list(named_variables(first))


def test_names_given_by_a_person_are_kept():
    layers = [keras.layers.Dense(3, name="fc_7"), keras.layers.Dense(3), keras.layers.Dense(2, name="fc_3")]
    model = keras.Sequential([keras.Input((2,)), *layers], name="net")
    names = list(named_variables(model))
    assert names[::2] == ["fc_7/kernel", "dense/kernel", "fc_3/kernel"]


def test_params_are_a_snapshot(models):
    model = models.scrambled(models.mlp(), 0)
    params = ADAPTER.params(model)
    before = {name: numpy(x) for name, x in params.items()}
    for v in model.weights:
        v.assign(v * 0)
    for name, x in params.items():
        assert_array_equal(numpy(x), before[name])


def test_nested_models_and_wrappers_have_distinct_names():
    def block():
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="same")])

    inputs = keras.Input((5, 4))
    x = keras.layers.Bidirectional(keras.layers.LSTM(3))(inputs)
    x = keras.layers.Dense(4)(x)
    model = keras.Model(inputs, block()(block()(x)))
    names = named_variables(model)
    assert len(names) == len(model.weights)
    assert list(names)[-4:] == [f"sequential{n}/same/{kind}" for n in ("", "_1") for kind in ("kernel", "bias")]


def test_a_path_that_occurs_twice_is_numbered():
    def block(name):
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(4, name="same")(inputs), name=name)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, block("second")(block("first")(inputs)))
    names = named_variables(model)
    assert list(names) == ["same/kernel", "same/bias", "same/kernel#2", "same/bias#2"]
    assert len({id(v) for v in names.values()}) == 4


# --- the function -----------------------------------------------------------------------------------------------------
def test_forward_is_the_model_in_inference(models):
    model = models.scrambled(models.conv_net(), 0)
    x = np.random.default_rng(1).normal(size=(3, 6, 6, 2)).astype("float32")
    record = models.Record(model)
    outputs = ADAPTER.forward(model)(ADAPTER.params(model), x)
    assert_allclose(numpy(outputs), predict(model, x), atol=1e-5)
    doubled = {name: 2 * v for name, v in ADAPTER.params(model).items()}
    assert not np.allclose(numpy(ADAPTER.forward(model)(doubled, x)), numpy(outputs))
    record.check()


def test_forward_takes_nested_inputs():
    first, second = keras.Input((3,), name="first"), keras.Input((2,), name="second", dtype="int32")
    joined = keras.layers.Concatenate()([first, keras.layers.Flatten()(keras.layers.Embedding(4, 2)(second))])
    model = keras.Model({"first": first, "second": second}, [keras.layers.Dense(2)(joined), joined])
    (example,) = ADAPTER.example_inputs(model)
    assert example["second"].shape == (4, 2)
    outputs = ADAPTER.forward(model)(ADAPTER.params(model), example)
    for found, wanted in zip(outputs, model(example), strict=True):
        assert_allclose(numpy(found), numpy(wanted), rtol=1e-5, atol=1e-6)


def test_example_inputs_need_declared_sizes(models):
    (x,) = ADAPTER.example_inputs(models.conv_net())
    assert x.shape == (4, 6, 6, 2)
    assert_array_equal(x, ADAPTER.example_inputs(models.conv_net())[0])
    open_size = keras.Input((None, 3))
    assert ADAPTER.example_inputs(keras.Model(open_size, keras.layers.Dense(2)(open_size))) is None


def test_seed_generators_are_left_alone(models):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.5, seed=3)(keras.layers.Dense(6)(inputs))))
    model(np.ones((2, 4)), training=True)  # the generator has moved on from where its seed puts it
    record = models.Record(model)
    copy = rebuild_model(model, ADAPTER.params(model))
    ADAPTER.forward(model)(ADAPTER.params(model), np.ones((2, 4)))
    record.check()
    assert len(model.variables) > len(model.weights)
    for old, new in zip(model.variables, copy.variables, strict=True):
        assert_array_equal(numpy(old), numpy(new))


def test_mixed_precision_computes_in_full(models):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = models.scrambled(models.mlp(), 0)
        x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
        record = models.Record(model)
        outputs = ADAPTER.forward(model)(ADAPTER.params(model), x)
        copy = rebuild_model(model, ADAPTER.params(model))
    finally:
        keras.config.set_dtype_policy(policy)
    record.check()
    assert "float32" in str(outputs.dtype)
    assert_allclose(numpy(outputs), numpy(keras.ops.cast(model(x), "float32")), atol=0.05)
    plain = models.mlp()
    plain.set_weights(model.get_weights())
    assert_allclose(numpy(outputs), predict(plain, x), rtol=1e-5, atol=1e-5)
    assert [layer.compute_dtype for layer in copy.layers] == [layer.compute_dtype for layer in model.layers]


# --- copies -----------------------------------------------------------------------------------------------------------
def swish_of_mine(x):
    return x * keras.ops.sigmoid(x)


class Scale(keras.layers.Layer):
    """A layer of the user's, not registered."""

    def __init__(self, start=2.0, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factor")

    def call(self, inputs):
        return self.start * self.factor * inputs

    def get_config(self):
        return {**super().get_config(), "start": self.start}


class Opaque(keras.layers.Layer):
    """Made from something no configuration can hold."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.inner = function

    def call(self, inputs):
        return self.inner(inputs)


class Subclassed(keras.Model):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.hidden, self.out = keras.layers.Dense(width, "relu", name="hidden"), keras.layers.Dense(2, name="out")

    def call(self, inputs):
        return self.out(self.hidden(inputs))

    def get_config(self):
        return {"width": self.width}


def custom_model():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, swish_of_mine, kernel_regularizer=keras.regularizers.L2(1e-3))(inputs)
    x = Scale(3.0)(x)
    shift = 0.25
    x = keras.layers.Lambda(lambda x: keras.ops.tanh(x) + shift)(x)
    x = keras.ops.relu(x) + 1.0
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6), Scale()])
    return keras.Model(inputs, keras.layers.Dense(2)(inner(inner(x))))


def test_copies_keep_custom_objects_and_share_nothing(models):
    model = models.scrambled(custom_model(), 0)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    record = models.Record(model)
    copy = rebuild_model(model, ADAPTER.params(model))
    record.check()
    assert type(copy) is type(model)
    assert_array_equal(predict(copy, x), predict(model, x))
    for v in copy.weights:
        v.assign(v * 0)
    record.check()


def test_copies_keep_flags_and_compile_afresh(models):
    model = models.mlp()
    model.layers[0].trainable = False
    model.layers[2].bias.trainable = False
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    data = np.ones((4, 4)), np.zeros(4)
    model.fit(*data, verbose=0)
    record = models.Record(model)
    copy = rebuild_model(model, ADAPTER.params(model))
    record.check()
    assert [v.trainable for v in copy.weights] == [v.trainable for v in model.weights]
    assert [layer.trainable for layer in copy.layers] == [layer.trainable for layer in model.layers]
    assert copy.compiled
    assert copy.optimizer is not model.optimizer
    assert_allclose(float(keras.ops.convert_to_numpy(copy.optimizer.learning_rate)), 0.3)
    assert copy.evaluate(*data, verbose=0) == pytest.approx(model.evaluate(*data, verbose=0))
    after = models.Record(model)
    copy.fit(*data, verbose=0)  # which on JAX hands its arrays over, and deletes them
    after.check()
    model.fit(*data, verbose=0)
    predict(copy, data[0])


def test_a_copy_of_a_model_whose_loss_cannot_be_copied_is_not_compiled(models):
    inputs = keras.Input((4,))
    for model in (keras.Model(inputs, keras.layers.Dense(2)(inputs)), models.mlp()):
        model.compile("sgd", lambda y_true, y_pred: keras.ops.mean(y_pred))
        copy = rebuild_model(model, ADAPTER.params(model))
        assert model.compiled
        assert not copy.compiled
        assert_array_equal(predict(copy, np.ones((2, 4))), predict(model, np.ones((2, 4))))


def test_subclassed_models_are_carried_with_a_graph_of_their_own(models):
    model = Subclassed(5)
    model(np.ones((1, 3)))
    axes = {"hidden/kernel": ". h", "hidden/bias": "h", "out/kernel": "h .", "out/bias": "."}
    graph = rb.PermutationGraph.from_axes(axes, ADAPTER.params(model))
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    assert rb.verify(model, graph, x).error < 1e-5
    other = rb.permute(model, rb.Plan({"h": [4, 3, 2, 1, 0]}), graph)
    assert type(other) is Subclassed
    assert_allclose(predict(other, x), predict(model, x), rtol=1e-5, atol=1e-5)
    assert_array_equal(numpy(other.hidden.bias), numpy(model.hidden.bias)[::-1])


def test_a_file_that_was_loaded_rebased_and_saved_predicts_the_same(models, tmp_path):
    model = models.scrambled(models.conv_net(), 0)
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    graph = rb.permutation_graph(loaded)
    assert graph.groups == {"conv2d": 5}
    other = rb.permute(loaded, rb.Plan({"conv2d": [4, 0, 3, 1, 2]}), graph)
    other.save(tmp_path / "rebased.keras")
    again = keras.saving.load_model(tmp_path / "rebased.keras")
    assert_allclose(predict(again, x), predict(model, x), rtol=1e-4, atol=1e-5)
    assert not np.array_equal(numpy(again.weights[0]), numpy(model.weights[0]))
    assert_array_equal(predict(again, x), predict(other, x))


# --- bad input --------------------------------------------------------------------------------------------------------
def test_unbuilt_models_are_refused():
    for model in (keras.Sequential([keras.layers.Dense(3)]), Subclassed(3)):
        with pytest.raises(UnsupportedModelError, match="not built"):
            rb.permutation_graph(model)


def test_a_layer_that_cannot_be_copied_is_named():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Opaque(lambda x: x * 2.0)(keras.layers.Dense(2)(inputs)))
    graph = rb.PermutationGraph.from_axes(
        {name: " ".join("." * len(v.shape)) for name, v in named_variables(model).items()}, ADAPTER.params(model)
    )
    with pytest.raises(UnsupportedModelError, match=r"cannot be copied: .*Opaque.* get_config"):
        rb.permute(model, rb.Plan.identity(graph), graph)


def test_wrong_inputs_are_refused(models):
    model = models.mlp()
    graph = rb.permutation_graph(model)
    record = models.Record(model)
    with pytest.raises(DataError, match=r"shape \(2, 9\).*\(None, 4\)"):
        rb.verify(model, graph, np.ones((2, 9)))
    record.check()


def test_models_of_two_architectures_are_refused(models):
    def conv(activation="relu", strides=1, second="Conv2D"):
        inputs = keras.Input((6, 6, 1))
        x = keras.layers.Conv2D(3, 3, strides=strides, padding="same", activation=activation)(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x) if second == "mean" else keras.layers.GlobalMaxPooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(2)(x))

    for other, message in (
        (conv("tanh"), "activation is 'relu' in model A and 'tanh' in model B"),
        (conv(strides=2), "strides"),
        (conv(second="mean"), "GlobalMaxPooling2D .* GlobalAveragePooling2D"),
    ):
        with pytest.raises(UnsupportedModelError, match=message):
            rb.interpolate(conv(), other)
    with pytest.raises(ShapeError, match="dense/kernel"):
        rb.interpolate(models.mlp(8), models.mlp(9))
    deeper = keras.Sequential(
        [keras.Input((4,)), *models.mlp().layers[:-1], keras.layers.Dense(8), models.mlp().layers[-1]]
    )
    with pytest.raises(ShapeError, match="dense_2/kernel"):
        rb.interpolate(models.mlp(), deeper)
    with pytest.raises(SpecError, match="has none"):
        rb.interpolate(keras.Sequential([keras.Input((4,)), *models.mlp().layers[:-1]]), models.mlp())


def test_wiring_and_lambdas_are_compared():
    def wired(crossed, factor=2.0, width=3):
        inputs = keras.Input((3,))
        a, b = keras.layers.Dense(width)(inputs), keras.layers.Dense(width)(inputs)
        a = keras.layers.Lambda(lambda x: factor * x)(a)
        return keras.Model(inputs, keras.layers.subtract([b, a] if crossed else [a, b]))

    rb.interpolate(wired(False), wired(False))
    with pytest.raises(UnsupportedModelError, match=r"one architecture|the same way"):
        rb.interpolate(wired(False), wired(True))
    with pytest.raises(UnsupportedModelError, match="another function"):
        rb.interpolate(wired(False), wired(False, factor=3.0))


def test_nan_is_refused(models):
    model = models.mlp()
    values = model.get_weights()
    values[0][0, 0] = np.nan
    model.set_weights(values)
    with pytest.raises(NonFiniteError, match="dense/kernel"):
        rb.interpolate(model, models.mlp())


def test_layers_are_no_models():
    with pytest.raises(UnsupportedModelError, match="Wrap a layer"):
        rb.permutation_graph(keras.layers.Dense(3))


def test_a_lambda_keeps_the_rest_of_the_network_movable():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(6, "relu")(inputs)
    x = keras.layers.Lambda(lambda x: x * 2.0)(keras.layers.Dense(5)(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    graph = rb.permutation_graph(model)
    assert graph.groups == {"dense": 6}
    assert rb.verify(model, graph).error < 1e-5
    other = rb.permute(model, rb.Plan.random(graph, seed=0), graph)
    assert_allclose(predict(other, np.ones((1, 4))), predict(model, np.ones((1, 4))), rtol=1e-5, atol=1e-5)


# --- random state -----------------------------------------------------------------------------------------------------
def test_random_states_are_given_back():
    with ADAPTER.keep_random_state(seed=5):
        first = random.random(), np.random.random()  # noqa: NPY002
    before = random.getstate()
    with ADAPTER.keep_random_state(seed=5):
        assert (random.random(), np.random.random()) == first  # noqa: NPY002
    assert random.getstate() == before
