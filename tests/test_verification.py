"""Verification passes on right graphs, and names group and parameter on wrong ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.errors import EquivalenceError, NonFiniteError, SettingError, ShapeError, SpecError
from rebasin_core.verification import compare_outputs

NET = ((3, 6, 5, 2), "tanh")


def wrong(net, **changes):
    return rb.PermutationGraph.from_axes({**net.axes(), **changes}, net.params())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_right_graph_passes(mlp, dtype, unchanged):
    net = mlp(*NET)
    params, graph, x = net.params(dtype=dtype), net.graph(), net.inputs(dtype=dtype)
    with unchanged(params, graph.to_json(), x):
        found = rb.verify(params, graph, x, forward=net.forward, trials=4)
    assert found.trials == 4
    assert found.error <= found.tolerance == np.sqrt(np.finfo(dtype).eps)
    assert "same function under 4 plans" in str(found)


@pytest.mark.parametrize(
    ("changes", "group", "parameter", "words"),
    [
        ({"b0": "."}, "h1", "b0", "axis 0 of parameter 'b0' must move with 'h1'"),
        ({"w1": "h2 ."}, "h1", "w1", "axis 1 of parameter 'w1' must move with 'h1'"),
        ({"w1": ". h1"}, "h2", "w1", "axis 0 of parameter 'w1' must move with 'h2'"),
    ],
)
def test_a_missing_axis_is_named(mlp, changes, group, parameter, words):
    net = mlp(*NET)
    with pytest.raises(EquivalenceError, match=words) as caught:
        rb.verify(net.params(), wrong(net, **changes), net.inputs(), forward=net.forward)
    assert caught.value.groups == (group,)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    ("widths", "changes", "group", "parameter", "words"),
    [
        ((6, 6, 2), {"w0": "h1 h1"}, "h1", "w0", "axis 1 of parameter 'w0' must not move with 'h1'"),
        ((3, 6, 6), {"b1": "h1"}, "h1", "b1", "axis 0 of parameter 'b1' must not move with 'h1'"),
    ],
)
def test_an_axis_too_many_is_named(mlp, widths, changes, group, parameter, words):
    net = mlp(widths)
    with pytest.raises(EquivalenceError, match=words) as caught:
        rb.verify(net.params(), wrong(net, **changes), net.inputs(), forward=net.forward)
    assert caught.value.groups == (group,)
    assert caught.value.parameter == parameter


def test_a_group_wrong_in_two_places_is_named_with_all_of_them(mlp):
    net = mlp(*NET)
    with pytest.raises(EquivalenceError, match=r"'h1' breaks it alone.*axis 0 of 'w0'.*pin=") as caught:
        rb.verify(net.params(), wrong(net, b0=".", w1="h2 ."), net.inputs(), forward=net.forward)
    assert caught.value.groups == ("h1",)
    assert caught.value.parameter is None


def test_two_names_for_one_group_are_both_blamed(mlp):
    net = mlp((3, 6, 2))
    with pytest.raises(EquivalenceError) as caught:
        rb.verify(net.params(), wrong(net, w1=". k"), net.inputs(), forward=net.forward)
    assert set(caught.value.groups) == {"h1", "k"}


def test_a_wrong_axis_of_a_constant_tensor_shows_too(mlp):
    """Zero biases hide a missing axis in the first trial; the others make them uneven."""
    net = mlp((3, 6, 2))
    params = {**net.params(), "b0": np.zeros(6)}
    graph = wrong(net, b0=".")
    assert rb.verify(params, graph, net.inputs(), forward=net.forward, trials=1).error < 1e-12
    with pytest.raises(EquivalenceError, match=r"'b0' must move"):
        rb.verify(params, graph, net.inputs(), forward=net.forward)


def test_a_wrong_product_order_is_noticed():
    rng = np.random.default_rng(0)
    params = {"conv": rng.normal(size=(4, 2)), "fc": rng.normal(size=(3, 16))}

    def forward(p, x):
        return np.einsum("ci,nip->ncp", p["conv"], x).reshape(len(x), -1) @ p["fc"].T

    x = rng.normal(size=(5, 2, 4))
    right = rb.PermutationGraph.from_axes({"conv": "c .", "fc": ". (c 4)"}, params)
    rb.verify(params, right, x, forward=forward)
    flipped = rb.PermutationGraph.from_axes({"conv": "c .", "fc": ". (4 c)"}, params)
    with pytest.raises(EquivalenceError, match=r"'c' breaks it alone"):
        rb.verify(params, flipped, x, forward=forward)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_outputs_without_any_number_say_nothing_of_the_graph(mlp, odd):
    net = mlp((3, 6, 2))
    with pytest.raises(NonFiniteError, match=r"nothing can be compared.*pass inputs"):
        rb.verify(net.params(), net.graph(), net.inputs(), forward=lambda p, x: net.forward(p, x) * 0 + odd)


@settings(max_examples=30)
@given(
    odd=st.lists(st.sampled_from([None, np.nan, np.inf, -np.inf]), min_size=4, max_size=4).filter(lambda x: None in x),
    complex_valued=st.booleans(),
)
def test_what_is_not_finite_in_both_is_equal(mlp, odd, complex_valued):
    """Masked outputs accuse no right graph, and hide no wrong one."""
    net = mlp((3, 6, 4))

    def forward(p, x):
        y = net.forward(p, x) * (1j if complex_valued else 1)
        for i, value in enumerate(odd):
            if value is not None:
                y[:, i] = value
        return y

    params, x = net.params(), net.inputs()
    assert rb.verify(params, net.graph(), x, forward=forward).error < 1e-12
    assert (
        rb.align(params, net.params(2), x, graph=net.graph(), forward=forward, solver="weight-matching").error < 1e-12
    )
    with pytest.raises(EquivalenceError, match=r"'b0' must move"):
        rb.verify(params, wrong(net, b0="."), x, forward=forward)


@given(
    values=st.lists(st.floats(-1.7e308, 1.7e308), min_size=2, max_size=5).filter(any),
    power=st.integers(-300, 0),
)
def test_the_relative_error_is_that_of_the_numbers_in_any_unit(values, power):
    """No square overflows, and none vanishes."""
    x = np.array(values) / max(map(abs, values))
    for unit in (1.0, 10.0**power, 1e308):
        assert_allclose(compare_outputs(unit * x, unit * (1 + 1e-3) * x, {}).error, 1e-3, rtol=1e-6)
        assert compare_outputs(unit * x, unit * x, {}).error == 0


def test_what_is_not_finite_in_one_of_them_is_named():
    x = np.zeros((2, 3))
    y = x.copy()
    y[1, 2] = np.nan
    found = compare_outputs((x, x), (x, y), {})
    assert not found.is_rounding
    assert found.error == np.inf
    assert str(found) == "entry (1, 2) of output 1 is 0.0 in the one and nan in the other"
    for first, second in ((np.inf, -np.inf), (np.nan, np.inf), (1.0, -np.inf)):
        assert not compare_outputs(np.array([0.0, first]), np.array([0.0, second]), {}).is_rounding


def test_a_shape_that_depends_on_the_weights_is_named():
    with pytest.raises(ShapeError, match=r"shapes \(2,\) from the one and arrays of shapes \(3,\)"):
        compare_outputs(np.zeros(2), np.zeros(3), {})


def test_nested_outputs_are_compared_leaf_by_leaf(mlp):
    net = mlp((3, 6, 2))

    def forward(p, x):
        y = net.forward(p, x)
        return {"logits": y, "extra": (y + 1, [y.sum(0)])}

    rb.verify(net.params(), net.graph(), net.inputs(), forward=forward)

    def leaking(p, x):
        return {"logits": net.forward(p, x), "hidden": p["b0"]}

    with pytest.raises(EquivalenceError, match=r"'h1'"):
        rb.verify(net.params(), net.graph(), net.inputs(), forward=leaking)


def test_several_inputs_come_as_a_tuple(mlp):
    net = mlp((3, 6, 2))
    found = rb.verify(
        net.params(), net.graph(), net.inputs(), net.inputs(), forward=lambda p, xs: net.forward(p, xs[0] + xs[1])
    )
    assert found.error < 1e-12


def test_a_graph_without_groups_passes(mlp):
    net = mlp((3, 2))
    assert rb.verify(net.params(), net.graph(), net.inputs(), forward=net.forward).error == 0.0


def test_bad_input_is_refused_before_any_work(mlp):
    net = mlp((3, 6, 2))
    params, graph, x = net.params(), net.graph(), net.inputs()
    for trials in (0, -1, 1.5, "3"):
        with pytest.raises(SettingError, match=r"trials"):
            rb.verify(params, graph, x, forward=net.forward, trials=trials)
    with pytest.raises(SettingError, match=r"pass example inputs"):
        rb.verify(params, graph, forward=net.forward)
    with pytest.raises(SpecError, match=r"pass forward="):
        rb.verify(params, graph, x)
    with pytest.raises(ShapeError, match=r"'w0' of the model"):
        rb.verify({**params, "w0": np.zeros((1, 1))}, graph, x, forward=net.forward)
    with pytest.raises(ShapeError, match=r"0 arrays"):
        rb.verify(params, graph, x, forward=lambda p, x: 1.0)
