"""Soft plans: doubly stochastic matrices in the orientation of hard plans."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.errors import PlanError, SettingError, ShapeError

from_axes = rb.PermutationGraph.from_axes


@given(st.data(), st.integers(0, 1000))
def test_json_round_trip_is_the_identity(strategies, data, seed):
    graph, _ = data.draw(strategies.networks(count=1))
    soft = rb.SoftPlan.random(graph, seed)
    again = rb.SoftPlan.from_json(soft.to_json())
    assert list(again) == list(soft)
    assert again.parents == soft.parents
    for group, matrix in soft.items():
        np.testing.assert_array_equal(again[group], matrix)


@given(st.data(), st.integers(0, 1000))
def test_hardening_a_hard_plan_gives_it_back(strategies, data, seed):
    graph, _ = data.draw(strategies.networks(count=1))
    plan = rb.Plan.random(graph, seed)
    assert rb.SoftPlan.from_plan(plan).harden() == plan


def test_random_soft_plans_are_doubly_stochastic_and_seeded():
    graph = from_axes({"w": "(h d[h]) c", "v": "h"}, {"w": np.zeros((12, 5)), "v": np.zeros(3)})
    soft = rb.SoftPlan.random(graph, 1)
    assert {g: m.shape for g, m in soft.items()} == {"h": (3, 3), "d": (3, 4, 4), "c": (5, 5)}
    for matrix in soft.values():
        assert_allclose(matrix.sum(-1), 1.0, atol=1e-6)
        assert_allclose(matrix.sum(-2), 1.0, atol=1e-6)
    for group, matrix in rb.SoftPlan.random(graph, 1).items():
        np.testing.assert_array_equal(matrix, soft[group])


def test_groups_of_one_size_in_one_call_equal_separate_calls():
    rng = np.random.default_rng(0)
    logits = {"a": rng.normal(size=(4, 4)), "b": rng.normal(size=(3, 3)), "c": rng.normal(size=(4, 4))}
    soft = rb.SoftPlan.from_logits(logits, tau=0.5, num_iters=7)
    assert list(soft) == ["a", "b", "c"]
    for group, x in logits.items():
        assert_allclose(soft[group], rb.sinkhorn(x, tau=0.5, num_iters=7), rtol=1e-12)


def test_low_temperature_logits_tend_to_the_assignment():
    logits = {"h": np.random.default_rng(3).normal(size=(6, 6))}
    soft = rb.SoftPlan.from_logits(logits, tau=0.01, tol=1e-3)
    hard = rb.SoftPlan({"h": logits["h"]}).harden()
    assert_allclose(soft["h"], np.eye(6)[hard["h"]], atol=0.05)


def test_composition_is_a_matrix_product_in_the_order_of_application():
    rng = np.random.default_rng(0)
    w = {"w": rng.normal(size=(3, 2))}
    graph = from_axes({"w": "h ."}, w)
    p, q = rb.SoftPlan.random(graph, 1), rb.SoftPlan.random(graph, 2)
    assert_allclose(p.compose(q)["h"], q["h"] @ p["h"])
    assert_allclose(p.compose(q).apply(w, graph)["w"], q.apply(p.apply(w, graph), graph)["w"])


def test_soft_local_groups_compose_behind_a_hard_parent_only():
    w = {"w": np.random.default_rng(0).normal(size=(3, 4))}
    graph = from_axes({"w": "h d[h]"}, w)
    soft, hard = rb.SoftPlan.random(graph, 1), rb.SoftPlan.from_plan(rb.Plan.random(graph, 2))
    half = rb.SoftPlan({"h": hard["h"], "d": soft["d"]}, graph.parents)
    assert_allclose(soft.compose(half).apply(w, graph)["w"], half.apply(soft.apply(w, graph), graph)["w"])
    with pytest.raises(PlanError, match=r"'d' is local to 'h'.*soft"):
        soft.compose(soft)


def test_composition_of_other_groups_is_refused():
    with pytest.raises(PlanError, match=r"groups"):
        rb.SoftPlan({"h": np.eye(2)}).compose(rb.SoftPlan({"c": np.eye(2)}))


def test_the_inverse_is_the_transpose():
    soft = rb.SoftPlan({"h": np.array([[0.2, 0.8], [0.8, 0.2]])})
    assert_allclose(soft.inverse()["h"], soft["h"].T)


def test_gradients_flow_through_logits_and_arrays():
    """Against central differences, for a product, a repeated group and a local group."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(6, 2)), "v": rng.normal(size=(2, 2))}
    graph = from_axes({"w": "(h d[h]) .", "v": "h h"}, params)
    logits = {"h": rng.normal(size=(2, 2)), "d": rng.normal(size=(2, 3, 3))}
    weights = {name: rng.normal(size=x.shape) for name, x in params.items()}

    def value(logits):
        moved = rb.SoftPlan.from_logits(logits, graph.parents, num_iters=200).apply(params, graph)
        return sum(anp.sum(weights[name] * moved[name] ** 2) for name in params)

    gradient = autograd.grad(value)(logits)
    for group, x in logits.items():
        for index in np.ndindex(x.shape):
            shift = np.zeros_like(x)
            shift[index] = 1e-6
            slope = (value({**logits, group: x + shift}) - value({**logits, group: x - shift})) / 2e-6
            assert_allclose(gradient[group][index], slope, atol=1e-6, rtol=1e-5)


