"""One network in scikit-learn, torch and Keras: the same plan and the same barrier from each."""

import itertools

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb

sklearn = pytest.importorskip("sklearn.neural_network")
torch = pytest.importorskip("torch")

WIDTHS = (4, 10, 10, 2)


def weights(seed):
    rng = np.random.default_rng(seed)
    pairs = itertools.pairwise(WIDTHS)
    return [
        (1.5 * rng.normal(size=p).astype("float32") / p[0] ** 0.5, 0.1 * rng.normal(size=p[1]).astype("float32"))
        for p in pairs
    ]


def in_sklearn(layers):
    model = sklearn.MLPRegressor(WIDTHS[1:-1], activation="tanh", max_iter=1, solver="lbfgs")
    model.n_layers_, model.n_outputs_, model.out_activation_ = len(WIDTHS), WIDTHS[-1], "identity"
    model.n_features_in_ = WIDTHS[0]
    model.coefs_, model.intercepts_ = (list(x) for x in zip(*layers, strict=True))
    return model


def in_torch(layers):
    modules = []
    for kernel, bias in layers:
        linear = torch.nn.Linear(*kernel.shape)
        linear.load_state_dict({"weight": torch.tensor(kernel.T), "bias": torch.tensor(bias)})
        modules += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*modules[:-1])


def in_keras(layers):
    made = [keras.layers.Dense(len(bias), "tanh") for _, bias in layers[:-1]] + [keras.layers.Dense(WIDTHS[-1])]
    model = keras.Sequential([keras.Input((WIDTHS[0],)), *made])
    model.set_weights([x for pair in layers for x in pair])
    return model


def mean_absolute(outputs, targets):
    return abs(outputs - targets).mean()


def find(make, settings, example=()):
    a, b = make(weights(3)), make(weights(4))
    result = rb.align(a, b, *example, progress=False, **settings)
    x = np.random.default_rng(0).normal(size=(64, WIDTHS[0])).astype("float32")
    y = np.asarray(in_sklearn(weights(3)).predict(x), "float32")
    data = (torch.tensor(x), torch.tensor(y)) if make is in_torch else (x, y)
    loss = keras.losses.MeanAbsoluteError() if make is in_keras else mean_absolute
    curve = rb.connectivity(a, result.model, loss, data, lambdas=11)
    return list(result.plan.values()), result.objective, curve


SOLVERS = {
    "weight matching": rb.solvers.WeightMatching(),
    # How many starts there are by default depends on what costs the framework little.
    "Sinkhorn": rb.solvers.Sinkhorn(max_steps=25, num_rounds=1, num_starts=1),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_plan_and_barrier_are_the_same(solver):
    settings = {"solver": SOLVERS[solver], "seed": 0}
    plans, objective, curve = find(in_keras, settings)
    assert curve.barrier > 1e-3
    for make, example in ((in_sklearn, ()), (in_torch, (torch.zeros(1, WIDTHS[0]),))):
        other_plans, other_objective, other = find(make, settings, example)
        for plan, other_plan in zip(plans, other_plans, strict=True):
            assert_array_equal(plan, other_plan)
        assert_allclose(other_objective, objective, rtol=1e-5)
        assert_allclose(other.losses, curve.losses, atol=1e-4)
        assert_allclose(other.barrier, curve.barrier, atol=1e-4)
