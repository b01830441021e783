"""Random programs keep their outputs under random plans over everything that the graph says may move.

The programs mix dense layers, heads, views that do not line up, rolls, shuffles, concatenations, stacks, tied weights
and repeated tensors. Sizes are small and shared, so that accidental matches of sizes are common.
"""

import numpy as np
import pytest

from rebasin_core.symmetry.plan import Plan

from .programs import Machine, Node

SIZES = (2, 3, 4, 6)
MOST_ENTRIES = 400


def random_program(seed: int) -> Machine:
    """Build a program of about a dozen operations."""
    m = Machine(seed)
    rng = m.rng
    pool = [_dense(m, m.input(3, 5), int(rng.choice(SIZES)))]
    for _ in range(int(rng.integers(4, 14))):
        operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        x = pool[int(rng.integers(max(0, len(pool) - 4), len(pool)))]
        made = operation(m, x, pool)
        if made is not None and 0 < np.prod(made.shape) <= MOST_ENTRIES and made.ndim <= 5:
            pool.append(made)
    last = pool[-1]
    if last.ndim > 1 and rng.random() < 0.5:
        last = m.reshape(last, (last.shape[0], int(np.prod(last.shape[1:]))))
    m.output(_dense(m, last, 2) if last.ndim else last)
    if rng.random() < 0.2:
        m.output(m.reduce(pool[int(rng.integers(len(pool)))], [0]))
    return m


def _letters(n: int) -> str:
    return "abcdefgh"[:n]


def _axis(m: Machine, x: Node) -> int:
    return int(m.rng.integers(x.ndim))


def _dense(m: Machine, x: Node, size: int, axis: int | None = None) -> Node | None:
    """Contract one axis with a new matrix, and add a bias."""
    if x.ndim == 0:
        return None
    axis = x.ndim - 1 if axis is None else axis
    names = _letters(x.ndim)
    out = names[:axis] + "o" + names[axis + 1 :]
    y = m.ein([x, m.param(size, x.shape[axis])], [names, "o" + names[axis]], out)
    bias = m.param(*(size if i == axis else 1 for i in range(y.ndim)))
    return m.add(y, bias)


def dense(m, x, pool):
    return _dense(m, x, int(m.rng.choice([*SIZES, 12])), _axis(m, x)) if x.ndim else None


def head_dense(m, x, pool):
    """A dense layer whose output is split into two axes."""
    if not x.ndim:
        return None
    a, b = (int(n) for n in m.rng.choice(SIZES, 2))
    y = _dense(m, x, a * b)
    shape = (*x.shape[:-1], a, b) if m.rng.random() < 0.7 else (*x.shape[:-1], b, a)
    return m.reshape(y, shape)


def per_head(m, x, pool):
    """A matrix of its own for every place of the last axis but one: a grouped layer."""
    if x.ndim < 2:
        return None
    names = _letters(x.ndim)
    w = m.param(x.shape[-2], int(m.rng.choice(SIZES)), x.shape[-1])
    return m.ein([x, w], [names, names[-2] + "o" + names[-1]], names[:-1] + "o")


def unary(m, x, pool):
    return m.unary(x)


def add_same_shape(m, x, pool):
    same = [y for y in pool if y.shape == x.shape]
    return m.add(x, same[int(m.rng.integers(len(same)))])


def scale(m, x, pool):
    """Multiply with a parameter that is broadcast over some axes."""
    shape = [n if m.rng.random() < 0.6 else 1 for n in x.shape]
    return m.add(x, m.param(*shape))


def add_constant(m, x, pool):
    shape = [n if m.rng.random() < 0.3 else 1 for n in x.shape]
    return m.add(x, m.constant(m.rng.normal(size=shape)))


def reduce(m, x, pool):
    return m.reduce(x, [_axis(m, x)], keepdims=bool(m.rng.random() < 0.5)) if x.ndim > 1 else None


def normalize(m, x, pool):
    return m.normalize(x, [_axis(m, x)]) if x.ndim else None


def affine_after_norm(m, x, pool):
    if not x.ndim:
        return None
    return m.add(m.normalize(x, [x.ndim - 1]), m.param(x.shape[-1]))


def flatten(m, x, pool):
    if x.ndim < 2:
        return None
    axis = int(m.rng.integers(x.ndim - 1))
    return m.reshape(x, (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :]))


