"""Networks written as lists of layers: the graph is the one a person would write by hand."""

import numpy as np
import pytest

from rebasin_core.errors import SpecError
from rebasin_core.inference.layers import Activation, Attention, Concat, Conv, Dense, Embedding, Flatten, Norm, Residual
from rebasin_core.symmetry.axes import AxesSpec
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

from .programs import relative_error


def params_of(**shapes):
    rng = np.random.default_rng(0)
    return {name.replace("__", "."): rng.normal(size=shape) for name, shape in shapes.items()}


def axes_of(layers, params):
    return {name: spec.text for name, spec in PermutationGraph.from_layers(layers, params).axes.items()}


def test_a_multi_layer_perceptron():
    params = params_of(a__weight=(8, 3), a__bias=(8,), b__weight=(5, 8), b__bias=(5,), c__weight=(2, 5))
    assert axes_of([Dense("a"), Activation(), Dense("b"), Activation(), Dense("c")], params) == {
        "a.weight": "a .", "a.bias": "a", "b.weight": "b a", "b.bias": "b", "c.weight": ". b",
    }  # fmt: skip


def test_kernels_in_the_layout_of_keras():
    params = {"conv/kernel": np.ones((3, 3, 1, 4)), "conv/bias": np.ones(4), "norm/gamma": np.ones(4),
              "norm/moving_mean": np.ones(4), "fc/kernel": np.ones((36, 5)), "fc/bias": np.ones(5)}  # fmt: skip
    layers = [Conv("conv"), Norm("norm"), Activation(), Flatten("channels_last"), Dense("fc")]
    graph = PermutationGraph.from_layers(layers, params)
    assert graph.axes["conv/kernel"] == AxesSpec(". . . conv")
    assert graph.axes["fc/kernel"] == AxesSpec("(9 conv) .")
    assert graph.buffers == {"norm/moving_mean"}


@pytest.mark.parametrize(("order", "axis"), [("channels_first", "(conv 9)"), ("channels_last", "(9 conv)")])
def test_flatten_counts_channels_and_places(order, axis):
    params = params_of(conv__weight=(4, 1, 3, 3), conv__bias=(4,), fc__weight=(2, 36))
    assert axes_of([Conv("conv"), Flatten(order), Dense("fc")], params)["fc.weight"] == f". {axis}"


def test_residual_and_its_shortcut():
    params = params_of(stem__weight=(4, 3, 3, 3), a__weight=(6, 4, 3, 3), b__weight=(8, 6, 3, 3),
                       down__weight=(8, 4, 1, 1), c__weight=(8, 8, 1, 1), fc__weight=(2, 8))  # fmt: skip
    layers = [
        Conv("stem"),
        Residual([Conv("a"), Activation(), Conv("b")], shortcut=[Conv("down")]),
        Residual([Conv("c")]),
        Flatten(),
        Dense("fc"),
    ]
    assert axes_of(layers, params) == {
        "stem.weight": "stem . . .", "a.weight": "a stem . .", "b.weight": "b a . .", "down.weight": "b stem . .",
        "c.weight": "b b . .", "fc.weight": ". b",
    }  # fmt: skip


def test_concatenation_passes_features_on():
    params = params_of(a__weight=(4, 3), b__weight=(5, 4), c__weight=(2, 9))
    assert axes_of([Dense("a"), Concat([[], [Dense("b")]]), Dense("c")], params)["c.weight"] == ". (a+b)"


def test_grouped_and_transposed_convolutions():
    params = params_of(a__weight=(6, 3, 3), b__weight=(8, 3, 3), up__weight=(8, 5, 2), c__weight=(2, 5, 1))
    graph = PermutationGraph.from_layers(
        [Conv("a"), Conv("b", groups=2), Conv("up", transposed=True), Conv("c")], params
    )
    assert graph.axes["b.weight"] == AxesSpec("(a/groups b[a/groups]) a .")
    assert graph.axes["up.weight"] == AxesSpec("(a/groups b[a/groups]) up .")


def test_group_norm_makes_groups():
    params = params_of(a__weight=(6, 3), n__weight=(6,), n__bias=(6,), b__weight=(2, 6))
    assert axes_of([Dense("a"), Norm("n", groups=2), Dense("b")], params)["n.weight"] == "(a/groups a[a/groups])"
    assert axes_of([Dense("a"), Norm("n", groups=1), Dense("b")], params)["n.weight"] == "a"


def test_attention_has_heads_with_orders_of_their_own():
    params = params_of(e__weight=(9, 8), q__weight=(12, 8), k__weight=(6, 8), v__weight=(6, 8), o__weight=(8, 12),
                       fc__weight=(2, 8))  # fmt: skip
    layers = [Embedding("e"), Residual([Attention(4, "q", "k", "v", "o", key_heads=2)]), Dense("fc")]
    graph = PermutationGraph.from_layers(layers, params)
    assert sorted(graph.groups.values()) == [2, 2, 3, 3, 8]
    assert len(graph.parents) == 3
    fused = params_of(qkv__weight=(24, 8), qkv__bias=(24,), o__weight=(8, 8))
    assert sorted(PermutationGraph.from_layers([Attention(2, "qkv", None, None, "o")], fused).groups.values()) == [
        2,
        4,
        4,
    ]


def test_a_layer_used_twice_is_one_parameter():
    params = params_of(a__weight=(8, 3), s__weight=(8, 8), b__weight=(2, 8))
    shared = [Dense("s"), Activation()]
    assert axes_of([Dense("a"), Activation(), *shared, *shared, Dense("b")], params)["s.weight"] == "a a"


def test_random_plans_keep_the_outputs():
    params = params_of(a__weight=(8, 3), a__bias=(8,), b__weight=(8, 8), c__weight=(2, 16))
    graph = PermutationGraph.from_layers([Dense("a"), Activation(), Concat([[], [Dense("b")]]), Dense("c")], params)

    def forward(w):
        h = np.tanh(np.linspace(-1, 1, 15).reshape(5, 3) @ w["a.weight"].T + w["a.bias"])
        return [np.concatenate([h, h @ w["b.weight"].T], 1) @ w["c.weight"].T]

    moved = Plan.random(graph, seed=1).apply(params, graph)
    np.testing.assert_allclose(relative_error(forward(params), forward(moved)), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([Dense("a"), Dense("b")], "no layer names 'c.weight'"),
        ([Dense("a"), Dense("x")], "needs a parameter x.weight"),
        ([Dense("a"), Dense("c")], "reads 5 features, but gets 8"),
        ([Activation()], "no layer has parameters"),
        (["a"], "expected layers such as Dense"),
        ([Dense("a"), Residual([Dense("b")])], "adds 5 features to 8"),
        ([Dense("a"), Flatten("sideways")], "channels_first"),
        ([Dense("a"), Flatten(), Dense("c")], "not a multiple"),
        (
            [Dense("a"), Concat([[Flatten("channels_last")], [Flatten("channels_last")]]), Dense("c")],
            "flatten behind it",
        ),
        ([Dense("a"), Residual([Flatten()]), Dense("c")], "one side is flattened"),
    ],
)
def test_mistakes_are_named(layers, message):
    params = params_of(a__weight=(8, 3), b__weight=(5, 8), c__weight=(2, 5))
    with pytest.raises(SpecError, match=message):
        PermutationGraph.from_layers(layers, params)
