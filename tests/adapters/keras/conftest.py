"""One process, one backend: the same tests run with KERAS_BACKEND set to tensorflow, jax or torch."""

import random
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

if find_spec("keras") is None:
    collect_ignore_glob = ["*"]
else:
    import keras  # behind torch, which tests/conftest.py imports: in the other order it and TensorFlow crash

    if keras.backend.backend() == "jax":
        import jax

        # Nearly all the time goes into compiling; what is compiled here runs for microseconds.
        jax.config.update("jax_disable_most_optimizations", True)

HERE = Path(__file__).parent

# Keras's variables become arrays by a protocol that NumPy 2 has changed.
COPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
RAISED_BY_KERAS = [
    f"{COPY}:keras.src.backend.{module}" for module in ("torch.core", "tensorflow.core", "jax.core", "common.variables")
]


# JAX compiles each of these for seconds; what is left covers every derivative at least once, and compilation of each.
SLOW_ON_JAX = (
    "gradient_is_that_of_numpy[fixed-eager]",
    "gradient_is_that_of_numpy[fixed-compiled]",
    "temperature_gradient_is_that_of_numpy[tol-eager]",
    "temperature_gradient_is_that_of_numpy[fixed-compiled]",
    "second_derivative_is_that_of_numpy[fixed-eager]",
    "second_derivative_is_that_of_numpy[tol-eager]",
    "second_derivative_is_that_of_numpy[fixed-compiled]",
    "single_precision_is_accurate[16-1.0]",
    "single_precision_is_accurate[16-0.001]",
    "rectangles_and_marginals[shape1]",
    "half_precision_computes_in_single[float16]",
    "any_finite_logits_give_finite_numbers_and_derivatives[float16-tolerance]",
    "any_finite_logits_give_finite_numbers_and_derivatives[bfloat16-tolerance]",
    "any_finite_logits_give_finite_numbers_and_derivatives[bfloat16-iterations]",
    "what_is_told_beside_a_plan_is_that_of_numpy[fixed-compiled]",
    "mixed_derivative_in_temperature_is_that_of_numpy[fixed]",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            for warning in RAISED_BY_KERAS:
                item.add_marker(pytest.mark.filterwarnings(warning))
            if keras.backend.backend() == "jax" and item.name.removeprefix("test_") in SLOW_ON_JAX:
                item.add_marker(pytest.mark.slow)


# --- the framework under Keras ----------------------------------------------------------------------------------------
def _tensorflow():
    import tensorflow as tf

    def grad(fun):
        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = fun(x)
            return tape.gradient(value, x, unconnected_gradients="zero")

        return gradient

    def jit(fun):
        return tf.function(fun, autograph=False)

    return SimpleNamespace(array=tf.constant, grad=grad, jit=jit, sum=tf.reduce_sum, wide=None)


def _jax():
    import jax
    import jax.numpy as jnp

    return SimpleNamespace(
        array=jnp.asarray, grad=jax.grad, jit=jax.jit, sum=jnp.sum, wide=lambda: jax.enable_x64(True)
    )


def _torch():
    import torch

    def grad(fun):
        def gradient(x):
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(fun(x), x, create_graph=True)[0]

        return gradient

    return SimpleNamespace(array=torch.tensor, grad=grad, jit=None, sum=torch.sum, wide=None)


@pytest.fixture(scope="session")
def framework():
    """Arrays, gradients and compilation of the framework that Keras computes with."""
    name = keras.backend.backend()
    made = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[name]()
    made.name = name
    return made


@pytest.fixture
def wide(framework):
    """Double precision, which JAX has to be asked for."""
    if framework.wide is None:
        yield
    else:
        with framework.wide():
            yield


# --- models -----------------------------------------------------------------------------------------------------------
def mlp(width=8, activation="relu"):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(width, activation),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(width, activation),
            keras.layers.Dense(3, "softmax"),
        ]
    )


def conv_net():
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(5, 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    skip = x
    x = keras.layers.Conv2D(5, 3, padding="same")(x)
    x = keras.layers.add([x, skip])
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def scrambled(model, seed):
    """Give every weight random values, those of norms included, so that a wrong axis shows."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        low, high = (0.5, 1.5) if "variance" in v.path or "gamma" in v.path else (-1.0, 1.0)
        v.assign(rng.uniform(low, high, v.shape).astype("float32") * (1.0 if low > 0 else len(v.shape) ** -0.5))
    return model


class Record:
    """Everything of some models that a call must leave alone, and the random states beside it."""

    def __init__(self, *models):
        # Keras makes its own seed generator when it is first asked for, with a draw from Python's state.
        keras.random.uniform((1,))
        self.models = models
        self.before = [self._of(model) for model in models]
        self.random = self._random()

    @staticmethod
    def _random():
        return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002, the global state is watched

    @staticmethod
    def _of(model):
        optimiser = model.optimizer.variables if getattr(model, "compiled", False) else []
        return {
            "values": [np.array(keras.ops.convert_to_numpy(v)) for v in (*model.variables, *optimiser)],
            "variables": [id(v) for v in (*model.variables, *optimiser)],
            "flags": [v.trainable for v in model.variables] + [layer.trainable for layer in model._flatten_layers()],
            "policies": [layer.dtype_policy.name for layer in model._flatten_layers()],
            "nodes": [len(layer._inbound_nodes) for layer in model._flatten_layers()],
            "compiled": getattr(model, "compiled", None),
        }

    def check(self, random_states=True):
        """Compare; Keras' own `fit` may shuffle by NumPy's state, which is then its business and not ours."""
        for model, before in zip(self.models, self.before, strict=True):
            now = self._of(model)
            for x, y in zip(before["values"], now["values"], strict=True):
                np.testing.assert_array_equal(x, y, strict=True)
            assert {**now, "values": None} == {**before, "values": None}
        assert not random_states or self._random() == self.random


@pytest.fixture(scope="session")
def models():
    return SimpleNamespace(mlp=mlp, conv_net=conv_net, scrambled=scrambled, Record=Record)


@pytest.fixture(scope="session")
def task():
    """Three classes of points in four dimensions, and two networks that know them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 4)).astype("float32")
    y = np.argmax(np.tanh(x @ rng.normal(size=(4, 6))) @ rng.normal(size=(6, 3)), axis=1)

    def trained(seed):
        keras.utils.set_random_seed(seed)
        model = mlp()
        model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, y, batch_size=32, epochs=8, verbose=0)
        return model

    return SimpleNamespace(x=x, y=y, a=trained(1), b=trained(2))