def split_axis(m, x, pool):
    options = [(i, d) for i, n in enumerate(x.shape) for d in range(2, n) if n % d == 0]
    if not options:
        return None
    axis, d = options[int(m.rng.integers(len(options)))]
    return m.reshape(x, (*x.shape[:axis], d, x.shape[axis] // d, *x.shape[axis + 1 :]))


def scramble(m, x, pool):
    """A reshape whose factors do not line up."""
    if x.ndim < 2:
        return None
    shape = list(x.shape)
    m.rng.shuffle(shape)
    return m.reshape(x, shape)


def permute(m, x, pool):
    return m.permute(x, [int(i) for i in m.rng.permutation(x.ndim)]) if x.ndim > 1 else None


def roll(m, x, pool):
    if not x.ndim:
        return None
    axis = _axis(m, x)
    n = x.shape[axis]
    return m.gather(x, axis, [(i + 1) % n for i in range(n)])


def flip(m, x, pool):
    if not x.ndim:
        return None
    axis = _axis(m, x)
    return m.gather(x, axis, list(range(x.shape[axis]))[::-1])


def part(m, x, pool):
    if not x.ndim:
        return None
    axis = _axis(m, x)
    n = x.shape[axis]
    start = int(m.rng.integers(n))
    return m.gather(x, axis, range(start, int(m.rng.integers(start + 1, n + 1))))


def any_index(m, x, pool):
    if not x.ndim:
        return None
    axis = _axis(m, x)
    return m.gather(x, axis, m.rng.integers(x.shape[axis], size=int(m.rng.integers(1, 7))).tolist())


def select(m, x, pool):
    if x.ndim < 2:
        return None
    axis = _axis(m, x)
    return m.select(x, axis, int(m.rng.integers(x.shape[axis])))


def shuffle_channels(m, x, pool):
    """Exchange the two factors of an axis, as ShuffleNet does."""
    y = split_axis(m, x, pool)
    if y is None:
        return None
    axis = next(i for i, (a, b) in enumerate(zip(x.shape, y.shape, strict=False)) if a != b)
    order = list(range(y.ndim))
    order[axis : axis + 2] = [axis + 1, axis]
    return m.reshape(m.permute(y, order), x.shape)


def cat_with_itself(m, x, pool):
    return m.cat([x, m.unary(x)], _axis(m, x)) if x.ndim else None


def cat_like(m, x, pool):
    """Concatenate with anything whose other axes fit."""
    if not x.ndim:
        return None
    axis = _axis(m, x)
    rest = [
        y
        for y in pool
        if y.ndim == x.ndim and all(a == b for i, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if i != axis)
    ]
    return m.cat([x, rest[int(m.rng.integers(len(rest)))]], axis)


def cat_constant(m, x, pool):
    if not x.ndim:
        return None
    axis = _axis(m, x)
    shape = [int(m.rng.integers(1, 3)) if i == axis else n for i, n in enumerate(x.shape)]
    values = np.zeros(shape) if m.rng.random() < 0.5 else m.rng.normal(size=shape)
    return m.cat([m.constant(values), x], axis)


def halves(m, x, pool):
    """Split an axis, change one half, and join: in order or crosswise."""
    if not x.ndim:
        return None
    axis = _axis(m, x)
    n = x.shape[axis]
    if n % 2:
        return None
    a, b = m.gather(x, axis, range(n // 2)), m.gather(x, axis, range(n // 2, n))
    a = m.unary(a)
    return m.cat([b, a] if m.rng.random() < 0.5 else [a, b], axis)


def gated(m, x, pool):
    """Add the halves of an axis."""
    if not x.ndim:
        return None
    axis = _axis(m, x)
    n = x.shape[axis]
    return m.add(m.gather(x, axis, range(n // 2)), m.gather(x, axis, range(n // 2, n))) if n % 2 == 0 else None


def stack_like(m, x, pool):
    same = [y for y in pool if y.shape == x.shape]
    return m.stack([x, same[int(m.rng.integers(len(same)))]], int(m.rng.integers(x.ndim + 1)))


def stack_of_dense(m, x, pool):
    if not x.ndim:
        return None
    size = int(m.rng.choice(SIZES))
    return m.stack([_dense(m, x, size), _dense(m, x, size)], int(m.rng.integers(x.ndim + 1)))


def repeat(m, x, pool):
    return m.repeat(x, _axis(m, x), 2, bool(m.rng.random() < 0.5)) if x.ndim else None


def expand(m, x, pool):
    return m.expand(x, (int(m.rng.choice([2, 3])), *x.shape))


def attend(m, x, pool):
    """Products of all places of one axis with all places of it, normalized, times the tensor."""
    if x.ndim < 2:
        return None
    names = _letters(x.ndim)
    other = names[:-2] + "z" + names[-1]
    scores = m.normalize(m.ein([x, x], [names, other], names[:-1] + "z"), [x.ndim - 1])
    return m.ein([scores, x], [names[:-1] + "z", other], names)


def attention_heads(m, x, pool):
    """Queries, keys and values from one projection."""
    if x.ndim != 2:
        return None
    h, d = (int(n) for n in m.rng.choice(SIZES, 2))
    order = [(3, h, d), (h, 3, d), (h, d, 3)][int(m.rng.integers(3))]
    y = m.reshape(_dense(m, x, 3 * h * d), (x.shape[0], *order))
    where = order.index(3) + 1 if order.count(3) == 1 else 1 + [(3, h, d), (h, 3, d), (h, d, 3)].index(order)
    q, k, v = (m.select(y, where, i) for i in range(3))
    scores = m.normalize(m.ein([q, k], ["qhd", "khd"], "hqk"), [2])
    return m.reshape(m.ein([scores, v], ["hqk", "khd"], "qhd"), (x.shape[0], h * d))


def shared_matrix(m, x, pool):
    """One square matrix used twice: a tied layer, a recurrent step."""
    if not x.ndim:
        return None
    n = x.shape[-1]
    names = _letters(x.ndim)
    w = m.param(n, n)
    h = m.unary(m.ein([x, w], [names, "o" + names[-1]], names[:-1] + "o"))
    return m.ein([h, w], [names, ("o" + names[-1]) if m.rng.random() < 0.5 else (names[-1] + "o")], names[:-1] + "o")


def outer_flat(m, x, pool):
    """All products of two tensors along their last axes, flattened."""
    same = [y for y in pool if y.shape[:-1] == x.shape[:-1] and y.ndim and x.ndim]
    if not same:
        return None
    y = same[int(m.rng.integers(len(same)))]
    names = _letters(x.ndim)
    z = m.ein([x, y], [names, names[:-1] + "z"], names + "z")
    return m.reshape(z, (*x.shape[:-1], x.shape[-1] * y.shape[-1]))


def cross_heads(m, x, pool):
    """Mix two axes by one parameter over both of them and two new ones."""
    if x.ndim < 2:
        return None
    a, b = x.shape[-2:]
    c = int(m.rng.choice(SIZES))
    names = _letters(x.ndim)
    w = m.param(a, c, b)
    return m.ein(
        [x, w], [names, names[-2] + "y" + names[-1]], names[:-2] + "y" + (names[-1] if m.rng.random() < 0.5 else "")
    )


def heads_among_each_other(m, x, pool):
    """Heads that attend to each other, with a view of heads that stays one until the end."""
    if x.ndim != 2:
        return None
    h, d = (int(n) for n in m.rng.choice(SIZES, 2))
    y = m.reshape(_dense(m, x, h * d), (x.shape[0], h, d))
    scores = m.normalize(m.ein([y, y], ["bhd", "bgd"], "bhg"), [2])
    if m.rng.random() < 0.5:
        y = m.unary(y)
    return m.reshape(m.ein([scores, y], ["bhg", "bgd"], "bhd"), (x.shape[0], h * d))


def cumsum(m, x, pool):
    return m.cumsum(x, _axis(m, x)) if x.ndim and m.rng.random() < 0.3 else None


OPERATIONS = [
    dense, dense, dense, head_dense, head_dense, per_head, per_head, unary, add_same_shape, add_same_shape, scale,
    scale, add_constant, reduce, normalize, affine_after_norm, flatten, flatten, split_axis, scramble, permute,
    permute, roll, flip, part, any_index, select, shuffle_channels, cat_with_itself, cat_like, cat_constant, halves,
    gated, stack_like, stack_of_dense, repeat, expand, attend, attention_heads, shared_matrix, outer_flat,
    cross_heads, cumsum,
]  # fmt: skip


def check_program(seed: int) -> bool:
    """Whether anything moved; raises where the outputs changed."""
    m = random_program(seed)
    graph = m.graph()
    for draw in range(3):
        plan = Plan.random(graph, seed=draw)
        error = m.error(plan, graph)
        assert error < 1e-8, f"seed {seed}: outputs differ by {error:.1e}\n{graph}\n" + "\n".join(m.log)
    return bool(graph.groups)


@pytest.mark.parametrize("block", range(8))
def test_random_programs_keep_their_outputs_under_random_plans(block):
    moved = [check_program(1000 * block + k) for k in range(40)]
    assert np.mean(moved) > 0.5, "most programs should have something to permute"


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_thousands_of_random_programs_keep_their_outputs(block):
    for k in range(250):
        check_program(10_000 + 1000 * block + k)
