"""Small learners written in NumPy."""

from types import SimpleNamespace

import autograd.numpy as anp
import numpy as np
import pytest

import rebasin_core as rb
from rebasin_core.backends.optimizers import SGD, Adam


def forward(params, x):
    return anp.dot(anp.tanh(anp.dot(x, params["w1"].T) + params["b1"]), params["w2"].T)


def heads(params, x):
    hidden = anp.tanh(anp.dot(x, params["w1"].T) + params["b1"])
    return {"left": anp.dot(hidden, params["w2"].T), "right": anp.dot(hidden, params["w3"].T)}


def cross_entropy(outputs, targets):
    shifted = outputs - anp.max(outputs, axis=1, keepdims=True)
    scores = shifted - anp.log(anp.sum(anp.exp(shifted), axis=1, keepdims=True))
    return -anp.mean(scores[np.arange(len(targets)), targets])


def start(hidden=12, extra=False, seed=0):
    rng = np.random.default_rng(seed)
    params = {"w1": rng.normal(size=(hidden, 2)), "b1": np.zeros(hidden), "w2": 0.3 * rng.normal(size=(2, hidden))}
    axes = {"w1": "h .", "b1": "h", "w2": ". h"}
    if extra:
        params["w3"], axes["w3"] = 0.3 * rng.normal(size=(3, hidden)), ". h"
    return params, rb.PermutationGraph.from_axes(axes, params)


def blobs(angle, n=60, seed=0, classes=2):
    """Classes of points in directions that are turned by an angle, the domain of a task."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    at = angle + 2 * np.pi * y / classes
    return 2.0 * np.stack([np.cos(at), np.sin(at)], axis=1) + 0.5 * rng.normal(size=(n, 2)), y


def learner(params=None, graph=None, **settings):
    if params is None:
        params, graph = start()
    given = {
        "loss": cross_entropy,
        "forward": forward,
        "num_epochs": 20,
        "batch_size": 30,
        "first_optimizer": Adam(0.05),
        "residual_optimizer": SGD(0.3, momentum=0.8),
        "progress": False,
    }
    return rb.RebasinIncremental(params, graph=graph, **{**given, **settings})


@pytest.fixture(scope="session")
def small():
    return SimpleNamespace(
        forward=forward, heads=heads, cross_entropy=cross_entropy, start=start, blobs=blobs, learner=learner
    )
