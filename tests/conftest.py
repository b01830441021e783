"""Shared by all tests: the Hypothesis profile, and small networks written in NumPy."""

import pickle
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace

import autograd.numpy as anp
import numpy as np
import pytest
from hypothesis import settings

import rebasin_core as rb
from rebasin_core.models.batch_norms import BatchNorms
from rebasin_core.models.mapping import MappingAdapter
from rebasin_core.models.model import _REGISTRY
from rebasin_core.testing import notation

with suppress(ImportError):
    # Before TensorFlow, and with it triton, which torch imports there: in the other order the process ends.
    import torch._dynamo  # noqa: F401

settings.register_profile("deterministic", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("deterministic")

ACTIVATIONS = {
    "relu": lambda z: anp.maximum(z, 0.0),
    "tanh": anp.tanh,
    "sigmoid": lambda z: 1.0 / (1.0 + anp.exp(-z)),
    "identity": lambda z: z,
}


@dataclass(frozen=True)
class MLP:
    """A multi-layer perceptron: weights (units, inputs), groups ``h1``, ``h2``, ... for its hidden layers."""

    widths: tuple[int, ...]
    activation: str = "tanh"
    bias: bool = True

    @property
    def depth(self):
        return len(self.widths) - 1

    def params(self, seed=0, dtype="float64"):
        rng = np.random.default_rng(seed)
        params = {}
        for i, (n_in, n_out) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            params[f"w{i}"] = rng.normal(size=(n_out, n_in)).astype(dtype)
            if self.bias:
                params[f"b{i}"] = rng.normal(size=n_out).astype(dtype)
        return params

    def axes(self):
        names = [".", *(f"h{i}" for i in range(1, self.depth)), "."]
        axes = {}
        for i in range(self.depth):
            axes[f"w{i}"] = f"{names[i + 1]} {names[i]}"
            if self.bias:
                axes[f"b{i}"] = names[i + 1]
        return axes

    def graph(self, **settings):
        return rb.PermutationGraph.from_axes(self.axes(), self.params(), **settings)

    def forward(self, params, x):
        act = ACTIVATIONS[self.activation]
        for i in range(self.depth):
            x = anp.dot(x, params[f"w{i}"].T)
            x = x + params[f"b{i}"] if self.bias else x
            x = act(x) if i < self.depth - 1 else x
        return x

    def inputs(self, n=16, seed=100, dtype="float64"):
        return np.random.default_rng(seed).normal(size=(n, self.widths[0])).astype(dtype)

    def data(self, n=32, seed=100, dtype="float64"):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, self.widths[0])).astype(dtype)
        return x, rng.normal(size=(n, self.widths[-1])).astype(dtype)


@pytest.fixture(scope="session")
def mlp():
    return MLP


@pytest.fixture(scope="session")
def mse():
    def mean_squared_error(outputs, targets):
        return anp.mean((outputs - targets) ** 2)

    return mean_squared_error


class Normed:
    """One hidden layer with batch normalization, of a framework of its own; the adapter carries nothing else."""

    __module__ = "normed_nets"

    def __init__(self, seed=0, params=None):
        rng = np.random.default_rng(seed)
        self.params = params or {
            "w": rng.normal(size=(3, 5)),
            "mean": rng.normal(size=5),
            "var": rng.uniform(0.5, 1.5, size=5).astype("float32"),
            "count": np.array(7),
            "v": rng.normal(size=(5, 2)),
        }


class NormedAdapter:
    name = "normed"
    loss, metric = MappingAdapter.loss, MappingAdapter.metric
    example_inputs, check_pair = MappingAdapter.example_inputs, MappingAdapter.check_pair

    def params(self, model):
        return dict(model.params)

    def rebuild(self, model, params):
        return Normed(params={name: np.array(x) for name, x in params.items()})

    def graph(self, model, *example_inputs, pin=()):
        axes = {"w": ". h", "mean": "h", "var": "h", "count": "", "v": "h ."}
        return rb.PermutationGraph.from_axes(axes, model.params, pin=pin, buffers=["mean", "var", "count"])

    def forward(self, model):
        return lambda p, x: self.head(p, anp.dot(x, p["w"]), p["mean"], p["var"])

    def batch_norms(self, model):
        def statistics(h):
            return anp.mean(h, axis=0), anp.var(h, axis=0)

        def forward(p, x):
            h = anp.dot(x, p["w"])
            return self.head(p, h, *statistics(h))

        def measure(p, x):
            return dict(zip(("mean", "var"), statistics(x @ p["w"]), strict=True)) | {"count": np.array(1)}

        return BatchNorms(forward, measure)

    @staticmethod
    def head(p, h, mean, var):
        return anp.dot(anp.tanh((h - mean) / anp.sqrt(var + 1e-5)), p["v"])


@pytest.fixture
def normed(monkeypatch):
    """Networks with batch normalization: ``normed(seed)``."""
    monkeypatch.setitem(_REGISTRY._registered, "normed_nets", NormedAdapter())
    return Normed


@pytest.fixture(scope="session")
def unchanged():
    """A context that asserts that objects and the global random state come out bit for bit as they went in."""

    @contextmanager
    def context(*things):
        before = [pickle.dumps(thing) for thing in things]
        state = pickle.dumps(np.random.get_state())  # noqa: NPY002, the global state is what is watched
        yield
        for i, (thing, old) in enumerate(zip(things, before, strict=True)):
            assert pickle.dumps(thing) == old, f"object {i} was changed"
        assert pickle.dumps(np.random.get_state()) == state, "the global random state was changed"  # noqa: NPY002

    return context


@pytest.fixture(scope="session")
def strategies():
    """Random notations, which tests share with users."""
    return SimpleNamespace(
        networks=notation.axes_graphs, factor_lists=notation.factor_lists, group_sizes=notation.group_sizes
    )
