"""Small networks, data for them, and what is expected of their groups."""

import keras
import numpy as np
from keras import layers as L  # noqa: N812

__all__ = ["chain", "data", "graph", "groups"]


def chain(shape, *layers):
    """A Sequential model with a dense head of three."""
    return keras.Sequential([keras.Input(shape), *layers, L.Dense(3)])


def graph(shape, function, *more):
    """A Functional model of what a function makes of its inputs."""
    inputs = [keras.Input(s) for s in (shape, *more)]
    return keras.Model(inputs if more else inputs[0], function(*inputs))


def data(model, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((4, *x.shape[1:])).astype(x.dtype) for x in model.inputs]


def groups(report):
    """Sizes of the groups, and how many of them are local."""
    return sorted(report.graph.groups.values()), len(report.graph.parents)