def test_gradients_flow_into_dictionaries_of_matrices_and_of_arrays():
    """``sum(w2 * (M w))`` has the derivative ``w2 w^T`` in M and ``M^T w2`` in w."""
    rng = np.random.default_rng(0)
    params, w2 = {"w": rng.normal(size=(3, 2))}, rng.normal(size=(3, 2))
    graph = from_axes({"w": "h ."}, params)
    matrices = dict(rb.SoftPlan.random(graph, 1))

    def value(matrices, params):
        return anp.sum(w2 * rb.SoftPlan(matrices).apply(params, graph)["w"])

    assert_allclose(autograd.grad(value, 0)(matrices, params)["h"], w2 @ params["w"].T)
    assert_allclose(autograd.grad(value, 1)(matrices, params)["w"], matrices["h"].T @ w2)


@pytest.mark.parametrize(
    ("matrices", "parents", "words"),
    [
        ({"h": np.zeros((2, 3))}, None, r"'h'.*\(n, n\).*\(2, 3\)"),
        ({"h": np.zeros(3)}, None, r"'h'.*\(n, n\)"),
        ({"h": np.eye(2), "d": np.eye(3)}, {"d": "h"}, r"'d'.*places of 'h'"),
    ],
)
def test_matrices_of_another_shape_are_refused_by_name(matrices, parents, words):
    with pytest.raises(ShapeError, match=words):
        rb.SoftPlan(matrices, parents)


def test_a_soft_plan_for_another_graph_is_refused():
    graph = from_axes({"w": "h"}, {"w": np.zeros(3)})
    with pytest.raises(PlanError, match=r"'h' has shape"):
        rb.SoftPlan({"h": np.eye(2)}).apply({"w": np.zeros(3)}, graph)


def test_a_soft_plan_keeps_float32():
    like = np.zeros((), dtype=np.float32)
    graph = from_axes({"w": "h"}, {"w": np.zeros(3)})
    assert rb.SoftPlan.random(graph, like=like)["h"].dtype == np.float32
    assert rb.SoftPlan.identity(graph, like=like)["h"].dtype == np.float32
    text = rb.SoftPlan.identity(graph).to_json()
    assert rb.SoftPlan.from_json(text, like=like)["h"].dtype == np.float32


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "rebasin-core/plan/1"}'])
def test_text_that_is_no_soft_plan_is_refused(text):
    with pytest.raises(PlanError):
        rb.SoftPlan.from_json(text)


