"""Models as the core sees them, and random architectures under random plans."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import (
    NonFiniteError,
    SettingError,
    ShapeError,
    SpecError,
    UnsupportedArrayError,
    UnsupportedModelError,
)
from rebasin_core.models.mapping import MappingAdapter, accuracy
from rebasin_core.models.model import find_adapter, open_model, open_pair


@settings(max_examples=40)
@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple),
    activation=st.sampled_from(["relu", "tanh", "sigmoid", "identity"]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_random_architectures_keep_their_outputs_under_random_plans(mlp, widths, activation, bias, seed):
    net = mlp(widths, activation, bias)
    params, x = net.params(seed), net.inputs()
    graph = net.graph()
    assert list(graph.groups.values()) == list(widths[1:-1])
    rebased = rb.permute(params, rb.Plan.random(graph, seed), graph)
    assert_allclose(net.forward(rebased, x), net.forward(params, x), rtol=1e-9, atol=1e-9)


def test_a_residual_stream_keeps_its_outputs_under_random_plans():
    rng = np.random.default_rng(0)
    params = {"in": rng.normal(size=(5, 3)), "mix": rng.normal(size=(5, 5)), "out": rng.normal(size=(2, 5))}
    graph = rb.PermutationGraph.from_axes({"in": "d .", "mix": "d d", "out": ". d"}, params)

    def forward(p, x):
        h = x @ p["in"].T
        return (h + np.tanh(h @ p["mix"].T)) @ p["out"].T

    x = rng.normal(size=(7, 3))
    rebased = rb.permute(params, rb.Plan.random(graph, 3), graph)
    assert_allclose(forward(rebased, x), forward(params, x))
    assert not np.allclose(rebased["mix"], params["mix"])


def test_a_convolution_behind_a_flatten_keeps_its_outputs_under_random_plans():
    """``h (c 4)``: a 1x1 convolution over 4 places, flattened channels first."""
    rng = np.random.default_rng(0)
    params = {"conv": rng.normal(size=(3, 2)), "fc": rng.normal(size=(5, 12))}
    graph = rb.PermutationGraph.from_axes({"conv": "c .", "fc": "h (c 4)"}, params, pin="h")

    def forward(p, x):
        return np.maximum(np.einsum("ci,nip->ncp", p["conv"], x), 0).reshape(len(x), -1) @ p["fc"].T

    x = rng.normal(size=(7, 2, 4))
    rebased = rb.permute(params, rb.Plan.random(graph, 1), graph)
    assert_allclose(forward(rebased, x), forward(params, x))


def test_attention_heads_with_local_channels_keep_their_outputs_under_random_plans():
    """Queries and keys share an order per head, values and the output another: both local to the heads."""
    rng = np.random.default_rng(0)
    heads, width, model = 3, 4, 5
    params = {name: rng.normal(size=(heads * width, model)) for name in ("q", "k", "v")}
    params["o"] = rng.normal(size=(model, heads * width))
    axes = {"q": "(h a[h]) .", "k": "(h a[h]) .", "v": "(h b[h]) .", "o": ". (h b[h])"}
    with pytest.raises(SpecError, match=r"size of a, b, h open"):
        rb.PermutationGraph.from_axes(axes, params)
    params["scale"] = np.array([1.0, 2.0, 0.5])
    graph = rb.PermutationGraph.from_axes({**axes, "scale": "h"}, params)

    def forward(p, x):
        q, k, v = ((x @ p[name].T).reshape(-1, heads, width) for name in ("q", "k", "v"))
        scores = np.einsum("ihc,jhc->hij", q, k) * p["scale"][:, None, None]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("hij,jhc->ihc", weights, v).reshape(-1, heads * width) @ p["o"].T

    x = rng.normal(size=(6, model))
    for seed in range(3):
        rebased = rb.permute(params, rb.Plan.random(graph, seed), graph)
        assert_allclose(forward(rebased, x), forward(params, x))
    assert rb.verify(params, graph, x, forward=forward).error < 1e-12


# --- reading models -------------------------------------------------------------------------------------------------
def test_a_copy_shares_no_memory_with_the_model(mlp):
    net = mlp((3, 4, 2))
    params = {**net.params(), "count": np.array(3), "free": np.ones(2)}
    graph = rb.PermutationGraph.from_axes({**net.axes(), "count": "", "free": "."}, params)
    copies = [
        rb.permute(params, rb.Plan.identity(graph), graph),
        rb.permute(params, rb.Plan.random(graph), graph),
        rb.interpolate(params, params, 0.0),
        rb.interpolate(params, params, 1),
        rb.merge([params, params], graph=graph, solver=rb.solvers.WeightMatching(), progress=False),
        rb.align(params, params, graph=graph, solver=rb.solvers.WeightMatching(), progress=False).model,
    ]
    for copy in copies:
        assert type(copy) is dict
        assert list(copy) == list(params)
        for name, x in copy.items():
            assert not np.shares_memory(x, params[name]), name
            assert x.flags.writeable
            assert x.dtype == params[name].dtype


def test_opening_names_the_culprit():
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(NonFiniteError, match=r"'w' of model A"):
            open_model({"v": np.zeros(1), "w": np.array([1.0, bad])}, what="model A")
    with pytest.raises(UnsupportedArrayError, match=r"'w' of the model.*got list"):
        open_model({"w": [1.0, 2.0]})
    with pytest.raises(UnsupportedArrayError, match=r"'w' of the model.*object"):
        open_model({"w": np.array([None])})
    with pytest.raises(UnsupportedModelError, match=r"no parameters"):
        open_model({})


class Stranger:
    pass


@pytest.mark.parametrize("model", [3, None, [np.zeros(2)], np.zeros(2), Stranger()])
def test_a_model_without_an_adapter_is_refused_with_a_way_out(model):
    with pytest.raises(UnsupportedModelError, match=r"no adapter carries.*from_axes"):
        find_adapter(model)


def test_two_models_of_different_architecture_are_refused_by_name():
    w = {"w": np.zeros((2, 3))}
    with pytest.raises(SpecError, match=r"model A has a parameter 'b', model B has none"):
        open_pair({**w, "b": np.zeros(2)}, w)
    with pytest.raises(SpecError, match=r"model B has a parameter 'b', model A has none"):
        open_pair(w, {**w, "b": np.zeros(2)})
    with pytest.raises(ShapeError, match=r"'w' has shape \(2, 3\) in model A and \(3, 2\) in model B"):
        open_pair(w, {"w": np.zeros((3, 2))})
    with pytest.raises(NonFiniteError, match=r"'w' of model B"):
        open_pair(w, {"w": np.full((2, 3), np.nan)})


def test_two_models_of_different_kinds_are_refused(monkeypatch):
    class Framework(MappingAdapter):
        name = "framework"

    rb.register_adapter("made_up_framework", Framework())

    class Model:
        __module__ = "made_up_framework.models"

    monkeypatch.setattr(Framework, "params", lambda self, model: {"w": np.zeros(2)})
    assert find_adapter(Model()).name == "framework"
    with pytest.raises(UnsupportedModelError, match=r"A is of mapping, model B of framework"):
        open_pair({"w": np.zeros(2)}, Model())


def test_a_mapping_says_what_it_needs():
    params = {"w": np.zeros((2, 3))}
    with pytest.raises(SpecError, match=r"pass graph="):
        rb.permutation_graph(params)
    with pytest.raises(SpecError, match=r"pass graph="):
        rb.align(params, params, progress=False)
    with pytest.raises(SpecError, match=r"pass forward="):
        open_model(params).forward  # noqa: B018
    with pytest.raises(SettingError, match=r"loss as a function.*'mse'"):
        open_model(params).loss("mse")


def test_accuracy_is_the_share_of_largest_outputs():
    outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    for targets in ([0, 1, 1, 1], np.array([[0], [1], [1], [1]])):
        assert_array_equal(accuracy(outputs, targets), 0.75)
    with pytest.raises(ShapeError, match=r"\(4, 2\)"):
        accuracy(outputs, outputs)


def test_a_detached_model_stays_as_it_is_while_the_users_goes_on_training():
    params = {"w": np.ones(3), "count": np.array(2)}
    opened = open_model(params)
    detached, mine = opened.detach(), opened.detach_params({"w": params["w"], "count": params["count"] + 1})
    params["w"][:] = 0
    params["count"][...] = 0
    assert_array_equal(detached.params["w"], np.ones(3))
    assert_array_equal(detached.source["count"], 2)
    assert_array_equal(mine["w"], np.ones(3))
    assert_array_equal(mine["count"], 3)
