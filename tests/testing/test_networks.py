"""Random networks: their graphs are right, what they compute is what the layers say, and all kinds are drawn."""

import numpy as np
import pytest
from autograd.test_util import check_grads
from hypothesis import Phase, given, settings
from hypothesis import find as find_least
from numpy.testing import assert_allclose

from rebasin_core.errors import SpecError
from rebasin_core.inference.layers import Concat, Conv, Dense, Flatten, Norm, Residual
from rebasin_core.testing import LayerGraph, check_equivalent, layer_graphs


@given(layer_graphs())
def test_random_networks_keep_their_outputs_under_random_plans(net):
    found = check_equivalent(net.params, net.inputs, graph=net.graph, forward=net.forward)
    assert found.error <= found.tolerance


@given(layer_graphs(max_blocks=2))
def test_every_parameter_matters(net):
    """A parameter that the forward function forgot would hide what is wrong with its axes."""
    outputs = net.forward(net.params, net.inputs)
    assert np.isfinite(outputs).all()
    for name, x in net.params.items():
        other = net.forward({**net.params, name: x + 0.5}, net.inputs)
        behind_a_norm = any(isinstance(layer, Norm) and layer.groups for layer in net.layers)
        relu = "relu" in repr(net.layers)
        assert behind_a_norm or relu or not np.array_equal(other, outputs), name


def find(strategy, condition):
    """The first that is drawn, without shrinking it."""
    return find_least(strategy, condition, settings=settings(phases=[Phase.generate], max_examples=1000))


KINDS = {
    "residual": lambda net: any(isinstance(layer, Residual) and not layer.shortcut for layer in net.layers),
    "shortcut": lambda net: any(isinstance(layer, Residual) and layer.shortcut for layer in net.layers),
    "concat": lambda net: any(isinstance(layer, Concat) and any(layer.branches) for layer in net.layers),
    "concat of itself": lambda net: any(isinstance(layer, Concat) and not all(layer.branches) for layer in net.layers),
    "grouped convolution": lambda net: any(isinstance(layer, Conv) and layer.groups == 2 for layer in net.layers),
    "batch norm": lambda net: any(isinstance(layer, Norm) and layer.groups is None for layer in net.layers),
    "layer norm": lambda net: any(isinstance(layer, Norm) and layer.groups == 1 for layer in net.layers),
    "group norm": lambda net: any(isinstance(layer, Norm) and layer.groups == 2 for layer in net.layers),
    "flatten": lambda net: any(isinstance(layer, Flatten) for layer in net.layers),
    "flatten, channels last": lambda net: Flatten("channels_last") in net.layers,
    "dense layers alone": lambda net: net.inputs.ndim == 2,
    "pictures": lambda net: net.inputs.ndim == 4,
    "a local group": lambda net: net.graph.parents,
    "no group": lambda net: not net.graph.groups,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind):
    assert KINDS[kind](find(layer_graphs(), KINDS[kind]))


def test_the_computation_is_that_of_the_textbook():
    rng = np.random.default_rng(0)
    params = {
        "c.weight": rng.normal(size=(4, 1, 3)),
        "c.bias": rng.normal(size=4),
        "d.weight": rng.normal(size=(2, 12)),
    }
    net = LayerGraph((Conv("c", groups=2), Flatten(), Dense("d")), params, None, rng.normal(size=(5, 2, 3)))
    image = np.stack(
        [[np.correlate(x[o // 2], params["c.weight"][o, 0], "same") + params["c.bias"][o] for o in range(4)]
         for x in net.inputs]
    )  # fmt: skip
    assert_allclose(net.forward(params, net.inputs), image.reshape(5, 12) @ params["d.weight"].T)
    last = {"d.weight": params["d.weight"]}
    flat = LayerGraph((Flatten("channels_last"), Dense("d")), last, None, image).forward(last, image)
    assert_allclose(flat, image.transpose(0, 2, 1).reshape(5, 12) @ params["d.weight"].T)


def test_both_layouts_compute_the_same():
    rng = np.random.default_rng(0)
    W, x = rng.normal(size=(4, 2, 3, 1)), rng.normal(size=(5, 2, 3, 3))
    theirs = LayerGraph((Conv("c"),), {"c.weight": W}, None, x)
    ours = LayerGraph((Conv("c"),), {"c/kernel": W.transpose(2, 3, 1, 0)}, None, x)
    assert_allclose(theirs.forward(theirs.params, x), ours.forward(ours.params, x))


def test_networks_are_differentiable():
    net = find(layer_graphs(), lambda net: KINDS["group norm"](net) and KINDS["flatten"](net) and net.inputs.ndim == 4)
    check_grads(lambda params: net.forward(params, net.inputs), modes=["rev"], order=1)(net.params)


def test_dtype_and_layout_can_be_chosen():
    net = find(layer_graphs(dtype="float32", layout="keras"), lambda net: net.graph.groups)
    assert all("/" in name for name in net.params)
    assert {x.dtype for x in [*net.params.values(), net.inputs]} == {np.dtype("float32")}
    first, x = next(iter(net.params.items()))
    assert repr(net).startswith("LayerGraph([")
    assert f"{first} {x.shape}" in repr(net)
    with pytest.raises(SpecError, match="got 'onnx'"):
        find(layer_graphs(layout="onnx"), lambda net: True)
