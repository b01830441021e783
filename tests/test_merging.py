"""Merging two networks: align, then average."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.errors import SettingError

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
    for models in ([], [a], [a, a, a]):
        with pytest.raises(SettingError, match=rf"expected two models, got {len(models)}"):
            rb.merge(models, graph=graph, **MATCHING)
    for t in (np.nan, np.inf, "x", None):
        with pytest.raises(SettingError, match=r"expected t as a finite number"):
            rb.merge([a, a], graph=graph, t=t, **MATCHING)
        with pytest.raises(SettingError, match=r"expected t as a finite number"):
            rb.align(a, a, graph=graph, **MATCHING).merge(t)
