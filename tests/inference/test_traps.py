"""Small programs with known groups, each a trap that some algorithm has fallen into.

Three laws for every one of them: a random plan leaves the outputs as they are; the groups are the maximal ones, by hand
count; and permuting one axis alone changes the outputs (the negative control: the check would see a wrong axis).
"""

import numpy as np
import pytest

from rebasin_core.backends import get_backend
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.plan import Plan

from .programs import Machine, relative_error

BATCH, INPUTS, CLASSES = 5, 7, 3


def linear(m, x, size):
    """A dense layer over the last axis."""
    names = "abcdefg"[: x.ndim]
    w = m.param(size, x.shape[-1])
    y = m.ein([x, w], [names, "o" + names[-1]], names[:-1] + "o")
    return m.add(y, m.param(size))


def head(m, x):
    m.output(linear(m, x, CLASSES))


def start(m, size):
    return m.unary(linear(m, m.input(BATCH, INPUTS), size))


def mlp(m):
    head(m, m.unary(linear(m, start(m, 6), 4)))


def residual(m):
    x = start(m, 6)
    for _ in range(2):
        x = m.add(x, linear(m, m.unary(linear(m, x, 4)), 6))
    head(m, x)


def gated(m):
    y = linear(m, m.input(BATCH, INPUTS), 8)
    head(m, m.add(m.gather(y, 1, range(4)), m.unary(m.gather(y, 1, range(4, 8)))))


def both_signs(m):
    x = start(m, 6)
    head(m, m.cat([x, m.unary(x)], 1))


def concatenated_twice(m):
    a, b = start(m, 4), start(m, 6)
    c = m.cat([a, b], 1)
    head(m, m.add(linear(m, c, 5), linear(m, m.cat([b, a], 1), 5)))


def rolled(m):
    """A roll alone moves along: only its order is unusual."""
    x = start(m, 6)
    head(m, m.gather(x, 1, [1, 2, 3, 4, 5, 0]))


def rolled_onto_itself(m):
    """x + roll(x) ties every unit to its neighbor: only a rotation of all could move, so that all stays."""
    x = start(m, 6)
    head(m, m.add(x, m.gather(x, 1, [1, 2, 3, 4, 5, 0])))


def flipped_onto_itself(m):
    """x + flip(x) leaves pairs; a swap within one pair is not seen by the copies of its label."""
    x = start(m, 6)
    head(m, m.add(x, m.gather(x, 1, [5, 4, 3, 2, 1, 0])))


def one_unit_is_read_alone(m):
    x = start(m, 6)
    m.output(m.gather(x, 1, [2]))
    head(m, x)


def halves_are_sets(m):
    """Summing one half of an axis keeps each half as a set."""
    x = start(m, 6)
    m.output(m.reduce(m.gather(x, 1, range(2)), [1]))
    head(m, x)


def scaled_by_a_table(m):
    head(m, m.add(start(m, 6), m.constant(np.arange(6.0))))


def scaled_by_a_constant(m):
    head(m, m.add(start(m, 6), m.constant(np.full(6, 2.0))))


def padded_with_zeros(m):
    """The weights behind a constant part have an order of their own, as a set apart from the moving part."""
    x = start(m, 4)
    head(m, m.cat([m.constant(np.zeros((BATCH, 3))), m.constant(np.ones((BATCH, 2))), x], 1))


def normalized(m):
    x = m.normalize(start(m, 6), [1])
    head(m, m.add(x, m.param(6)))


def running_sum(m):
    head(m, m.cumsum(start(m, 6), 1))


def shuffled_channels(m):
    """ShuffleNet: two halves of different kind, interleaved."""
    a, b = start(m, 4), m.normalize(start(m, 4), [1])
    x = m.reshape(m.cat([a, b], 1), (BATCH, 2, 4))
    head(m, m.reshape(m.permute(x, [0, 2, 1]), (BATCH, 8)))


