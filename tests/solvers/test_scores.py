"""Scores that are kept from one look at a group to the next are those of a new look."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.backends import get_backend
from rebasin_core.solvers.scores import FEW, Scores
from rebasin_core.symmetry.action import act, occurrence_pairs

AXES = {
    "first": "h .",
    "bias": "h",
    "conv": "c h . .",
    "norm": "c",
    "flat": "k (c 4)",
    "skip": "k (c+h)",
    "square": "k k",
    "heads": "(p q[p]) k",
    "per_head": "p .",
    "last": ". k",
}
SHAPES = {
    "first": (20, 90),
    "bias": (20,),
    "conv": (16, 20, 3, 3),
    "norm": (16,),
    "flat": (24, 64),
    "skip": (24, 36),
    "square": (24, 24),
    "heads": (24, 24),
    "per_head": (4, 3),
    "last": (5, 24),
}


@pytest.fixture
def networks():
    rng = np.random.default_rng(0)
    a, b = ({name: rng.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(2))
    return rb.PermutationGraph.from_axes(AXES, a), a, b


def reader(graph, a, b):
    return lambda name: (graph.axes[name], a[name], b[name])


def names_of(graph, group):
    return [name for name in graph.learned if group in graph.axes[name].groups]


def expected(graph, group, a, b, names):
    B = get_backend(*a.values())
    pairs = [list(occurrence_pairs(B, a[n], b[n], graph.axes[n], graph.groups, group)) for n in names]
    return sum(x @ y.swapaxes(-1, -2) for found in pairs if len(found) == 1 for x, y in found)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("told", [True, False])
def test_after_any_sequence_of_moves(networks, share, told):
    graph, a, b = networks
    rng = np.random.default_rng(1)
    B, scores = get_backend(*a.values()), Scores(graph, get_backend(*a.values()))
    for group in rng.choice(list(graph.groups), 60):
        names = names_of(graph, group)
        found, quadratic = scores.linear(group, names, reader(graph, a, b))
        assert_allclose(found, expected(graph, group, a, b, names), rtol=1e-10, atol=1e-10)
        doubled = [n for n in names if [node.name for node in graph.axes[n].group_nodes].count(group) > 1]
        assert len(quadratic) == len(doubled)
        perm = rb.Plan.identity(graph)[group].copy()
        count = max(2, int(share * perm.shape[-1]))
        moved = rng.choice(perm.shape[-1], count, replace=False)
        perm[..., moved] = perm[..., np.roll(moved, 1)]
        after = {n: act(B, b[n], graph.axes[n], graph.groups, {group: perm}) for n in names}
        scores.move(group, perm, names, (a, b, after) if told else None)
        b = {**b, **after}


def count_products(monkeypatch):
    rows = []

    def product(backend, a, b):
        rows.append(a.shape[-1])
        return backend.matmul(a, b, transpose_y=True)

    monkeypatch.setattr("rebasin_core.solvers.scores.product", product)
    return rows


def test_a_second_look_makes_no_product_but_that_of_thin_parameters(networks, monkeypatch):
    graph, a, b = networks
    scores, rows = Scores(graph, get_backend(*a.values())), count_products(monkeypatch)
    names = names_of(graph, "h")
    scores.linear("h", ["first", "bias", "conv"], reader(graph, a, b))
    assert sorted(rows) == [1, 90, 16 * 9]
    rows.clear()
    scores.move("h", np.arange(20)[::-1], names)
    scores.linear("h", ["first", "bias", "conv"], reader(graph, a, b))
    assert rows == [1]


@pytest.mark.parametrize(("units", "columns"), [(2, [2 * 9]), (int(FEW * 16) + 1, [])])
def test_where_few_units_moved_only_they_are_computed_anew(networks, monkeypatch, units, columns):
    graph, a, b = networks
    B, scores = get_backend(*a.values()), Scores(graph, get_backend(*a.values()))
    scores.linear("h", ["conv"], reader(graph, a, b))
    rows = count_products(monkeypatch)
    perm = np.r_[np.roll(np.arange(units), 1), np.arange(units, 16)]
    after = {"conv": act(B, b["conv"], graph.axes["conv"], graph.groups, {"c": perm})}
    scores.move("c", perm, ["conv"], (a, b, after))
    assert rows == columns


def test_what_is_larger_than_its_parameter_is_not_kept(monkeypatch):
    rng = np.random.default_rng(0)
    a = {"w": rng.normal(size=(80, 70))}
    graph = rb.PermutationGraph.from_axes({"w": "h ."}, a)
    scores, rows = Scores(graph, get_backend(*a.values())), count_products(monkeypatch)
    for _ in range(2):
        scores.linear("h", ["w"], reader(graph, a, a))
    assert rows == [70, 70]
