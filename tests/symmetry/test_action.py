"""How plans act on arrays, against an element-by-element reference that shares no code with the library."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.backends import get_backend
from rebasin_core.symmetry.action import occurrence_pairs
from rebasin_core.symmetry.axes import Fixed, Gather, Group, Product, Sum

from_axes = rb.PermutationGraph.from_axes


def length(axis, sizes):
    match axis:
        case Fixed(n):
            return n
        case Group(name):
            return sizes[name]
        case Product(factors):
            return int(np.prod([length(f, sizes) for f in factors]))
        case Sum(terms):
            return sum(length(t, sizes) for t in terms)
        case Gather(_, order):
            return len(order)


def source(axis, place, around, plan, sizes):
    """Which place of the original stands at `place` of the result; `around` gives the places of the parents."""
    match axis:
        case Fixed():
            return place
        case Group(name, None):
            return plan[name][place]
        case Group(name, parent):
            return plan[name][around[parent]][place]
        case Product(factors):
            lengths = [length(f, sizes) for f in factors]
            digits = [int(d) for d in np.unravel_index(place, lengths)]
            digits = sources(factors, digits, around, plan, sizes)
            return int(np.ravel_multi_index(digits, lengths))
        case Sum(terms):
            start = 0
            for term in terms:
                end = start + length(term, sizes)
                if place < end:
                    return start + source(term, place - start, around, plan, sizes)
                start = end
            raise AssertionError(place)
        case Gather(inner, order):
            return order.index(source(inner, order[place], around, plan, sizes))


def sources(factors, digits, around, plan, sizes):
    beside = {f.name: d for f, d in zip(factors, digits, strict=True) if isinstance(f, Group) and f.parent is None}
    return [source(f, d, {**around, **beside}, plan, sizes) for f, d in zip(factors, digits, strict=True)]


def reference(params, graph, plan):
    moved = {}
    for name, x in params.items():
        y = np.empty_like(x)
        for index in np.ndindex(x.shape):
            y[index] = x[tuple(sources(graph.axes[name].axes, list(index), {}, plan, graph.groups))]
        moved[name] = y
    return moved


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert_allclose(found[name], x, rtol=1e-12, atol=1e-12, err_msg=name)


def numbered(axes, **shapes):
    params = {name: np.arange(float(np.prod(shape))).reshape(shape) for name, shape in shapes.items()}
    return from_axes(axes, params), params


@given(st.data(), st.integers(0, 1000))
def test_plans_move_what_an_elementwise_reference_moves(strategies, data, seed):
    graph, params = data.draw(strategies.networks())
    plan = rb.Plan.random(graph, seed)
    assert_same(plan.apply(params, graph), reference(params, graph, plan))


@given(st.data(), st.integers(0, 1000))
def test_a_hard_plan_is_a_special_soft_plan(strategies, data, seed):
    graph, params = data.draw(strategies.networks())
    plan = rb.Plan.random(graph, seed)
    assert_same(rb.SoftPlan.from_plan(plan).apply(params, graph), plan.apply(params, graph))


@given(st.data(), st.integers(0, 1000))
def test_one_plan_after_another_is_their_composition(strategies, data, seed):
    graph, params = data.draw(strategies.networks())
    p, q = rb.Plan.random(graph, seed), rb.Plan.random(graph, seed + 1)
    one_by_one = rb.permute(rb.permute(params, p, graph), q, graph)
    assert_same(rb.permute(params, p.compose(q), graph), one_by_one)
    soft = rb.SoftPlan.from_plan(p).compose(rb.SoftPlan.from_plan(q))
    assert_same(soft.apply(params, graph), one_by_one)
    assert soft.harden() == p.compose(q)


@given(st.data(), st.integers(0, 1000))
def test_a_plan_after_its_inverse_is_the_identity(strategies, data, seed):
    graph, params = data.draw(strategies.networks())
    plan = rb.Plan.random(graph, seed)
    assert plan.compose(plan.inverse()).is_identity
    assert plan.inverse().compose(plan).is_identity
    assert plan.inverse().inverse() == plan
    assert_same(rb.permute(rb.permute(params, plan, graph), plan.inverse(), graph), params)
    assert rb.SoftPlan.from_plan(plan).inverse().harden() == plan.inverse()


@given(st.data(), st.integers(0, 1000))
def test_a_soft_plan_in_one_group_is_linear_in_its_matrix(strategies, data, seed):
    """A mixture of two hard plans that differ in one local group acts as the same mixture of their results."""
    graph, params = data.draw(strategies.networks(count=1))
    if [node.name for node in graph.axes["p0"].group_nodes].count("d") > 1:
        return  # twice in one parameter: quadratic
    p = rb.Plan.random(graph, seed)
    q = p.replace("d", rb.Plan.random(graph, seed + 1)["d"])
    soft_p, soft_q = rb.SoftPlan.from_plan(p), rb.SoftPlan.from_plan(q)
    mixed = rb.SoftPlan({**soft_p, "d": 0.25 * soft_p["d"] + 0.75 * soft_q["d"]}, graph.parents)
    wanted = {n: 0.25 * x + 0.75 * q.apply(params, graph)[n] for n, x in p.apply(params, graph).items()}
    assert_same(mixed.apply(params, graph), wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plan_takes_along_the_axis_which_is_a_product_with_a_permutation_matrix(axis):
    notation = ["."] * 3
    notation[axis] = "h"
    w = np.random.default_rng(0).normal(size=(4, 4, 4))
    graph = from_axes({"w": " ".join(notation)}, {"w": w})
    perm = np.array([2, 0, 3, 1])
    moved = rb.permute({"w": w}, rb.Plan({"h": perm}), graph)["w"]
    assert_array_equal(moved, np.take(w, perm, axis))
    assert_array_equal(np.moveaxis(moved, axis, 0), np.einsum("ij,jkl->ikl", np.eye(4)[perm], np.moveaxis(w, axis, 0)))


def test_product_sum_and_gather_by_hand():
    graph, params = numbered(
        {"p": "(h 2)", "q": "(2 h)", "s": "(h+2+h)", "g": "h@[2 0 1]", "h": "h"}, p=(6,), q=(6,), s=(8,), g=(3,), h=(3,)
    )
    moved = rb.permute(params, rb.Plan({"h": [1, 2, 0]}), graph)
    assert_array_equal(moved["p"], [2, 3, 4, 5, 0, 1])
    assert_array_equal(moved["q"], [1, 2, 0, 4, 5, 3])
    assert_array_equal(moved["s"], [1, 2, 0, 3, 4, 6, 7, 5])
    # Place i holds unit order[i]: into the order of the units, permute there, and back.
    units = np.empty(3)
    units[[2, 0, 1]] = params["g"]
    assert_array_equal(moved["g"], units[[1, 2, 0]][[2, 0, 1]])


@pytest.mark.parametrize("notation", ["h d[h]", "d[h] h", "(h d[h])", "(d[h] h)", "(d[h] 1 h)"])
def test_a_local_group_follows_its_parent_whichever_comes_first(notation):
    hs, ds = [1, 0], [[2, 0, 1], [0, 2, 1]]
    units = np.array([["a0", "a1", "a2"], ["b0", "b1", "b2"]])
    wanted = np.array([["b2", "b0", "b1"], ["a0", "a2", "a1"]])  # first the parent moves, then row i orders place i
    table = np.arange(6.0).reshape(2, 3)
    codes = dict(zip(units.ravel().tolist(), table.ravel(), strict=True))
    expected = np.vectorize(codes.__getitem__)(wanted)
    if notation.strip("(").startswith("d"):
        table, expected = table.T, expected.T
    if notation.startswith("("):
        table, expected = table.reshape(-1), expected.reshape(-1)
    graph = from_axes({"w": notation, "h": "h"}, {"w": table, "h": np.zeros(2)})
    plan = rb.Plan({"h": hs, "d": ds}, {"d": "h"})
    moved = rb.permute({"w": table, "h": np.zeros(2)}, plan, graph)["w"]
    assert_array_equal(moved, expected)


def test_a_local_group_inside_a_sum_and_with_its_parent_on_another_axis():
    x = np.arange(12.0).reshape(2, 6)
    graph = from_axes({"w": "h (4+d[h])"}, {"w": x})
    plan = rb.Plan({"h": [1, 0], "d": [[1, 0], [0, 1]]}, {"d": "h"})
    moved = rb.permute({"w": x}, plan, graph)["w"]
    assert_array_equal(moved, [[6, 7, 8, 9, 11, 10], [0, 1, 2, 3, 4, 5]])


def test_a_local_group_in_a_product_before_the_axis_of_its_parent():
    x = np.arange(12.0).reshape(6, 2)  # places of (3 d[h]) down, of h across
    graph = from_axes({"w": "(3 d[h]) h"}, {"w": x})
    plan = rb.Plan({"h": [1, 0], "d": [[1, 0], [0, 1]]}, {"d": "h"})
    moved = rb.permute({"w": x}, plan, graph)["w"]
    assert_array_equal(moved, [[3, 0], [1, 2], [7, 4], [5, 6], [11, 8], [9, 10]])


def test_a_soft_plan_by_hand():
    x = np.arange(4.0).reshape(2, 2)
    graph = from_axes({"w": "h h"}, {"w": x})
    M = np.array([[0.75, 0.25], [0.25, 0.75]])
    assert_allclose(rb.SoftPlan({"h": M}).apply({"w": x}, graph)["w"], M @ x @ M.T)


def test_a_soft_local_plan_by_hand():
    rng = np.random.default_rng(0)
    x, H, D = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 2)), rng.normal(size=(2, 3, 3))
    graph = from_axes({"w": "h d[h] ."}, {"w": x})
    moved = rb.SoftPlan({"h": H, "d": D}, {"d": "h"}).apply({"w": x}, graph)["w"]
    assert_allclose(moved, np.einsum("pde,pq,qex->pdx", D, H, x))


@given(st.data(), st.integers(0, 1000))
def test_occurrence_pairs_add_up_to_the_similarity(strategies, data, seed):
    """Their trace is ``<a, b>``, once for every place in which the group stands alone in the parameter."""
    graph, params = data.draw(strategies.networks(count=1))
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=params["sizes"].shape), rng.normal(size=params["sizes"].shape)
    backend, spec = get_backend(a), graph.axes["sizes"]
    for group, n in graph.groups.items():
        ((left, right),) = occurrence_pairs(backend, a, b, spec, graph.groups, group)
        assert left.shape[left.ndim - 2] == n
        similarity = left @ np.swapaxes(right, -1, -2)
        assert_allclose(np.trace(similarity, axis1=-2, axis2=-1).sum(), (a * b).sum(), atol=1e-12)


def test_dtypes_stay():
    graph, _ = numbered({"w": "h", "n": "h"}, w=(3,), n=(3,))
    params = {"w": np.arange(3, dtype=np.float32), "n": np.arange(3)}
    moved = rb.permute(params, rb.Plan({"h": [2, 0, 1]}), graph)
    assert moved["w"].dtype == np.float32
    assert moved["n"].dtype == np.arange(3).dtype
    soft = rb.SoftPlan.from_plan(rb.Plan({"h": [2, 0, 1]})).apply(params, graph)
    assert soft["w"].dtype == np.float32