def flattened_pixels(m):
    """Channels first: every channel owns four places of the flattened axis."""
    x = m.ein([m.input(BATCH, INPUTS, 4), m.param(6, INPUTS)], ["bip", "oi"], "bop")
    head(m, m.reshape(m.unary(x), (BATCH, 24)))


def flattened_pixels_last(m):
    x = m.ein([m.input(BATCH, INPUTS, 4), m.param(6, INPUTS)], ["bip", "oi"], "bpo")
    head(m, m.reshape(m.unary(x), (BATCH, 24)))


def rolled_pixels(m):
    """A roll across pixels: equal channels of different pixels must not be confused."""
    x = m.ein([m.input(3, INPUTS), m.param(3, INPUTS)], ["pi", "oi"], "po")
    head(m, m.gather(m.reshape(m.unary(x), (9,)), 0, [*range(1, 9), 0]))


def views_that_do_not_line_up(m):
    """(2, 3) seen as (3, 2): the axes can only move as one, and then each of both views pins the other."""
    x = m.reshape(start(m, 6), (BATCH, 2, 3))
    y = m.reshape(x, (BATCH, 3, 2))
    m.output(m.reduce(m.normalize(x, [1]), [1, 2]))
    m.output(m.reduce(m.normalize(y, [1]), [1, 2]))


def joint_until_touched(m):
    """A view as heads that nothing reads as heads is one group of all."""
    x = m.reshape(start(m, 6), (BATCH, 2, 3))
    head(m, m.reshape(m.unary(x), (BATCH, 6)))


def split_heads(m, x, heads, channels):
    return m.reshape(linear(m, x, heads * channels), (*x.shape[:-1], heads, channels))


def attend(m, q, k, v):
    scores = m.normalize(m.ein([q, k], ["qhd", "khd"], "hqk"), [2])
    y = m.ein([scores, v], ["hqk", "khe"], "qhe")
    return m.reshape(y, (y.shape[0], y.shape[1] * y.shape[2]))


def attention(m):
    """A group of heads, and in every head its own order of channels: of queries with keys, and of values."""
    x = m.input(BATCH, INPUTS)
    head(m, attend(m, split_heads(m, x, 3, 4), split_heads(m, x, 3, 4), split_heads(m, x, 3, 2)))


def attention_with_shared_scales(m):
    """A norm whose scale all heads share ties the channels of all heads together."""
    x = m.input(BATCH, INPUTS)
    q, k = (m.add(m.normalize(split_heads(m, x, 3, 4), [2]), m.param(4)) for _ in range(2))
    head(m, attend(m, q, k, split_heads(m, x, 3, 2)))


def attention_with_a_shared_value_matrix(m):
    x = m.input(BATCH, INPUTS)
    v = m.ein([split_heads(m, x, 3, 4), m.param(2, 4)], ["bhi", "oi"], "bho")
    head(m, attend(m, split_heads(m, x, 3, 4), split_heads(m, x, 3, 4), v))


def attention_across_heads(m):
    """Heads that compare themselves with each other share their channels."""
    q, k = (split_heads(m, m.input(BATCH, INPUTS), 3, 4) for _ in range(2))
    scores = m.normalize(m.ein([q, k], ["bhd", "bgd"], "bhg"), [2])
    head(m, m.reshape(scores, (BATCH, 9)))


def heads_among_each_other(m):
    """One tensor of heads compared with itself: channels are shared although each operand has its heads."""
    y = split_heads(m, m.input(BATCH, INPUTS), 3, 4)
    scores = m.normalize(m.ein([y, y], ["bhd", "bgd"], "bhg"), [2])
    head(m, m.reshape(m.ein([scores, y], ["bhg", "bgd"], "bhd"), (BATCH, 12)))