def test_whole_numbers_per_channel_mix_to_fractions():
    graph = rb.PermutationGraph.from_axes({"count": "h"}, {"count": np.array([0, 4])})
    mixed = rb.SoftPlan({"h": np.full((2, 2), 0.5)}).apply({"count": np.array([0, 4])}, graph)["count"]
    np.testing.assert_allclose(mixed, [2.0, 2.0])


@pytest.mark.parametrize(
    ("matrices", "parents", "error", "words"),
    [
        ({"h": np.eye(4), "d": np.stack([np.eye(3)] * 2)}, {"d": "h"}, ShapeError, "'d' has 2 rows.*'h' has 4 places"),
        ({"d": np.stack([np.eye(3)] * 2)}, {"d": "h"}, PlanError, "'d' is local to 'h', for which this plan has no"),
        ({"h": np.stack([np.eye(2)] * 2)}, {"h": "h"}, PlanError, "which is local itself"),
        ([np.eye(2)], None, PlanError, "groups of a SoftPlan as a dictionary.*got list"),
        ({"h": np.eye(2)}, ["h"], PlanError, "parents of a SoftPlan as a dictionary.*got list"),
        ({0: np.eye(2)}, None, PlanError, "names of groups as text, got 0"),
        ({"h": [[1.0]]}, None, PlanError, "'h' as an array, got list"),
        ({"h": None}, None, PlanError, "'h' as an array, got NoneType"),
    ],
)
def test_what_is_no_soft_plan_is_refused_by_name(matrices, parents, error, words):
    with pytest.raises(error, match=words):
        rb.SoftPlan(matrices, parents)


@pytest.mark.parametrize("kind", ["numpy", "torch", "tensorflow", "jax"])
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_parameters_are_mixed_as_their_real_and_imaginary_parts(kind, dtype):
    if kind == "jax" and dtype == "complex128":
        pytest.skip("JAX computes in single precision here")
    name = {"numpy": "numpy", "torch": "torch", "tensorflow": "tensorflow", "jax": "jax.numpy"}[kind]
    module = pytest.importorskip(name)
    make = module.convert_to_tensor if kind == "tensorflow" else module.tensor if kind == "torch" else module.asarray
    rng = np.random.default_rng(0)
    w = (rng.normal(size=(3, 2)) + 1j * rng.normal(size=(3, 2))).astype(dtype)
    graph = from_axes({"w": "h ."}, {"w": w})
    matrix = rb.SoftPlan.random(graph, 1)["h"].astype("float32" if dtype == "complex64" else "float64")
    mixed = np.asarray(rb.SoftPlan({"h": make(matrix)}).apply({"w": make(w)}, graph)["w"])
    assert mixed.dtype == w.dtype
    assert_allclose(mixed, matrix @ w.real + 1j * (matrix @ w.imag), rtol=1e-5)


def test_what_is_no_soft_plan_does_not_compose_and_what_is_no_plan_is_not_softened():
    soft = rb.SoftPlan({"h": np.eye(2)})
    with pytest.raises(PlanError, match=r"another SoftPlan.*got Plan"):
        soft.compose(rb.Plan({"h": [0, 1]}))
    with pytest.raises(PlanError, match="expected a Plan, got SoftPlan"):
        rb.SoftPlan.from_plan(soft)
    with pytest.raises(SettingError, match="seed"):
        rb.SoftPlan.random(from_axes({"w": "h"}, {"w": np.zeros(3)}), seed=-1)


def test_a_soft_plan_shows_in_a_line_and_in_a_notebook():
    soft = rb.SoftPlan({f"<h{k}>": np.eye(2) for k in range(50)})
    assert repr(rb.SoftPlan({"h": np.eye(2)})) == "SoftPlan(h: (2, 2))"
    assert len(repr(soft)) < 120
    assert "and 45 more" in repr(soft)
    page = soft._repr_html_()
    assert page.count("<tr>") == 22  # a header, twenty groups, a count of the rest
    assert "<td>&lt;h0&gt;</td><td></td><td>2 x 2</td>" in page
    assert "and 30 more" in page
