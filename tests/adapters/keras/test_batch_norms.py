"""Statistics of batch normalization: re-estimated, and replaced by those of the batch where a gradient is to flow."""

import inspect

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose
from rebasin_keras.adapter import KerasAdapter

import rebasin_core as rb
from rebasin_core.backends import get_backend
from rebasin_core.errors import DataError, NonFiniteError
from rebasin_core.models.model import open_model

ADAPTER = KerasAdapter()
Midpoint, RandomPoint = rb.objectives.Midpoint, rb.objectives.RandomPoint
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
WEIGHT_MATCHING = {"solver": rb.solvers.WeightMatching(), "progress": False}


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def weights(model):
    return {name: numpy(x) for name, x in ADAPTER.params(model).items()}


def same_weights(a, b, **tolerance):
    a, b = weights(a), weights(b)
    assert list(a) == list(b)
    for name, x in a.items():
        assert_allclose(x, b[name], err_msg=name, **tolerance)


def network(dropout=0.5, momentum=0.99, inner_trainable=False, **settings):
    """A layer called twice, one that is frozen in a nested model, dropout in between."""
    norm = keras.layers.BatchNormalization(momentum=momentum, **settings)
    inner = keras.Sequential(
        [
            keras.Input((4, 4, 5)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(momentum=momentum, trainable=inner_trainable),
            keras.layers.ReLU(),
        ]
    )
    inputs = keras.Input((4, 4, 2))
    x = norm(keras.layers.Conv2D(5, 3, padding="same")(inputs))
    x = keras.layers.Dropout(dropout)(keras.layers.ReLU()(x))
    x = inner(norm(keras.layers.Rescaling(2.0)(x)))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 4, 4, 2)).astype("float32") + 1.0, np.arange(12) % 3


@pytest.fixture(scope="module")
def nets(models):
    return tuple(models.scrambled(network(), seed) for seed in (0, 1))


def with_weights(copy, model):
    copy.set_weights(model.get_weights())
    return copy


