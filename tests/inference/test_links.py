"""Explanations of traced graphs: every link names an operation that reads both axes, and every axis is reached."""

import numpy as np
import pytest

from rebasin_core.inference import Primitives, build_graph
from rebasin_core.inference.layers import Activation, Attention, Conv, Dense, Norm, Residual
from rebasin_core.symmetry.axes import Group
from rebasin_core.symmetry.graph import PermutationGraph

from .test_fuzzer import random_program


def graph_of(layers, **shapes):
    return PermutationGraph.from_layers(layers, {n.replace("__", "."): np.ones(s) for n, s in shapes.items()})


def told(graph, group):
    return {(link.first, link.second): link.operation for link in graph.explain(group).links}


def test_a_multi_layer_perceptron():
    graph = graph_of(
        [Dense("a"), Activation(), Dense("b"), Activation(), Dense("c")],
        a__weight=(8, 3), a__bias=(8,), b__weight=(5, 8), b__bias=(5,), c__weight=(2, 5),
    )  # fmt: skip
    assert told(graph, "a") == {
        (("a.weight", 0), ("a.bias", 0)): "Dense a",
        (("a.weight", 0), ("b.weight", 1)): "Dense b",
    }
    assert graph.explain("b").places == (("b.weight", 0), ("b.bias", 0), ("c.weight", 1))


def test_a_residual_network_is_tied_by_its_sums():
    graph = graph_of(
        [Conv("stem"), Residual([Norm("n"), Conv("a"), Activation(), Conv("b")]), Residual([Conv("c")]), Conv("out")],
        stem__weight=(4, 3, 1), n__weight=(4,), a__weight=(6, 4, 1), b__weight=(4, 6, 1), c__weight=(4, 4, 1),
        out__weight=(2, 4, 1),
    )  # fmt: skip
    chain = graph.explain("stem", ("stem.weight", 0), ("c.weight", 0))
    assert [link.operation for link in chain.links] == ["Residual", "Residual"]
    assert chain.places == (("stem.weight", 0), ("b.weight", 0), ("c.weight", 0))
    # Inside of a residual a layer has its own name, and behind it the sum has its own again.
    assert told(graph, "stem")[("stem.weight", 0), ("n.weight", 0)] == "Norm n"
    assert graph.explain("a", ("b.weight", 1), ("a.weight", 0)).links[0].operation == "Conv b"


def test_attention_ties_values_to_what_reads_them_and_queries_to_keys():
    graph = graph_of(
        [Dense("e"), Attention(2, "q", "k", "v", "o"), Dense("c")],
        e__weight=(8, 3), q__weight=(6, 8), k__weight=(6, 8), v__weight=(10, 8), o__weight=(7, 10), c__weight=(2, 7),
    )  # fmt: skip
    of = {frozenset(name for name, _ in graph.explain(group).places): group for group in graph.groups}
    assert of.keys() >= {frozenset({"q.weight", "k.weight"}), frozenset({"v.weight", "o.weight"})}
    heads = of[frozenset({"q.weight", "k.weight", "v.weight", "o.weight"})]
    assert {link.operation for link in graph.explain(heads).links} == {"Attention q"}


@pytest.mark.parametrize("seed", range(0, 600, 2))
def test_links_of_random_programs_join_all_places_of_their_group(seed):
    graph = random_program(seed).graph()
    assert graph.links.keys() == graph.groups.keys()
    for group in graph.groups:
        places = graph.occurrences(group)
        explanation = graph.explain(group)
        assert explanation.links == graph.links[group], "no axis is left to be explained by its name"
        assert sorted(explanation.places) == sorted(places)
        reached = {explanation.start}
        for first, second, _ in explanation.links:
            assert first in reached
            assert second not in reached
            reached.add(second)


def test_every_link_is_needed_by_its_operation():
    """Where an operation of a chain is left out, the axes it tied fall apart."""
    shapes = {"a.weight": (4, 3), "b.weight": (4, 3), "c.weight": (2, 4)}

    def graph(add):
        p = Primitives()
        x = p.constant((5, 3), reason="an input")
        weights = {name: p.param(name, shape) for name, shape in shapes.items()}
        h = p.ein([x, weights["a.weight"]], ["ni", "hi"], "nh")
        g = p.ein([x, weights["b.weight"]], ["ni", "hi"], "nh")
        with p.recorder.during("add"):
            y = p.elementwise(h, g) if add else h
        with p.recorder.during("last"):
            p.pin([p.ein([y, weights["c.weight"]], ["nh", "oh"], "no"), *([] if add else [p.reduce(g, [1])])], "out")
        return build_graph(p.recorder)

    tied = graph(add=True)
    assert tied.explain("a", ("a.weight", 0), ("b.weight", 0)).links[0].operation == "add"
    assert graph(add=False).axes["b.weight"].axes[0] == Group("b")
