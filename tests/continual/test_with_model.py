"""Going on with another model, on arrays of NumPy."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import ShapeError, SpecError


def grown(learner, hidden=12):
    """The learner's parameters, with an output for a third class, and their graph."""
    params = learner.params
    params["w2"] = np.concatenate([params["w2"], np.zeros((1, hidden))])
    return params, rb.PermutationGraph.from_axes({"w1": "h .", "b1": "h", "w2": ". h"}, params)


def test_the_same_model_goes_on_as_if_nothing_had_happened(small):
    one = small.learner()
    one.fit_task(small.blobs(0.0))
    two = one.with_model(one.params, graph=one.graph)
    for learner in (one, two):
        learner.fit_task(small.blobs(1.0))
    assert two.reports[0] is one.reports[0]
    assert two.reports[1].losses == one.reports[1].losses
    for name, x in one.params.items():
        assert_array_equal(two.params[name], x)


def test_a_model_with_more_outputs_keeps_the_memory_and_learns_the_new_class(small):
    learner = small.learner(beta=0.01)
    first = small.blobs(0.0)
    learner.fit_task(first)
    params, graph = grown(learner)
    larger = learner.with_model(params, graph=graph)
    assert larger.memory == learner.memory
    assert larger.settings == learner.settings
    x, _ = small.blobs(np.pi / 2)
    new = x[1::2], np.full(len(x[1::2]), 2)
    larger.fit_task(new)
    assert larger.params["w2"].shape == (3, 12)
    assert larger.evaluate(first) > 0.9
    assert larger.evaluate(new) > 0.9
    assert len(learner.reports) == len(learner.memory) == 1  # the one before is as it was
    assert learner.params["w2"].shape == (2, 12)


def test_a_graph_of_other_shapes_is_refused(small):
    learner = small.learner()
    params, _ = grown(learner)
    with pytest.raises((ShapeError, SpecError), match="w2"):
        learner.with_model(params, graph=learner.graph)
    with pytest.raises(SpecError, match="pass graph="):
        learner.with_model(params)


def test_a_mapping_that_has_grown_may_compute_with_another_function(small):
    learner = small.learner(beta=0.01)
    first = small.blobs(0.0)
    learner.fit_task(first)
    params = learner.params
    params["w3"] = np.zeros((3, 12))
    graph = rb.PermutationGraph.from_axes({"w1": "h .", "b1": "h", "w2": ". h", "w3": ". h"}, params)

    def forward(params, x):
        return small.heads(params, x)["right"] if learned else small.heads(params, x)["left"]

    learned = False
    larger = learner.with_model(params, graph=graph, forward=forward)
    assert larger.evaluate(first) == learner.evaluate(first)
    learned = True
    right = small.blobs(0.5, classes=3)
    larger.fit_task(right)
    assert larger.evaluate(right) > 0.9
    assert learner.with_model(params, graph=graph).evaluate(first) == learner.evaluate(first)