def an_axis_that_is_a_factor_of_itself(m):
    """One channel of every head, multiplied with all channels of it: ``h = (h, one place of d)``."""
    y = split_heads(m, m.input(BATCH, INPUTS), 3, 4)
    z = m.ein([m.gather(y, 2, [2]), y], ["bhc", "bhd"], "bhcd")
    head(m, m.reshape(z, (BATCH, 12)))


def attention_with_grouped_queries(m):
    """Two queries share one key: they may be exchanged within each key."""
    x = m.input(BATCH, INPUTS)
    q = split_heads(m, x, 6, 4)
    k, v = (m.repeat(split_heads(m, x, 3, 4), 1, 2, True) for _ in range(2))
    head(m, attend(m, q, k, v))


def one_head_is_read_alone(m):
    x = m.input(BATCH, INPUTS)
    v = split_heads(m, x, 3, 2)
    m.output(m.reduce(m.select(v, 1, 0), [1]))
    head(m, attend(m, split_heads(m, x, 3, 4), split_heads(m, x, 3, 4), v))


def grouped_layer(m):
    """A matrix per group: groups move, and in each of them its outputs."""
    x = split_heads(m, m.input(BATCH, INPUTS), 3, 4)
    y = m.unary(m.ein([m.unary(x), m.param(3, 2, 4)], ["bgi", "goi"], "bgo"))
    head(m, m.reshape(y, (BATCH, 6)))


def kernels_with_an_axis_of_heads(m):
    """Heads and channels as two axes of each kernel: the channels follow the heads along another axis."""
    x = m.input(BATCH, INPUTS)
    q, k, v = (m.ein([x, m.param(INPUTS, 3, n)], ["bi", "ihd"], "bhd") for n in (4, 4, 2))
    scores = m.normalize(m.ein([q, k], ["qhd", "khd"], "hqk"), [2])
    y = m.ein([scores, v], ["hqk", "khe"], "qhe")
    head(m, m.ein([y, m.param(3, 2, 6)], ["qhe", "heo"], "qo"))


def depthwise_layer(m):
    head(m, m.add(start(m, 6), m.param(1, 6)))


def stacked_states(m):
    """Stacked parts keep orders of their own, as the states of the layers of a recurrent network do."""
    a, b = start(m, 4), start(m, 4)
    x = m.stack([a, b], 0)
    m.output(m.ein([m.select(x, 0, 0), m.param(CLASSES, 4)], ["bi", "oi"], "bo"))
    m.output(m.ein([m.select(x, 0, 1), m.param(CLASSES, 4)], ["bi", "oi"], "bo"))


def recurrent_step(m):
    """A square matrix from a state to the same state."""
    x = start(m, 6)
    w = m.param(6, 6)
    for _ in range(2):
        x = m.unary(m.ein([x, w], ["bi", "oi"], "bo"))
    head(m, x)


def outer_product_with_itself(m):
    """All products of all units: the group appears twice in one axis."""
    x = start(m, 4)
    head(m, m.reshape(m.ein([x, x], ["bi", "bj"], "bij"), (BATCH, 16)))


def unused_rows(m):
    """Rows that nothing reads look exchangeable; they stay. Those that are summed move, for every column on its own."""
    table = m.param(6, 4)
    head(m, m.add(start(m, 4), m.reduce(m.gather(table, 0, [0, 1, 2]), [0])))


