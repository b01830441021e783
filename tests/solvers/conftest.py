"""Networks, objectives and problems that solvers are tried on."""

import autograd.numpy as anp
import numpy as np
import pytest

import rebasin_core as rb
from rebasin_core.models.model import open_model
from rebasin_core.objectives.resolve import as_objective
from rebasin_core.solvers.problem import Problem


@pytest.fixture(scope="session")
def residual():
    """Linear, ``x + C act(A x + b)`` as often as told, linear; standard normal weights."""

    def network(blocks, width=12, seed=0, dtype="float64"):
        rng = np.random.default_rng(seed)
        params, axes = {"in": rng.normal(size=(width, 4))}, {"in": "s ."}
        for i in range(blocks):
            params |= {f"A{i}": rng.normal(size=(width, width)), f"b{i}": rng.normal(size=width)}
            params[f"C{i}"] = rng.normal(size=(width, width))
            axes |= {f"A{i}": f"h{i} s", f"b{i}": f"h{i}", f"C{i}": f"s h{i}"}
        params["out"], axes["out"] = rng.normal(size=(4, width)), ". s"
        params = {name: x.astype(dtype) for name, x in params.items()}
        return params, rb.PermutationGraph.from_axes(axes, params)

    return network


def largest_gap(a, b):
    return sum(anp.sum((a[name] - b[name]) ** 4) for name in a)


def disagreement(a, b, batch):
    x = batch[0]
    return anp.mean((anp.tanh(anp.dot(x, a["w0"].T)) - anp.tanh(anp.dot(x, b["w0"].T))) ** 2)


@pytest.fixture(scope="session")
def objectives(mse):
    """One of every kind that has a gradient, for a perceptron."""

    def of(net):
        data = [net.data(n, seed=n) for n in (8, 5)]
        return {
            "L2": rb.objectives.L2(),
            "cosine": rb.objectives.Cosine(),
            "midpoint": rb.objectives.Midpoint(mse, data),
            "random point": rb.objectives.RandomPoint(mse, data),
            "two arguments": largest_gap,
            "three arguments": rb.objectives.Custom(disagreement, data),
        }

    return of


@pytest.fixture(scope="session")
def task():
    """Two perceptrons of one architecture to align."""

    def problem(net, objective, seed=0, a=None, b=None):
        a, b = a or net.params(seed + 1), b or net.params(seed + 2)
        bound = as_objective(objective).bind(open_model(b, net.forward), net.graph())
        return Problem(net.graph(), a, b, bound, seed)

    return problem
