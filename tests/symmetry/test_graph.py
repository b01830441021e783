"""The permutation graph: sizes from shapes, pinning, coverage, and messages that name the culprit."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rebasin_core as rb
from rebasin_core.errors import ShapeError, SpecError
from rebasin_core.symmetry.axes import AxesSpec

from_axes = rb.PermutationGraph.from_axes


def zeros(**shapes):
    return {name: np.zeros(shape) for name, shape in shapes.items()}


@given(st.data())
def test_json_round_trip_is_the_identity(strategies, data):
    graph, _ = data.draw(strategies.networks())
    again = rb.PermutationGraph.from_json(graph.to_json())
    assert again == graph
    assert list(again.groups) == list(graph.groups)
    assert str(again) == str(graph)


@pytest.mark.parametrize(
    ("axes", "shapes", "sizes"),
    [
        ({"w": "h (c 49)", "b": "c"}, {"w": (5, 98), "b": (2,)}, {"h": 5, "c": 2}),
        ({"w": "h (c 49)"}, {"w": (5, 98)}, {"h": 5, "c": 2}),
        ({"w": "(a+b)", "b": "b"}, {"w": (7,), "b": (3,)}, {"a": 4, "b": 3}),
        ({"w": "(a 2+b)", "b": "b"}, {"w": (11,), "b": (3,)}, {"a": 4, "b": 3}),
        ({"w": "(3 heads 64) d"}, {"w": (384, 128)}, {"heads": 2, "d": 128}),
        ({"w": "(h d[h])", "v": "h"}, {"w": (12,), "v": (3,)}, {"h": 3, "d": 4}),
        ({"w": "h (4+d[h])"}, {"w": (3, 6)}, {"h": 3, "d": 2}),
        ({"w": "(a 2)@[3 2 1 0]"}, {"w": (4,)}, {"a": 2}),
        # one size is known only by way of another
        ({"x": "(a b)", "y": "(b c)", "c": "c"}, {"x": (6,), "y": (10,), "c": (5,)}, {"a": 3, "b": 2, "c": 5}),
    ],
)
def test_sizes_follow_from_shapes(axes, shapes, sizes):
    assert from_axes(axes, zeros(**shapes)).groups == sizes


@pytest.mark.parametrize(
    ("axes", "shapes", "words"),
    [
        ({"w": "h (c"}, {"w": (2, 3)}, ["'w'", "never closed"]),
        ({"w": "h ."}, {"w": (2,)}, ["'w'", "1 axes", "has 2"]),
        ({"w": "h h"}, {"w": (2, 3)}, ["'h' has two sizes", "2 by axis 0 of 'w'", "3 by axis 1 of 'w'"]),
        ({"w": "h .", "b": "h"}, {"w": (2, 3), "b": (4,)}, ["'h' has two sizes", "axis 0 of 'b'"]),
        ({"w": "(h 4)"}, {"w": (6,)}, ["axis 0 of 'w'", "does not divide"]),
        ({"w": "(h+4)"}, {"w": (4,)}, ["axis 0 of 'w'", "known parts alone take 4"]),
        ({"w": "(a b)"}, {"w": (6,)}, ["size of a, b open", "axis 0 of 'w'"]),
        ({"w": "h 4"}, {"w": (2, 3)}, ["axis 1 of 'w'", "length 3", "makes 4"]),
        ({"w": "x@[1 0]"}, {"w": (3,)}, ["axis 0 of 'w'", "2 places"]),
        ({"w": "h 2@[1 0]"}, {"w": (3, 3)}, ["axis 1 of 'w'", "length 3", "makes 2"]),
        ({"a": "h", "w": "(h 2)"}, {"a": (3,), "w": (8,)}, ["axis 0 of 'w'", "h = 3 by axis 0 of 'a'"]),
        ({"a": "h", "b": "(h c)"}, {"a": (0,), "b": (6,)}, ["axis 0 of 'b'", "does not divide"]),
        ({"w": "d[h]"}, {"w": (3,)}, ["'d'", "'h'", "not a group"]),
        ({"w": "d[h]", "v": "h"}, {"w": (3,), "v": (2,)}, ["in 'w'", "d[h]", "no 'h' is beside"]),
        ({"w": "h d[h]", "v": "d"}, {"w": (3, 2), "v": (2,)}, ["'d'", "a plain group", "in 'v'"]),
        ({"w": "a d[a] e[d]"}, {"w": (3, 2, 2)}, ["'e'", "itself local to 'a'"]),
        ({"w": "h h d[h]"}, {"w": (3, 3, 2)}, ["in 'w'", "d[h] stands beside 2 axes of 'h'"]),
        ({"w": "h h (4 d[h])"}, {"w": (3, 3, 8)}, ["in 'w'", "d[h] stands beside 2 axes of 'h'"]),
    ],
)
def test_a_notation_that_does_not_fit_is_refused_by_name(axes, shapes, words):
    with pytest.raises(SpecError) as caught:
        from_axes(axes, zeros(**shapes))
    for word in words:
        assert word in str(caught.value)


def test_missing_and_extra_parameters_are_named():
    params = zeros(weight=(2, 3), bias=(2,))
    with pytest.raises(SpecError, match=r"axes lacks 'bias'"):
        from_axes({"weight": "h ."}, params)
    with pytest.raises(SpecError, match=r"axes names 'biass'.*did you mean 'bias'"):
        from_axes({"weight": "h .", "biass": "h"}, params)
    with pytest.raises(SpecError, match=r"buffers names 'mean'"):
        from_axes({"weight": "h .", "bias": "h"}, params, buffers=["mean"])
    with pytest.raises(SpecError, match=r"mapping"):
        from_axes({}, [np.zeros(2)])


def test_parameters_of_another_architecture_are_named():
    graph = from_axes({"w": "h ."}, zeros(w=(2, 3)))
    with pytest.raises(ShapeError, match=r"'w' of model B has shape \(3, 2\).*\(2, 3\)"):
        graph.check_params(zeros(w=(3, 2)), "model B")
    with pytest.raises(SpecError, match=r"model B names 'v'"):
        graph.check_params(zeros(w=(2, 3), v=(1,)), "model B")
    with pytest.raises(SpecError, match=r"model B lacks 'w'"):
        graph.check_params({}, "model B")


def test_coverage_is_the_share_of_entries_with_a_permutable_axis():
    graph = from_axes({"w": "h .", "v": ". ."}, zeros(w=(2, 3), v=(2, 7)))
    np.testing.assert_allclose(graph.coverage, 6 / 20)
    assert from_axes({"v": "."}, zeros(v=(3,))).coverage == 0.0


def test_pinning_a_group_puts_fixed_blocks_in_its_place():
    axes = {"w": "h (c 49)", "b": "h", "v": "(c+h)"}
    graph = from_axes(axes, zeros(w=(2, 98), b=(2,), v=(4,))).pin("h", "too precious")
    assert graph.groups == {"c": 2}
    assert graph.axes == {"w": AxesSpec("2 (c 49)"), "b": AxesSpec("2"), "v": AxesSpec("(c+2)")}
    assert graph.pinned == {("w", 0): "too precious", ("b", 0): "too precious"}


def test_an_axis_all_of_whose_groups_are_pinned_is_listed_as_pinned():
    graph = from_axes({"w": "h (c 49)", "b": "c"}, zeros(w=(2, 98), b=(2,)), pin=["c"])
    assert graph.pinned == {("w", 1): "pinned by the user", ("b", 0): "pinned by the user"}
    assert rb.PermutationGraph.from_json(graph.to_json()) == graph


def test_pinning_a_parameter_pins_all_of_its_groups_and_a_parent_pins_its_children():
    graph = from_axes({"w": "(h d[h]) c", "v": "h", "c": "c x"}, zeros(w=(6, 4), v=(2,), c=(4, 5)))
    assert graph.pin(["v"]).groups == {"c": 4, "x": 5}
    assert graph.pin("d").groups == {"h": 2, "c": 4, "x": 5}
    assert graph.pin("w").groups == {"x": 5}
    assert graph.pin("h").parents == {}
    assert graph.groups == {"h": 2, "d": 3, "c": 4, "x": 5}  # the graph itself stays


def test_pinning_what_does_not_exist_names_the_nearest():
    graph = from_axes({"w": "hidden ."}, zeros(w=(2, 3)))
    with pytest.raises(SpecError, match=r"'hiden'.*did you mean 'hidden'"):
        graph.pin(["hiden"])


def test_occurrences_list_every_axis_of_a_group():
    graph = from_axes({"w": "h (h 2)", "v": "(c+h)", "u": "c"}, zeros(w=(2, 4), v=(5,), u=(3,)))
    assert graph.occurrences("h") == [("w", 0), ("w", 1), ("v", 0)]


def test_reasons_are_kept_and_shown():
    graph = from_axes({"w": "h ."}, zeros(w=(2, 3)), reasons={("w", 1): "the inputs"})
    assert graph.pinned == {("w", 1): "the inputs"}
    assert "the inputs: w[1]" in str(graph)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "to_json"),
        ('{"format": "rebasin-core/plan/1"}', "to_json"),
        (json.dumps({"format": "rebasin-core/graph/1", "axes": {}}), "lacks 'shapes'"),
        (
            json.dumps(
                {"format": "rebasin-core/graph/1", "axes": {"w": "h ("}, "shapes": {}, "pinned": [], "buffers": []}
            ),
            "'w'",
        ),
    ],
)
def test_text_that_is_no_graph_is_refused(text, words):
    with pytest.raises(SpecError, match=words):
        rb.PermutationGraph.from_json(text)


def test_a_scalar_parameter_has_the_empty_notation():
    graph = from_axes({"scale": "", "w": "h"}, {"scale": np.array(2.0), "w": np.zeros(3)})
    assert graph.groups == {"h": 3}
    assert graph.shapes["scale"] == ()


W = {"w": AxesSpec("h .")}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rb.PermutationGraph(["h ."], {}, {}), "axes of a graph as a dictionary.*got list"),
        (lambda: rb.PermutationGraph({"w": "h ."}, {"w": (2, 3)}, {"h": 2}), "axes of a graph.*got 'w': 'h .'"),
        (lambda: rb.PermutationGraph(W, {"w": [2, 3]}, {"h": 2}), "shapes of a graph.*got 'w'"),
        (lambda: rb.PermutationGraph(W, {"w": (2, 3)}, {"h": 2.0}), "groups of a graph.*got 'h': 2.0"),
        (lambda: rb.PermutationGraph(W, {"v": (2, 3)}, {"h": 2}), "axes names 'w', which is not in shapes"),
        (lambda: rb.PermutationGraph(W, {"w": (2, 3)}, {"h": 2}, {"d": 1}), "parents of a graph.*got 'd': 1"),
        (lambda: rb.PermutationGraph(W, {"w": (2, 3)}, {"h": 2}, {}, {"w": "x"}), "pinned of a graph.*got 'w'"),
        (lambda: rb.PermutationGraph(W, {"w": (2, 3)}, {"h": 2}, buffers=3), "buffers as names.*got 3"),
        (lambda: rb.PermutationGraph(W, {"w": (2, 3)}, {"h": 2}, links={"h": "w"}), "links of a graph.*got 'h'"),
        (lambda: from_axes(["h ."], zeros(w=(2, 3))), "axes as a mapping.*got list"),
        (lambda: from_axes({1: "h"}, {1: np.zeros(2)}), "names as text in axes, got 1"),
        (lambda: from_axes({"w": 5}, zeros(w=(2,))), "in the axes of 'w': expected the axes as text.*got int 5"),
        (lambda: from_axes({"w": "h"}, zeros(w=(2,)), buffers=[1]), "buffers as names"),
        (lambda: from_axes({"w": "h"}, zeros(w=(2,)), pin=3), "pin as names.*got 3"),
        (lambda: from_axes({"w": "h"}, zeros(w=(2,)), reasons=["x"]), "reasons as a mapping"),
        (lambda: from_axes({"w": "h"}, zeros(w=(2,))).check_params(None), "params as a mapping.*got NoneType"),
    ],
)
def test_what_graphs_are_not_made_of_is_refused(make, words):
    with pytest.raises(SpecError, match=words):
        make()


def test_a_graph_shows_in_a_line_and_in_a_notebook():
    names = [f"<w{k}>" for k in range(50)]
    graph = from_axes({name: f"h{k} ." for k, name in enumerate(names)}, {name: np.zeros((4, 3)) for name in names})
    assert repr(graph) == "<PermutationGraph of 50 groups over 50 parameters; 100.0 % of 600 entries can move>"
    page = graph._repr_html_()
    assert page.count("<tr>") == 22  # a header, twenty groups, a count of the rest
    assert "<td>h0</td><td>4</td><td>&lt;w0&gt;[0]</td>" in page
    assert "and 30 more" in page
    assert "<w" not in page
    assert "://" not in page
