"""Re-estimated statistics: the rule, on a network whose statistics can be worked out by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import DataError, NonFiniteError, SettingError, SpecError
from rebasin_core.models.batch_norms import forward_with
from rebasin_core.models.model import _REGISTRY, open_model

X = np.random.default_rng(1).normal(size=(10, 3)) + 2.0


def by_hand(params, parts):
    hidden = [part @ params["w"] for part in parts]
    return {
        "mean": np.mean([h.mean(0) for h in hidden], axis=0),
        "var": np.mean([h.var(0) for h in hidden], axis=0),
    }


class Loader:
    """Can be read again and again, and counts how often it was."""

    reads = 0

    def __iter__(self):
        self.reads += 1
        yield X[:6], None
        yield X[6:], None


FORMS = {
    "pair": lambda: (X, np.zeros(10)),
    "array": lambda: X,
    "batches": lambda: [(X[:6], None), (X[6:], None)],
    "generator": lambda: ((x, None) for x in (X[:6], X[6:])),
    "loader": Loader,
}


@pytest.mark.parametrize("form", FORMS)
def test_statistics_are_the_mean_over_the_batches(normed, unchanged, form):
    model = normed()
    with unchanged(model.params, X):
        found = rb.reestimate(model, FORMS[form](), batch_size=6)
    assert type(found) is normed
    for name, x in by_hand(model.params, (X[:6], X[6:])).items():
        assert_allclose(found.params[name], x, rtol=1e-6, err_msg=name)
    assert found.params["count"] == 2
    assert_array_equal(found.params["w"], model.params["w"])
    assert found.params["w"] is not model.params["w"]


def test_statistics_keep_the_dtype_of_the_parameter(normed):
    model = normed()
    found = rb.reestimate(model, X, batch_size=1)
    assert {name: x.dtype for name, x in found.params.items()} == {name: x.dtype for name, x in model.params.items()}


def test_the_average_of_many_batches_does_not_lose_digits(normed):
    """Single precision summed up over thousands of batches would."""
    model = normed()
    x = np.tile(X, (3000, 1))
    found = rb.reestimate(model, [(part, None) for part in np.split(x, 3000)])
    assert_allclose(found.params["var"], by_hand(model.params, [X])["var"], rtol=1e-6)


def test_old_statistics_do_not_count_and_measuring_twice_is_measuring_once(normed):
    once = rb.reestimate(normed(), X, batch_size=3)
    for name, x in rb.reestimate(once, X, batch_size=3).params.items():
        assert_array_equal(x, once.params[name])


def test_permuting_and_measuring_commute(normed):
    model = normed()
    graph = rb.permutation_graph(model)
    plan = rb.Plan.random(graph, seed=1)
    one = rb.reestimate(rb.permute(model, plan, graph), X)
    other = rb.permute(rb.reestimate(model, X), plan, graph)
    for name, x in one.params.items():
        assert_allclose(x, other.params[name], err_msg=name)


def test_an_adapter_without_batch_normalization_copies_the_model(normed, monkeypatch):
    model = normed()
    adapter = open_model(model).adapter
    for none in (lambda self, model: None, None):
        other = type("Other", (type(adapter),), {"batch_norms": none})
        monkeypatch.setitem(_REGISTRY._by_type, type(model), other())
        loader = Loader()
        found = rb.reestimate(model, loader)
        assert loader.reads == 0
        assert found is not model
        for name, x in model.params.items():
            assert_array_equal(found.params[name], x)
        assert_allclose(forward_with(open_model(model), "batch")(model.params, X[:2]).shape, (2, 2))


def test_mappings_of_arrays_are_refused(mlp):
    net = mlp((3, 4, 2))
    with pytest.raises(SpecError, match="does not say which arrays are running statistics"):
        rb.reestimate(net.params(), X)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (None, DataError, "this needs data"),
        (True, DataError, "cannot read bool"),
        ([], DataError, "no batch"),
        ([X], DataError, r"one ndarray of shape \(10, 3\)"),
        ({"x": X}, DataError, "cannot read dict"),
        (np.full((4, 3), np.nan), NonFiniteError, "statistic 'mean' came out as NaN or infinity"),
    ],
)
def test_bad_data_are_refused(normed, data, error, words):
    with pytest.raises(error, match=words):
        rb.reestimate(normed(), data)


def test_a_bad_batch_size_or_a_broken_model_is_refused(normed):
    with pytest.raises(SettingError, match="batch_size"):
        rb.reestimate(normed(), X, batch_size=0)
    broken = normed()
    broken.params["w"][0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="'w' of the model"):
        rb.reestimate(broken, X)


# --- the forward pass -------------------------------------------------------------------------------------------------
def test_normalizing_by_the_batch_is_measuring_on_it(normed):
    model = normed()
    opened, repaired = open_model(model), open_model(rb.reestimate(model, X))
    for how in ("batch", None):
        outputs = forward_with(opened, how)(opened.params, X)
        assert_allclose(outputs, repaired.forward(repaired.params, X), rtol=1e-6)
    assert_allclose(forward_with(opened, "running")(opened.params, X), opened.forward(opened.params, X))


def test_a_forward_of_ones_own_runs_as_it_is(mlp):
    net = mlp((3, 4, 2))
    opened = open_model(net.params(), net.forward)
    for how in ("running", None):
        assert forward_with(opened, how) is opened.forward
    with pytest.raises(SpecError, match="forward= of your own"):
        forward_with(opened, "batch")


@pytest.mark.parametrize("bad", ["layer", True, 1])
def test_a_bad_normalization_is_refused(normed, bad):
    with pytest.raises(SettingError, match='normalization as "running", "batch" or None'):
        forward_with(open_model(normed()), bad)
