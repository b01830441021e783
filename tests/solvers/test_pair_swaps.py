"""Swaps in the quadratic form: the first is the best of all, and none is named where none helps."""

from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.backends import get_backend
from rebasin_core.solvers.pair_swaps import helpful_swaps
from rebasin_core.symmetry.action import occurrence_pairs

NOTATIONS = {
    "twice": ("d d", (5, 5)),
    "a kernel": ("d d .", (5, 5, 3)),
    "gates": ("(3 d) d", (15, 5)),
    "sums": ("(d+2) (d+d)", (7, 10)),
    "in an order of its own": ("d@[4 2 0 1 3] (d 2)", (5, 10)),
    "inside one product": ("(d d) .", (25, 2)),
    "with another group": ("(d c) d", (10, 5)),
}


def case(text, shape, seed):
    rng = np.random.default_rng(seed)
    a, b = ({"m": rng.normal(size=shape), "v": rng.normal(size=5), "w": rng.normal(size=(2, 5))} for _ in range(2))
    return rb.PermutationGraph.from_axes({"m": text, "v": "d", "w": "c d" if "c" in text else ". d"}, a), a, b


def similarity(graph, a, b, perm):
    moved = rb.Plan.identity(graph).replace("d", perm).apply(b, graph)
    return sum((a[name] * moved[name]).sum() for name in a)


def chosen_swaps(graph, a, b):
    backend = get_backend(a["m"])
    pairs = [p for n in a for p in occurrence_pairs(backend, a[n], b[n], graph.axes[n], graph.groups, "d")]
    return helpful_swaps(backend, sum(x @ y.T for x, y in pairs), a, b, graph, "d")


def gains(graph, a, b):
    here = similarity(graph, a, b, range(5))
    found = {}
    for i, j in combinations(range(5), 2):
        perm = np.arange(5)
        perm[[i, j]] = j, i
        found[i, j] = similarity(graph, a, b, perm) - here
    return found


@pytest.mark.parametrize("notation", NOTATIONS)
@pytest.mark.parametrize("seed", range(4))
def test_the_swaps_are_those_with_the_highest_exact_gains(notation, seed):
    graph, a, b = case(*NOTATIONS[notation], seed)
    exact = gains(graph, a, b)
    chosen = chosen_swaps(graph, a, b)
    units = [unit for swap in chosen for unit in swap]
    assert len(units) == len(set(units))
    expected = []  # the greedy choice by the gains that were measured
    for swap in sorted(exact, key=exact.get, reverse=True):
        if exact[swap] > 0 and not set(swap) & {unit for other in expected for unit in other}:
            expected.append(swap)
    assert chosen == expected


@pytest.mark.parametrize("notation", NOTATIONS)
def test_no_swap_helps_a_network_that_lies_as_a_does(notation):
    graph, a, _ = case(*NOTATIONS[notation], 0)
    assert max(gains(graph, a, a).values()) < 0
    assert chosen_swaps(graph, a, a) == []


def test_one_swap_apart_is_undone():
    graph, a, _ = case("d d", (5, 5), 0)
    b = rb.permute(a, rb.Plan({"d": [0, 3, 2, 1, 4]}), graph)
    assert chosen_swaps(graph, a, b)[0] == (1, 3)
    assert_allclose(similarity(graph, a, b, [0, 3, 2, 1, 4]), sum((x**2).sum() for x in a.values()))
