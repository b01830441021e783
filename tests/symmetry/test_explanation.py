"""Explanations: trees of links that survive pinning, renaming and JSON, and chains between any two axes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rebasin_core as rb
from rebasin_core.errors import SpecError
from rebasin_core.symmetry.explanation import TWO_NAMES, Explanation, Link, chain, rename_links, spanning_links


def linked(**settings):
    layers = [
        rb.layers.Dense("a"),
        rb.layers.Residual([rb.layers.Dense("b"), rb.layers.Dense("c")]),
        rb.layers.Dense("d"),
    ]
    shapes = {"a.weight": (4, 3), "b.weight": (6, 4), "c.weight": (4, 6), "d.weight": (2, 4)}
    return rb.PermutationGraph.from_layers(layers, {name: np.ones(s) for name, s in shapes.items()}, **settings)


@st.composite
def trees(draw):
    count = draw(st.integers(2, 9))
    return tuple(Link((f"p{draw(st.integers(0, k - 1))}", 0), (f"p{k}", 0), f"operation {k}") for k in range(1, count))


def ways(links, start):
    """Every place that links lead to, in either direction."""
    reached = {start}
    while True:
        more = {p for a, b, _ in links for p in (a, b) if {a, b} & reached} | reached
        if more == reached:
            return reached
        reached = more


@given(trees(), st.data())
def test_a_chain_leads_from_start_to_end_along_links_of_the_tree(links, data):
    places = [links[0].first, *(link.second for link in links)]
    start, end = data.draw(st.sampled_from(places)), data.draw(st.sampled_from(places))
    found = chain(links, start, end)
    at = start
    for link in found:
        assert link.first == at
        assert {(link.first, link.second), (link.second, link.first)} & {(a, b) for a, b, _ in links}
        at = link.second
    assert at == end
    assert len({start, *(link.second for link in found)}) == len(found) + 1, "no axis is passed twice"


@given(trees(), st.data())
def test_renaming_keeps_what_is_left_connected(links, data):
    names = [links[0].first[0], *(link.second[0] for link in links)]
    kept = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    twice = data.draw(st.sampled_from(kept))
    owners = {f"new {name}": name for name in kept} | {"another": twice}
    renamed = rename_links(links, owners)
    assert {p[0] for link in renamed for p in (link.first, link.second)} <= owners.keys()
    assert Link((f"new {twice}", 0), ("another", 0), TWO_NAMES) in renamed
    if names[0] in kept:
        assert {p[0] for p in ways(renamed, renamed[0].first)} == owners.keys()
        assert len(renamed) == len(owners) - 1
    places = [(name, 0) for name in owners]
    whole = spanning_links("h", places, renamed)
    assert sorted([whole[0].first, *(link.second for link in whole)]) == sorted(places)


def test_axes_written_by_hand_belong_together_by_their_name():
    graph = rb.PermutationGraph.from_axes({"w": "h .", "v": ". h"}, {"w": np.ones((4, 3)), "v": np.ones((2, 4))})
    assert graph.explain("h").links == (Link(("w", 0), ("v", 1), "the notation gives both the name 'h'"),)
    assert str(graph.explain("h")) == "h: w[0]\n    v[1]  with w[0]  the notation gives both the name 'h'"


def test_links_survive_json_pinning_and_renaming():
    graph = linked()
    assert graph.links
    again = rb.PermutationGraph.from_json(graph.to_json())
    assert again.links == graph.links
    pinned = graph.pin("b")
    assert pinned.links["a"] == graph.links["a"]
    assert pinned.explain("a") == graph.explain("a")
    renamed = graph.rename({name.upper(): name for name in reversed(list(graph.axes))})
    assert str(renamed.explain("a")) == str(graph.explain("a")).replace(".weight", ".WEIGHT").replace(
        "a.W", "A.W"
    ).replace("b.W", "B.W").replace("c.W", "C.W").replace("d.W", "D.W")
    assert renamed.rename({name.lower(): name for name in renamed.axes}).links == graph.links


def test_a_link_to_an_axis_that_is_not_there_is_refused():
    stored = json.loads(linked().to_json())
    for name, axis, words in (("x.weight", 0, "'x.weight'"), ("a.weight", 7, "axis 7 of 'a.weight', which has 2")):
        stored["links"]["a"][0][:2] = [name, axis]
        with pytest.raises(SpecError, match=words):
            rb.PermutationGraph.from_json(json.dumps(stored))


def test_what_cannot_be_explained_is_refused_by_name():
    graph = linked()
    with pytest.raises(SpecError, match="no group has that name; did you mean 'a'"):
        graph.explain("aa")
    for places in ((("b.weight", 0), ("a.weight", 0)), (("a.weight", 0), None), ("a.weight", ("a.weight", 0))):
        with pytest.raises(SpecError, match=r"does not stand on the axis.*\('a.weight', 0\)"):
            graph.explain("a", *places)


def test_renaming_what_is_not_there_is_refused():
    with pytest.raises(SpecError, match="'x', which is not in the graph"):
        linked().rename({"y": "x"})


def test_an_explanation_shows_in_a_line_and_in_a_notebook():
    explanation = Explanation("h", ("w", 0), (Link(("w", 0), ("<v>", 1), "linear & co"),))
    assert repr(explanation) == "<Explanation of 'h': 2 axes>"
    page = explanation._repr_html_()
    assert "&lt;v&gt;[1]" in page
    assert "linear &amp; co" in page
    assert "<v>" not in page
