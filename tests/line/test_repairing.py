"""REPAIR: the rule, on perceptrons whose layers can be computed by hand."""

import copy
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import DataError, NonFiniteError, SettingError, SpecError, UnsupportedModelError
from rebasin_core.models.model import find_adapter

neural_network = pytest.importorskip("sklearn.neural_network")

X = np.random.default_rng(1).normal(size=(40, 3)) + 1.0
MATCHING = {"solver": rb.solvers.WeightMatching(), "progress": False}


def network(seed, widths=(6, 5), dtype="float64"):
    """A perceptron with random weights and biases."""
    rng = np.random.default_rng(seed)
    model = neural_network.MLPRegressor(hidden_layer_sizes=widths, activation="tanh")
    sizes = [3, *widths, 2]
    model.n_layers_, model.n_outputs_, model.n_features_in_, model.out_activation_ = len(sizes), 2, 3, "identity"
    model.coefs_ = [rng.normal(size=shape).astype(dtype) for shape in pairwise(sizes)]
    model.intercepts_ = [rng.normal(size=n).astype(dtype) for n in sizes[1:]]
    return model


def hidden(model, x=X):
    """What the hidden layers say before their activation."""
    layers = []
    for W, b in list(zip(model.coefs_, model.intercepts_, strict=True))[:-1]:
        layers.append(x @ W + b)
        x = np.tanh(layers[-1])
    return layers


def same(a, b, **tolerance):
    for x, y in zip([*a.coefs_, *a.intercepts_], [*b.coefs_, *b.intercepts_], strict=True):
        assert_allclose(x, y, **tolerance)