# --- measuring --------------------------------------------------------------------------------------------------------
def test_mean_and_variance_by_hand():
    """Mean over the batches, whatever their size; the variance of a batch with divisor n."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="norm")])
    first, second = np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([[2.0, 1.0], [2.0, 1.0], [5.0, 4.0]])
    found = weights(rb.reestimate(model, [(first, None), (second, None)]))
    assert_allclose(found["norm/moving_mean"], [(2 + 3) / 2, (2 + 2) / 2])
    assert_allclose(found["norm/moving_variance"], [(1 + 2) / 2, (4 + 2) / 2])


def test_the_result_is_that_of_keras_in_training_without_dropout(nets, data):
    """In one batch, with a momentum of 0: what a training call leaves behind; of a layer called twice, the mean."""
    trained = with_weights(network(dropout=0.0, momentum=0.0, inner_trainable=True), nets[0])
    trained(data[0], training=True)
    found, expected = weights(rb.reestimate(nets[0], data)), weights(trained)
    hidden = numpy(keras.Model(nets[0].inputs[0], nets[0].layers[1].output)(data[0]))  # before the norm
    first = {"moving_mean": hidden.mean((0, 1, 2)), "moving_variance": hidden.var((0, 1, 2))}
    for name, x in found.items():
        layer, _, kind = name.partition("/")
        if layer == "batch_normalization" and kind in first:
            assert_allclose(x, (first[kind] + expected[name]) / 2, rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            assert_allclose(x, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_batches_are_averaged_and_statistics_that_fit_the_data_stay(nets, data):
    parts = [weights(rb.reestimate(nets[0], data[0][i : i + 4])) for i in (0, 4, 8)]
    found = rb.reestimate(nets[0], data, batch_size=4)
    for name, x in weights(found).items():
        assert_allclose(x, np.mean([part[name] for part in parts], axis=0), rtol=1e-4, atol=1e-5, err_msg=name)
    same_weights(rb.reestimate(found, data, batch_size=4), found, rtol=1e-5, atol=1e-6)


def test_permuting_and_measuring_commute(nets, data):
    graph = rb.permutation_graph(nets[0])
    plan = rb.Plan.random(graph, seed=3)
    one = rb.reestimate(rb.permute(nets[0], plan, graph), data)
    other = rb.permute(rb.reestimate(nets[0], data), plan, graph)
    same_weights(one, other, rtol=1e-3, atol=1e-5)
    assert graph.groups


def test_the_model_and_the_random_state_are_left_alone(nets, data, models):
    record = models.Record(*nets)
    found = rb.reestimate(nets[0], data[0], batch_size=6)
    bound = Midpoint(LOSS, data).bind(open_model(nets[0]), None)
    bound.value(ADAPTER.params(nets[0]), ADAPTER.params(nets[1]), data)
    record.check()
    assert type(found) is type(nets[0])
    flags = ([layer.trainable for layer in model._flatten_layers()] for model in (found, nets[0]))
    assert next(flags) == next(flags)
    assert found.layers[2].momentum == 0.99


def test_without_batch_normalization_the_copy_is_the_model(task):
    found = rb.reestimate(task.a, task.x)
    same_weights(found, task.a, rtol=0)
    assert found is not task.a


def test_mixed_precision_changes_nothing(nets, data):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        mixed = with_weights(network(), nets[0])
    finally:
        keras.config.set_dtype_policy("float32")
    check_normalized(mixed, weights(rb.reestimate(nets[0], data)), data)


@pytest.mark.skipif(
    "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters, reason="a setting of Keras 3.14"
)
def test_renormalization_changes_nothing(nets, data):
    renormed = network(renorm=True)
    for layer, source in ((renormed.layers[1], nets[0].layers[1]), (renormed.layers[6], nets[0].layers[6])):
        layer.set_weights(source.get_weights())
    norm = renormed.layers[2]
    norm.gamma.assign(nets[0].layers[2].gamma)
    norm.beta.assign(nets[0].layers[2].beta)
    check_normalized(renormed, weights(rb.reestimate(nets[0], data)), data)


def check_normalized(model, expected, data):
    found = weights(rb.reestimate(model, data))
    for name in ("batch_normalization/moving_mean", "batch_normalization/moving_variance"):
        assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_what_has_no_variance_or_is_not_finite_is_refused(models):
    layers = [keras.Input((3,)), keras.layers.Dense(4), keras.layers.BatchNormalization(name="norm")]
    model = keras.Sequential(layers)
    record = models.Record(model)
    with pytest.raises(DataError, match=r"^batch normalization.*'norm' got \[1, 4\].*batch_size") as caught:
        rb.reestimate(model, np.ones((5, 3)), batch_size=2)
    assert "Exception encountered" not in str(caught.value)
    with pytest.raises(NonFiniteError, match=r"'norm/moving_mean' came out as NaN"):
        rb.reestimate(model, np.full((4, 3), np.nan))
    with pytest.raises(DataError, match="this needs data"):
        rb.reestimate(model, None)
    record.check()


# --- the line ---------------------------------------------------------------------------------------------------------
def test_the_line_is_measured_anew_at_every_place(nets, data):
    (a, b), (x, y) = nets, data
    middle = rb.interpolate(a, b, 0.25, reestimate=data, batch_size=6)
    same_weights(middle, rb.reestimate(rb.interpolate(a, b, 0.25), data, batch_size=6), rtol=1e-5, atol=1e-6)
    curve = rb.connectivity(a, b, LOSS, data, [0, 0.25, 1], batch_size=6, reestimate=True)
    ends = [rb.reestimate(model, data, batch_size=6) for model in (a, b)]
    for loss, model in zip(curve.losses, (ends[0], middle, ends[1]), strict=True):
        assert_allclose(loss, numpy(LOSS(y, model(x, training=False))), rtol=1e-4)
    rebased = rb.align(a, b, **WEIGHT_MATCHING)
    merged = rb.merge([a, b], t=0.25, reestimate=x, batch_size=6, **WEIGHT_MATCHING)
    same_weights(merged, rb.reestimate(rebased.merge(0.25), data, batch_size=6), rtol=1e-5, atol=1e-6)


# --- objectives -------------------------------------------------------------------------------------------------------
def one_layer():
    norm = keras.layers.BatchNormalization(epsilon=1e-3, name="norm")
    head = keras.layers.Dense(3, use_bias=False, name="head")
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="fc"), norm, keras.layers.ReLU(), head])


def written_by_hand(p, x):
    ops = keras.ops
    h = ops.matmul(x, p["fc/kernel"]) + p["fc/bias"]
    mean = ops.mean(h, 0)
    variance = ops.mean((h - mean) ** 2, 0)
    h = (h - mean) / ops.sqrt(variance + 1e-3) * p["norm/gamma"] + p["norm/beta"]
    return ops.matmul(ops.relu(h), p["head/kernel"])


def test_values_and_gradients_are_those_of_a_pass_written_by_hand(models):
    nets = [models.scrambled(one_layer(), seed) for seed in (0, 1)]
    a, b = (ADAPTER.params(model) for model in nets)
    x, y = np.random.default_rng(0).normal(size=(9, 3)).astype("float32"), np.zeros((9, 3), "float32")
    bound = Midpoint("mean_squared_error", (x, y)).bind(open_model(nets[0]), None)
    record = models.Record(*nets)
    learned = {name: b[name] for name in ("fc/kernel", "norm/gamma")}

    def by_hand(p):
        middle = {name: 0.5 * (a[name] + q) for name, q in {**b, **p}.items()}
        return keras.ops.mean(written_by_hand(middle, keras.ops.convert_to_tensor(x)) ** 2)

    backend = get_backend(b["fc/kernel"])
    value, gradients = backend.value_and_grad(lambda p: bound.value(a, {**b, **p}, (x, y)), learned)
    expected_value, expected = backend.value_and_grad(by_hand, learned)
    record.check()
    assert_allclose(value, expected_value, rtol=1e-5)
    for name, g in expected.items():
        assert_allclose(numpy(gradients[name]), numpy(g), rtol=1e-3, atol=1e-6)


def test_running_statistics_are_used_when_asked_for(nets, data):
    a, b = (ADAPTER.params(model) for model in nets)
    x, y = data
    for how, model in (
        ("running", rb.interpolate(*nets, 0.25)),
        ("batch", rb.interpolate(*nets, 0.25, reestimate=data)),
    ):
        bound = RandomPoint(LOSS, data, normalization=how).bind(open_model(nets[1]), None)
        if how == "batch":  # of a layer called twice, statistics are a mean over calls, the batch's are not
            model = with_weights(network(dropout=0.0, momentum=0.0, inner_trainable=True), model)
            outputs = model(x, training=True)
        else:
            outputs = model(x, training=False)
        assert_allclose(numpy(bound.value(a, b, (data, 0.25))), numpy(LOSS(y, outputs)), rtol=1e-4)


def test_an_alignment_by_the_loss_with_batch_normalization(models):
    a, b = (models.scrambled(one_layer(), seed) for seed in (0, 1))
    x = np.random.default_rng(0).normal(size=(9, 3)).astype("float32")
    record = models.Record(a, b)
    solver = rb.solvers.Sinkhorn(max_steps=2, num_rounds=1)
    result = rb.align(a, b, objective=Midpoint(LOSS, (x, np.arange(9) % 3)), solver=solver, progress=False)
    record.check()
    assert result.objective <= result.initial_objective
    assert_allclose(numpy(result.model(x)), numpy(b(x)), rtol=1e-4, atol=1e-5)
