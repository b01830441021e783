"""REPAIR of Keras models: which layers are repaired, and that their statistics are then what they should be."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose
from rebasin_keras.adapter import KerasAdapter
from rebasin_keras.unit_layers import unit_layers

import rebasin_core as rb
from rebasin_core.errors import UnsupportedModelError

ADAPTER = KerasAdapter()


class Mine(keras.layers.Dense):
    """A layer of the user's, of which nobody knows what it computes."""


def network():
    """One of every kind, some in a nested model: activations by name and as layers, without a bias, without a scale."""
    inner = keras.Sequential(
        [
            keras.Input((4, 4, 5)),
            keras.layers.Conv2D(6, 3, use_bias=False, activation="relu", name="conv"),
            keras.layers.BatchNormalization(name="norm"),
        ],
        name="inner",
    )
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(5, 3, padding="same", activation="relu", name="stem")(inputs)
    x = keras.layers.Flatten()(inner(keras.layers.BatchNormalization(scale=False)(x)))
    x = keras.layers.Dense(7, activation=keras.layers.LeakyReLU(0.2), name="wide")(x)
    x = Mine(5, "relu", name="mine")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


REPAIRED = {"stem", "inner/conv", "inner/norm", "wide"}


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).normal(size=(50, 4, 4, 2)).astype("float32") + 0.5


@pytest.fixture(scope="module")
def ends(models):
    return tuple(models.scrambled(network(), seed) for seed in (0, 1))


def moments(model, x):
    """Mean and deviation of what the repaired layers say, computed from their weights."""
    stem, norm, inner, _, wide = model.layers[1:6]
    middle, last = (keras.Model(model.inputs[0], tensor)(x) for tensor in (norm.output, wide.input))
    found = {
        "stem": keras.ops.conv(x, stem.kernel.value, padding="same") + stem.bias.value,
        "inner/conv": keras.ops.conv(middle, inner.layers[0].kernel.value),
        "inner/norm": inner(middle),
        "wide": keras.ops.matmul(last, wide.kernel.value) + wide.bias.value,
    }
    rows = {name: keras.ops.convert_to_numpy(y).reshape(-1, y.shape[-1]) for name, y in found.items()}
    return {name: (y.mean(0), y.std(0)) for name, y in rows.items()}


def test_statistics_are_those_between_the_networks(ends, data, models):
    merged = rb.interpolate(*ends, 0.25)
    record = models.Record(merged, *ends)
    found = rb.repair(merged, ends, data, weights=[3, 1], batch_size=16)
    record.check()
    a, b, now = (moments(model, data) for model in (*ends, found))
    for name in REPAIRED:
        wanted = [0.75 * x + 0.25 * y for x, y in zip(a[name], b[name], strict=True)]
        assert_allclose(now[name][1], wanted[1], rtol=1e-4, err_msg=name)
        if name != "inner/conv":
            assert_allclose(now[name][0], wanted[0], rtol=1e-4, atol=1e-5, err_msg=name)
    before, after = ADAPTER.params(merged), ADAPTER.params(found)
    for name, x in before.items():
        same = np.array_equal(*map(keras.ops.convert_to_numpy, (x, after[name])))
        assert same == (name.rpartition("/")[0] not in REPAIRED or "moving" in name), name


def test_layers_are_told_in_the_order_in_which_they_compute(ends, data):
    found = unit_layers(ends[0], rb.permutation_graph(ends[0]))
    assert set(found.layers) == REPAIRED
    params = ADAPTER.params(ends[0])
    for rows in (50, 7):  # compiled anew for another size
        told = found.outputs(params, data[:rows])
        assert [name for name, _ in told] == ["stem", "inner/conv", "inner/norm", "wide"]
        assert told[0][1].shape == (rows * 16, 5)


def test_channels_first_are_units_too(data):
    if keras.backend.backend() != "torch":
        pytest.skip("other backends have no such convolution on a CPU")
    layer = keras.layers.Conv2D(5, 3, data_format="channels_first", name="conv")
    flat = keras.layers.Flatten(data_format="channels_first")
    model = keras.Sequential([keras.Input((2, 4, 4)), layer, flat, keras.layers.Dense(2)])
    x = data.transpose(0, 3, 1, 2)
    ((name, told),) = unit_layers(model, rb.permutation_graph(model)).outputs(ADAPTER.params(model), x)
    assert name == "conv"
    first, expected = (keras.ops.convert_to_numpy(y) for y in (told[:4], layer(x)[0]))
    assert_allclose(first.T, expected.reshape(5, 4), rtol=1e-4, atol=1e-5)


def test_merging_repairs_along_the_way(task):
    settings = {"solver": rb.solvers.WeightMatching(), "progress": False}
    result = rb.align(task.a, task.b, **settings)
    expected = rb.repair(result.merge(), [task.a, result.model], task.x)
    for found in (result.merge(repair=task.x), rb.merge([task.a, task.b], repair=(task.x, task.y), **settings)):
        for x, y in zip(found.get_weights(), expected.get_weights(), strict=True):
            assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    assert not np.allclose(expected.get_weights()[0], result.merge().get_weights()[0])


def test_a_model_without_such_layers_is_refused(data):
    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises(UnsupportedModelError, match="no layer of this Sequential can be repaired"):
        rb.repair(model, [model, model], data)
