"""Merging two networks: align, then average."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.errors import DataError, SettingError, SpecError

MATCHING = {"solver": rb.solvers.WeightMatching(), "progress": False}


def test_a_network_merged_with_its_own_permutation_is_the_network(mlp, unchanged):
    net = mlp((3, 6, 5, 2))
    a, graph = net.params(1), net.graph()
    b = rb.permute(a, rb.Plan.random(graph, 5), graph)
    with unchanged(a, b):
        merged = rb.merge([a, b], net.inputs(), graph=graph, forward=net.forward, **MATCHING)
    for name, x in merged.items():
        assert_allclose(x, a[name], rtol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_merging_is_the_line_to_the_aligned_network(mlp, t):
    net = mlp((3, 6, 2))
    a, b, graph = net.params(1), net.params(2), net.graph()
    rebased = rb.align(a, b, graph=graph, **MATCHING).model
    for models in ([a, b], (a, b), iter((a, b))):
        for name, x in rb.merge(models, graph=graph, t=t, **MATCHING).items():
            assert_allclose(x, (1 - t) * a[name] + t * rebased[name])


def test_bad_input_is_refused_before_any_work(mlp):
    net = mlp((3, 6, 2))
    a, graph = net.params(1), net.graph()
    for models in ([], [a]):
        with pytest.raises(SettingError, match=rf"expected at least two models, got {len(models)}"):
            rb.merge(models, graph=graph, **MATCHING)
    for settings, message in (
        ({"t": 0.3, "weights": [1, 1]}, "got both"),
        ({"weights": [1, 0]}, "2 positive numbers"),
        ({"weights": [1, 2, 3]}, "2 positive numbers"),
        ({"method": "magic"}, "expected method as one of"),
    ):
        with pytest.raises(SettingError, match=message):
            rb.merge([a, a], graph=graph, **settings, **MATCHING)
    with pytest.raises(SettingError, match="pass weights="):
        rb.merge([a, a, a], graph=graph, t=0.5, **MATCHING)
    for t in (np.nan, np.inf, "x"):
        with pytest.raises(SettingError, match=r"expected t as a finite number"):
            rb.merge([a, a], graph=graph, t=t, **MATCHING)
        with pytest.raises(SettingError, match=r"expected t as a finite number"):
            rb.align(a, a, graph=graph, **MATCHING).merge(t)


def test_merging_measures_the_statistics_of_batch_normalisation_anew(normed):
    a, b = normed(1), normed(2)
    x = np.random.default_rng(0).normal(size=(9, 3))
    result = rb.align(a, b, **MATCHING)
    expected = rb.reestimate(result.merge(0.3), x, batch_size=4).params
    for found in (
        result.merge(0.3, reestimate=x, batch_size=4),
        rb.merge([a, b], t=0.3, reestimate=(x for x in [(x[:4], None), (x[4:8], None), (x[8:], None)]), **MATCHING),
    ):
        for name, value in expected.items():
            assert_allclose(found.params[name], value, err_msg=name)
    assert not np.allclose(expected["mean"], result.merge(0.3).params["mean"])


def test_data_and_models_that_cannot_be_measured_are_refused_before_any_work(mlp, normed):
    net, inputs = mlp((3, 6, 2)), np.ones((4, 3))
    with pytest.raises(SpecError, match="does not say which arrays are running statistics"):
        rb.merge([net.params(1), net.params(2)], graph=net.graph(), reestimate=inputs, solver="no solver")
    for how in (True, "data"):
        with pytest.raises((SettingError, DataError), match=r"reestimate=True means|cannot read str"):
            rb.merge([normed(1), normed(2)], reestimate=how, solver="no solver")