TRAPS = {
    mlp: [6, 4],
    residual: [6, 4, 4],
    gated: [4],
    both_signs: [6],
    concatenated_twice: [4, 6, 5],
    rolled: [6],
    rolled_onto_itself: [],
    flipped_onto_itself: [3],
    one_unit_is_read_alone: [5],
    halves_are_sets: [2, 4],
    scaled_by_a_table: [],
    scaled_by_a_constant: [6],
    padded_with_zeros: [4, 3, 2],
    normalized: [6],
    running_sum: [],
    shuffled_channels: [4, 4],
    flattened_pixels: [6],
    flattened_pixels_last: [6],
    rolled_pixels: [3],
    views_that_do_not_line_up: None,
    joint_until_touched: [6],
    attention: [3, 4, 2],
    attention_with_shared_scales: [3, 4, 2],
    attention_with_a_shared_value_matrix: [3, 4, 4, 2],
    attention_across_heads: [3, 3, 4],
    heads_among_each_other: [3, 4],
    an_axis_that_is_a_factor_of_itself: None,
    attention_with_grouped_queries: [3, 2, 4, 4],
    one_head_is_read_alone: [2, 4, 2],
    grouped_layer: [3, 4, 2],
    kernels_with_an_axis_of_heads: [3, 4, 2, 6],
    depthwise_layer: [6],
    stacked_states: [4, 4],
    recurrent_step: [6],
    outer_product_with_itself: [4],
    unused_rows: [3, 4],
}
LOCAL = {
    attention: 2,
    attention_with_shared_scales: 1,
    attention_with_a_shared_value_matrix: 1,
    attention_with_grouped_queries: 3,
    grouped_layer: 2,
    kernels_with_an_axis_of_heads: 2,
    unused_rows: 1,
}


def build(trap):
    m = Machine(seed=0)
    trap(m)
    return m, m.graph()


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_random_plans_keep_the_outputs(trap):
    m, graph = build(trap)
    for draw in range(5):
        np.testing.assert_allclose(m.error(Plan.random(graph, draw), graph), 0.0, atol=1e-10)


@pytest.mark.parametrize("trap", [t for t, sizes in TRAPS.items() if sizes is not None], ids=lambda trap: trap.__name__)
def test_groups_are_the_maximal_ones(trap):
    _, graph = build(trap)
    assert sorted(graph.groups.values()) == sorted(TRAPS[trap]), str(graph)
    assert len(graph.parents) == LOCAL.get(trap, 0), str(graph)


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_permuting_one_axis_alone_changes_the_outputs(trap):
    m, graph = build(trap)
    before = m.run(m.params)
    for group, n in graph.groups.items():
        places = graph.occurrences(group)
        for name, axis in places if len(places) > 1 else ():  # a group at one place is no more than that axis
            spec = type(graph.axes[name]).of(graph.axes[name].axes[axis])
            if graph.parents.get(group) not in (None, *spec.groups):
                continue  # the parent stands along another axis
            if not _shows(m, name):
                continue
            shape = (graph.groups[graph.parents[group]], n) if group in graph.parents else (n,)
            action = np.broadcast_to(np.roll(np.arange(n), 1), shape)
            x = np.moveaxis(m.params[name], axis, 0)
            moved = act(get_backend(x), x, _padded(spec, x.ndim), graph.groups, {group: action})
            after = m.run({**m.params, name: np.moveaxis(moved, 0, axis)})
            assert relative_error(before, after) > 1e-6, f"axis {axis} of {name} alone is not seen ({group})"


def _padded(spec, ndim):
    return type(spec)(" ".join([spec.text, *["."] * (ndim - 1)]))


def _shows(m, name):
    """Whether the outputs depend on a parameter at all (a bias of keys cancels in a softmax)."""
    noise = np.random.default_rng(1).normal(size=m.params[name].shape)
    return relative_error(m.run(m.params), m.run({**m.params, name: m.params[name] + noise})) > 1e-6


def test_a_reason_is_given_for_every_axis_that_stays():
    _, graph = build(scaled_by_a_table)
    kept = {(n, i) for n, spec in graph.axes.items() for i, a in enumerate(spec.axes) if not type(spec).of(a).groups}
    assert set(graph.pinned) == kept
    assert graph.pinned["w0", 0] == "a constant that varies along the axis"
    assert graph.pinned["w2", 0] == "reaches the output"


def test_graphs_survive_json():
    for trap in TRAPS:
        _, graph = build(trap)
        again = type(graph).from_json(graph.to_json())
        assert (again.axes, again.groups, again.parents) == (graph.axes, graph.groups, graph.parents)
