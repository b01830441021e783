"""Merging two networks: align, then average."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import DataError, SettingError, SpecError, UnsupportedModelError

MATCHING = {"solver": rb.solvers.WeightMatching(), "progress": False}


def test_a_network_merged_with_its_own_permutation_is_the_network(mlp, unchanged):
    net = mlp((3, 6, 5, 2))
    a, graph = net.params(1), net.graph()
    b = rb.permute(a, rb.Plan.random(graph, 5), graph)
    with unchanged(a, b):
        merged = rb.merge([a, b], net.inputs(), graph=graph, forward=net.forward, **MATCHING)
    for name, x in merged.items():
        assert_allclose(x, a[name], rtol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_merging_is_the_line_to_the_aligned_network(mlp, t):
    net = mlp((3, 6, 2))
    a, b, graph = net.params(1), net.params(2), net.graph()
    rebased = rb.align(a, b, graph=graph, **MATCHING).model
    for models in ([a, b], (a, b), iter((a, b))):
        for name, x in rb.merge(models, graph=graph, t=t, **MATCHING).items():
            assert_allclose(x, (1 - t) * a[name] + t * rebased[name])


@pytest.mark.parametrize("method", [None, "star", "iterative", "cycle"])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_merging_at_a_place_is_interpolating_along_the_same_plan(mlp, method, t):
    net = mlp((3, 6, 5, 2))
    a, b, graph = net.params(1), net.params(2), net.graph()
    settings = {"graph": graph, **MATCHING}
    if method is None:
        rebased = rb.align(a, b, **settings).model
    else:
        found = rb.align_many(a, b, method=method, **settings)
        rebased = found.models[1]
        assert_same(found.merge(t=t), rb.interpolate(a, rebased, t))
    merged = rb.merge(a, b, t=t, method=method, **settings)
    assert_same(merged, rb.interpolate(a, rebased, t))
    if t in (0.0, 1.0):
        assert_same(merged, rebased if t else a)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        assert_array_equal(found[name], x)


@pytest.mark.parametrize("method", [None, "star", "iterative", "cycle"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("count", [2, 3])
def test_copies_of_a_network_merge_into_it_bit_by_bit(mlp, method, dtype, count):
    net = mlp((3, 6, 5, 2))
    a, graph = {**net.params(1, dtype), "steps": np.array(3)}, net.graph()
    graph = rb.PermutationGraph.from_axes({**net.axes(), "steps": ""}, a, buffers=["steps"])
    copies = [{name: x.copy() for name, x in a.items()} for _ in range(count)]
    assert_same(rb.merge(copies, graph=graph, weights=[3, 2, 1][:count], method=method, **MATCHING), a)


# --- how models are passed --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call", [rb.merge, lambda *args, **kw: rb.align_many(*args, **kw).merge()])
@pytest.mark.parametrize("count", [2, 3])
def test_models_come_one_by_one_or_in_any_sequence(mlp, call, count):
    net = mlp((3, 6, 2))
    models, inputs = [net.params(seed) for seed in range(count)], net.inputs()
    settings = {"graph": net.graph(), "forward": net.forward, **MATCHING}
    wanted = call(models, inputs, **settings)
    for passed in (models, [models], [tuple(models)], [iter(models)]):
        assert_same(call(*passed, inputs, **settings), wanted)


def test_a_model_that_is_a_sequence_is_a_model():
    torch = pytest.importorskip("torch")
    nets = [torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)) for _ in range(3)]
    x = torch.ones(2, 3)
    for models in (nets[:2], nets):
        one_by_one, listed = rb.merge(*models, x, progress=False), rb.merge(models, x, progress=False)
        for name, value in one_by_one.state_dict().items():
            assert torch.equal(value, listed.state_dict()[name])


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (lambda a: (a,), r"at least two models, got 1; pass \(a, b\)"),
        (lambda a: (a, np.ones((2, 3))), "at least two models, got 1"),
        (lambda a: ([a, a], a), "in a list and after it"),
        (lambda a: ("a.npz", "b.npz"), "in a list; got str"),
        (lambda a: (np.ones(3), np.ones(3)), "in a list; got ndarray"),
    ],
)
def test_what_is_no_list_of_models_is_refused(mlp, passed, words):
    net = mlp((3, 6, 2))
    for call in (rb.merge, rb.align_many):
        with pytest.raises((SettingError, UnsupportedModelError), match=words):
            call(*passed(net.params()), graph=net.graph(), **MATCHING)


# --- settings ---------------------------------------------------------------------------------------------------------
def test_the_default_solver_depends_on_the_objective_alone(mlp, mse, monkeypatch):
    net = mlp((3, 5, 2))
    models, used = [net.params(1), net.params(2)], []
    for kind in (rb.solvers.WeightMatching, rb.solvers.Sinkhorn):
        solve = kind.solve

        def noted(self, *args, _solve=solve, **settings):
            used.append(type(self))
            quick = rb.solvers.Sinkhorn(max_steps=2, num_rounds=1, max_swaps=0)
            return _solve(self if isinstance(self, rb.solvers.WeightMatching) else quick, *args, **settings)

        monkeypatch.setattr(kind, "solve", noted)
    settings = {"graph": net.graph(), "forward": net.forward, "progress": False}
    midpoint = rb.objectives.Midpoint(mse, net.data())
    for objective, solver in (
        (None, rb.solvers.WeightMatching),
        (rb.objectives.L2(), rb.solvers.WeightMatching),
        (rb.objectives.Cosine(), rb.solvers.WeightMatching),
        (midpoint, rb.solvers.Sinkhorn),
    ):
        for method in (None, "star"):
            used.clear()
            rb.merge(models, objective=objective, method=method, **settings)
            assert used[0] is solver


def test_settings_that_would_do_nothing_are_refused(mlp):
    net = mlp((3, 6, 2))
    a, graph = net.params(1), net.graph()
    with ThreadPoolExecutor(1) as executor:
        for method in (None, "star"):
            with pytest.raises(SettingError, match="two models are one pair"):
                rb.merge(a, a, graph=graph, executor=executor, method=method, **MATCHING)
    found = rb.align_many([a, a], graph=graph, **MATCHING)
    for size, words in (
        (-3, "expected batch_size"),
        (2.0, "expected batch_size"),
        (8, "batch_size=8 cuts the data of"),
    ):
        with pytest.raises(SettingError, match=words):
            rb.merge(a, a, graph=graph, batch_size=size, **MATCHING)
        with pytest.raises(SettingError, match=words):
            found.merge(batch_size=size)
    with pytest.raises(TypeError, match="quiet"):
        rb.merge(a, a, graph=graph, quiet=True)


def test_bad_input_is_refused_before_any_work(mlp):
    net = mlp((3, 6, 2))
    a, graph = net.params(1), net.graph()
    for models in ([], [a]):
        with pytest.raises(SettingError, match=rf"expected at least two models, got {len(models)}"):
            rb.merge(models, graph=graph, **MATCHING)
    for settings, message in (
        ({"t": 0.3, "weights": [1, 1]}, "got both"),
        ({"weights": [1, 0]}, "2 positive numbers"),
        ({"weights": [1, 2, 3]}, "2 positive numbers"),
        ({"method": "magic"}, "expected method as one of"),
    ):
        with pytest.raises(SettingError, match=message):
            rb.merge([a, a], graph=graph, **settings, **MATCHING)
    with pytest.raises(SettingError, match="pass weights="):
        rb.merge([a, a, a], graph=graph, t=0.5, **MATCHING)
    for t in (np.nan, np.inf, "x"):
        with pytest.raises(SettingError, match=r"expected t as a finite number"):
            rb.merge([a, a], graph=graph, t=t, **MATCHING)
        with pytest.raises(SettingError, match=r"expected t as a finite number"):
            rb.align(a, a, graph=graph, **MATCHING).merge(t)


def test_merging_measures_the_statistics_of_batch_normalisation_anew(normed):
    a, b = normed(1), normed(2)
    x = np.random.default_rng(0).normal(size=(9, 3))
    result = rb.align(a, b, **MATCHING)
    expected = rb.reestimate(result.merge(0.3), x, batch_size=4).params
    for found in (
        result.merge(0.3, reestimate=x, batch_size=4),
        rb.merge([a, b], t=0.3, reestimate=(x for x in [(x[:4], None), (x[4:8], None), (x[8:], None)]), **MATCHING),
    ):
        for name, value in expected.items():
            assert_allclose(found.params[name], value, err_msg=name)
    assert not np.allclose(expected["mean"], result.merge(0.3).params["mean"])


def test_data_and_models_that_cannot_be_measured_are_refused_before_any_work(mlp, normed):
    net, inputs = mlp((3, 6, 2)), np.ones((4, 3))
    with pytest.raises(SpecError, match="does not say which arrays are running statistics"):
        rb.merge([net.params(1), net.params(2)], graph=net.graph(), reestimate=inputs, solver="no solver")
    for how in (True, "data"):
        with pytest.raises((SettingError, DataError), match=r"reestimate=True means|cannot read str"):
            rb.merge([normed(1), normed(2)], reestimate=how, solver="no solver")
