"""Incremental learning of a Keras model, on the backend it computes with."""

import keras
import numpy as np
import pytest

import rebasin_core as rb
from rebasin_core.backends.optimizers import SGD, Adam
from rebasin_core.errors import SettingError


def blobs(angle, n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    at = angle + np.pi * y
    x = 2.0 * np.stack([np.cos(at), np.sin(at)], axis=1) + 0.5 * rng.normal(size=(n, 2))
    return x.astype("float32"), y


def network(heads=1, norm=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2,))
    x = keras.layers.Dense(12)(inputs)
    x = keras.layers.BatchNormalization()(x) if norm else x
    x = keras.layers.ReLU()(x)
    outputs = [keras.layers.Dense(2, activation="softmax", name=f"head{k}")(x) for k in range(heads)]
    return keras.Model(inputs, outputs if heads > 1 else outputs[0])


def learner(model, **settings):
    given = {"loss": "sparse_categorical_crossentropy", "batch_size": 60, "num_epochs": 12, "progress": False}
    given |= {"first_optimizer": Adam(0.05), "residual_optimizer": SGD(0.5, momentum=0.8), "beta": 0.01}
    return rb.RebasinIncremental(model, **{**given, **settings})


def test_the_second_task_is_learned_and_the_first_is_kept(models):
    model, first, second = network(), blobs(0.0), blobs(np.pi / 2)
    everything = models.Record(model)
    inc = learner(model)
    inc.fit_task(first)
    assert inc.evaluate(first) > 0.9
    before = inc.evaluate(second)
    inc.fit_task(second)
    assert inc.evaluate(second) > max(before, 0.8)
    assert inc.evaluate(first) > 0.8
    everything.check()
    assert type(inc.model) is type(model)
    found = keras.ops.convert_to_numpy(inc.model(first[0])).argmax(-1)
    assert np.mean(found == first[1]) == inc.evaluate(first)


def slow_on_jax(test):
    """JAX compiles every model anew, for seconds."""
    return pytest.mark.slow(test) if keras.backend.backend() == "jax" else test


@slow_on_jax
def test_distillation_holds_the_outputs_on_the_memory():
    drift = []
    for weight in (0.0, 20.0):
        inc = learner(network(), distillation=weight, num_epochs=6, beta=0.0)
        inc.fit_task(blobs(0.0))
        samples = inc.memory[0].inputs
        before = keras.ops.convert_to_numpy(inc.model(samples))
        inc.fit_task(blobs(np.pi / 2))
        drift.append(np.abs(keras.ops.convert_to_numpy(inc.model(samples)) - before).mean())
    assert drift[1] < 0.8 * drift[0]


@slow_on_jax
def test_a_run_that_is_resumed_is_the_run_without_interruption(tmp_path):
    inc = learner(network(), num_epochs=3)
    inc.fit_task(blobs(0.0))
    inc.save(tmp_path / "run.npz")
    inc.fit_task(blobs(1.0))
    resumed = rb.RebasinIncremental.load(tmp_path / "run.npz", network(), progress=False)
    resumed.fit_task(blobs(1.0))
    # TensorFlow compiles what is called often, and may round otherwise from then on.
    rtol = 1e-5 if keras.backend.backend() == "tensorflow" else 0.0
    for name, x in inc.params.items():
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(resumed.params[name]), keras.ops.convert_to_numpy(x), rtol=rtol, atol=rtol
        )


def test_heads_and_batch_norms():
    model = network(heads=2, norm=True)
    inc = learner(model, num_epochs=4)
    inc.fit_task(blobs(0.0), 0)
    moving = {name: keras.ops.convert_to_numpy(x) for name, x in inc.params.items() if "moving_mean" in name}
    assert len(moving) == 1
    assert all(np.abs(x).max() > 0 for x in moving.values())
    inc.fit_task(blobs(1.0), 1)
    assert inc.evaluate(blobs(1.0), 1) > 0.8
    for name, x in moving.items():
        assert not np.array_equal(keras.ops.convert_to_numpy(inc.params[name]), x)
    with pytest.raises(SettingError, match="2 heads"):
        inc.fit_task(blobs(0.0))