FORMS = {
    "array": lambda: X,
    "pair": lambda: (X, np.zeros(40)),
    "batches": lambda: [(X[:7], None), (X[7:11], None), (X[11:], None)],
    "generator": lambda: ((x, None) for x in (X[:25], X[25:])),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_mean_and_deviation_is_that_between_the_networks(form, unchanged):
    models = [network(seed) for seed in range(3)]
    shares = np.array([0.5, 0.3, 0.2])
    mean = copy.deepcopy(models[0])
    mean.coefs_ = [np.tensordot(shares, W, 1) for W in zip(*(m.coefs_ for m in models), strict=True)]
    with unchanged(mean, *models, X):
        found = rb.repair(mean, models, FORMS[form](), weights=[5, 3, 2], batch_size=9)
    assert type(found) is type(mean)
    for layer, *ends in zip(hidden(found), *map(hidden, models), strict=True):
        for moment in (np.mean, np.std):
            wanted = sum(w * moment(x, axis=0) for w, x in zip(shares, ends, strict=True))
            assert_allclose(moment(layer, axis=0), wanted, rtol=1e-12, atol=1e-12)
    assert_array_equal(found.coefs_[-1], mean.coefs_[-1])
    assert_array_equal(found.intercepts_[-1], mean.intercepts_[-1])


def test_units_are_scaled_and_shifted_and_nothing_else():
    """One unit by hand: 2 x, between networks of deviations 2 s and 4 s, becomes 3 x."""
    x = np.array([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    a, b = network(0, (1,)), network(0, (1,))
    a.coefs_[0], b.coefs_[0] = np.array([[2.0], [0.0], [0.0]]), np.array([[-4.0], [0.0], [0.0]])
    a.intercepts_[0], b.intercepts_[0] = np.array([1.0]), np.array([0.0])
    merged = copy.deepcopy(a)
    found = rb.repair(merged, [a, b], x)
    assert_allclose(found.coefs_[0], [[3.0], [0.0], [0.0]])
    # The means are 5 and -8; 3 x has mean 6.
    assert_allclose(found.intercepts_[0], [(5.0 - 8.0) / 2 - 6.0])


def test_at_its_ends_the_line_is_left_as_it_is():
    result = rb.align(network(0), network(1), **MATCHING)
    for t in (0.0, 1.0):
        same(result.merge(t, repair=X), result.merge(t), rtol=1e-12, atol=1e-12)


def test_repairing_twice_is_repairing_once():
    ends = network(0), network(1)
    once = rb.repair(rb.interpolate(*ends), ends, X)
    same(rb.repair(once, ends, X), once, rtol=1e-11, atol=1e-12)


def test_permuting_and_repairing_commute():
    ends = network(0), network(1)
    graph = rb.permutation_graph(ends[0])
    plan = rb.Plan.random(graph, seed=2)
    moved = [rb.permute(model, plan, graph) for model in (rb.interpolate(*ends), *ends)]
    expected = rb.permute(rb.repair(rb.interpolate(*ends), ends, X), plan, graph)
    same(rb.repair(moved[0], moved[1:], X), expected, rtol=1e-10, atol=1e-12)


def test_a_unit_that_always_says_the_same_keeps_its_weights():
    ends = network(0), network(1)
    merged = rb.interpolate(*ends)
    merged.coefs_[0][:, 2] = 0.0
    merged.intercepts_[0][2] = 0.1  # whose mean over the samples is rounded
    found = rb.repair(merged, ends, X)
    assert_array_equal(found.coefs_[0][:, 2], 0.0)
    a, b, repaired = (hidden(model)[0][:, 2].mean() for model in (*ends, found))
    assert_allclose(repaired, (a + b) / 2)
    assert all(np.isfinite(W).all() for W in found.coefs_)


def test_parameters_keep_their_dtype():
    ends = network(0, dtype="float32"), network(1, dtype="float32")
    found = rb.repair(rb.interpolate(*ends), ends, X.astype("float32"))
    assert {x.dtype.name for x in (*found.coefs_, *found.intercepts_)} == {"float32"}
    for layer, *both in zip(hidden(found), *map(hidden, ends), strict=True):
        assert_allclose(layer.std(0), (both[0].std(0) + both[1].std(0)) / 2, rtol=1e-4)


def test_pinned_groups_are_left_alone():
    ends = network(0), network(1)
    merged = rb.interpolate(*ends)
    graph = rb.permutation_graph(merged).pin(["hidden_1"])
    found = rb.repair(merged, ends, X, graph=graph)
    assert_array_equal(found.coefs_[0], merged.coefs_[0])
    assert not np.allclose(found.coefs_[1], merged.coefs_[1])


# --- merging ----------------------------------------------------------------------------------------------------------
def test_merging_repairs_along_the_way():
    a, b, c = (network(seed) for seed in range(3))
    result = rb.align(a, b, **MATCHING)
    expected = rb.repair(result.merge(0.25), [a, result.model], X, weights=[3, 1])
    same(result.merge(0.25, repair=X, batch_size=7), expected, rtol=1e-10)
    same(rb.merge([a, b], t=0.25, repair=X, **MATCHING), expected, rtol=1e-10)
    many = rb.align_many([a, b, c], weights=[2, 1, 1], progress=False)
    expected = rb.repair(many.merge(), many.models, X, weights=[2, 1, 1])
    same(many.merge(repair=X), expected, rtol=1e-10)
    same(rb.merge([a, b, c], weights=[2, 1, 1], repair=X, progress=False), expected, rtol=1e-10)
    assert not np.allclose(expected.coefs_[0], many.merge().coefs_[0])


def test_a_merged_network_is_better_for_it():
    """Three narrow layers, which are merged with a loss, on digits that none of it has seen."""
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    x = x / 16.0
    settings = {"hidden_layer_sizes": (32, 32, 32), "tol": 1e-2}
    a, b = (neural_network.MLPClassifier(**settings, random_state=s).fit(x[:1200], y[:1200]) for s in (0, 1))
    result = rb.align(a, b, **MATCHING)
    merged, repaired = (model.score(x[1200:], y[1200:]) for model in (result.merge(), result.merge(repair=x[:1200])))
    assert merged + 0.03 < repaired <= a.score(x[1200:], y[1200:]) + 0.02, (merged, repaired)


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (None, DataError, "this needs data"),
        ([], DataError, "no batch"),
        (np.ones((0, 3)), DataError, "data are empty"),
        (X[:1], DataError, "more than one sample, and layer 'hidden_1' got 1"),
        (np.full((4, 3), np.nan), NonFiniteError, "layer 'hidden_1' gives holds NaN"),
    ],
)
def test_bad_data_are_refused(data, error, words):
    with pytest.raises(error, match=words):
        rb.repair(network(0), [network(0), network(1)], data)


def test_bad_settings_are_refused(mlp):
    a, b = network(0), network(1)
    with pytest.raises(SettingError, match="got none"):
        rb.repair(a, [], X)
    with pytest.raises(SettingError, match="2 positive numbers"):
        rb.repair(a, [a, b], X, weights=[1])
    with pytest.raises(SpecError, match=r"names 'coefs_\.0', which is not in the graph"):
        rb.repair(a, [a, b], X, graph=mlp((3, 4, 2)).graph())
    with pytest.raises(SettingError, match=r"expected t from 0 to 1 with repair=, got 1\.5"):
        rb.align(a, b, **MATCHING).merge(1.5, repair=X)
    with pytest.raises(SettingError, match="repair=True means"):
        rb.merge([a, b], repair=True, solver="no solver")


def test_what_cannot_be_repaired_is_refused_before_any_work(mlp, normed):
    net = mlp((3, 4, 2))
    with pytest.raises(SpecError, match="does not say what its layers give"):
        rb.merge([net.params(0), net.params(1)], graph=net.graph(), repair=X, solver="no solver")
    with pytest.raises(UnsupportedModelError, match=r"adapter of normed .* needs the method of .*HasUnitLayers"):
        rb.merge([normed(0), normed(1)], repair=X, solver="no solver")
    flat = network(0), network(1)
    graph = find_adapter(flat[0]).graph(flat[0], pin=["hidden_1", "hidden_2"])
    with pytest.raises(UnsupportedModelError, match="no layer of this MLPRegressor can be repaired"):
        rb.repair(flat[0], flat, X, graph=graph)
