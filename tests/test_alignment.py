"""`align`: B moves onto A, verified, with nothing changed; and every refusal."""

import json
from dataclasses import replace

import autograd.numpy as anp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import (
    CheckpointError,
    DataError,
    EquivalenceError,
    NonFiniteError,
    PlanError,
    RebasinError,
    SettingError,
    ShapeError,
    SpecError,
    UnsupportedArrayError,
)

QUICK = rb.solvers.Sinkhorn(max_steps=5, num_rounds=1)


@pytest.fixture
def net(mlp):
    return mlp((3, 6, 5, 2))


@pytest.mark.parametrize("solver", [rb.solvers.WeightMatching(), QUICK], ids=["weight matching", "Sinkhorn"])
def test_b_moves_onto_a_as_the_same_function(net, solver, unchanged):
    a, b, graph, x = net.params(1), net.params(2), net.graph(), net.inputs()
    with unchanged(a, b, graph.to_json(), x):
        result = rb.align(a, b, x, graph=graph, solver=solver, forward=net.forward, progress=False)
        result.merge(0.3)
        str(result)
    for name, y in rb.permute(b, result.plan, graph).items():
        assert_array_equal(result.model[name], y)
    assert_allclose(net.forward(result.model, x), net.forward(b, x), rtol=1e-9)
    assert result.error < 1e-12
    assert result.graph is graph
    assert result.objective <= result.initial_objective
    assert_allclose(result.objective, rb.objectives.L2()(a, result.model))
    assert_allclose(result.initial_objective, rb.objectives.L2()(a, b))
    assert result.history[0].hard == result.initial_objective
    assert result.history[-1].best == result.objective
    assert result.seconds > 0
    assert "L2" in str(result)
    for name, merged in result.merge(0.3).items():
        assert_allclose(merged, 0.7 * a[name] + 0.3 * result.model[name])


def test_without_a_way_to_compute_the_result_is_not_verified(net):
    a, graph = net.params(1), net.graph()
    result = rb.align(a, net.params(2), graph=graph, solver=rb.solvers.WeightMatching(), progress=False)
    assert result.error is None
    assert "not verified" in str(result)


def test_a_wrong_graph_is_noticed(net):
    graph = rb.PermutationGraph.from_axes({**net.axes(), "b0": "."}, net.params())
    with pytest.raises(EquivalenceError, match=r"graph must be wrong"):
        rb.align(
            net.params(1),
            net.params(2),
            net.inputs(),
            graph=graph,
            solver=rb.solvers.WeightMatching(),
            forward=net.forward,
            progress=False,
        )


def test_pinned_groups_stay(net):
    a, graph = net.params(1), net.graph()
    b = rb.permute(a, rb.Plan.random(graph, 1), graph)
    result = rb.align(a, b, graph=graph, pin=["h1"], solver=rb.solvers.WeightMatching(), progress=False)
    assert list(result.plan) == ["h2"]
    assert_array_equal(result.model["b0"], b["b0"])
    with pytest.raises(SpecError, match=r"cannot pin 'h9'"):
        rb.align(a, b, graph=graph, pin=["h9"], progress=False)


def test_the_same_seed_gives_the_same_result(net):
    settings = {"graph": net.graph(), "solver": QUICK, "progress": False}
    first, second = (rb.align(net.params(1), net.params(2), seed=3, **settings) for _ in range(2))
    assert first.plan == second.plan
    assert first.history == second.history
    assert rb.align(net.params(1), net.params(2), seed=np.int64(3), **settings).history == first.history


def test_integer_counters_stay_with_b_and_are_taken_from_a_in_a_merge(net):
    a, b = ({"count": np.array(n), **net.params(n)} for n in (1, 2))
    graph = rb.PermutationGraph.from_axes({"count": "", **net.axes()}, a)
    result = rb.align(a, b, graph=graph, solver=QUICK, progress=False)
    assert result.model["count"] == 2
    merged = result.merge()
    assert merged["count"] == 1
    assert merged["count"].dtype == a["count"].dtype


@pytest.mark.parametrize("pin", [(), ("h1", "h2")], ids=["units move", "nothing moves"])
def test_an_alignment_stays_as_it_is_while_its_models_are_trained_on(net, pin):
    a, b = net.params(1), net.params(2)
    result = rb.align(a, b, graph=net.graph(), pin=pin, solver="weight-matching", progress=False)
    assert pin or not result.plan.is_identity
    before = [result.merge(t) for t in (0, 0.5, 1)]
    for params in (a, b, result.model):
        for x in params.values():
            x *= 2
    for t, merged in zip((0, 0.5, 1), before, strict=True):
        for name, x in result.merge(t).items():
            assert_array_equal(x, merged[name])


def test_names_stand_for_solvers_and_objectives(net):
    settings = {"graph": net.graph(), "progress": False}
    named = rb.align(net.params(1), net.params(2), solver="weight-matching", objective="cosine", **settings)
    solver, objective = rb.solvers.WeightMatching(), rb.objectives.Cosine()
    assert named == rb.align(net.params(1), net.params(2), solver=solver, objective=objective, **settings)
    assert (named.solver_name, named.objective_name) == ("weight matching", "cosine")


# --- where to start, when to stop -------------------------------------------------------------------------------------
def test_a_start_a_callback_and_a_time_limit_reach_the_search(net):
    a, graph, entries = net.params(1), net.graph(), []
    plan = rb.Plan.random(graph, 1)
    b, settings = rb.permute(a, plan, graph), {"graph": graph, "forward": net.forward, "progress": False}
    whole = rb.align(a, net.params(2), net.inputs(), callback=entries.append, solver=QUICK, **settings)
    assert tuple(entries) == whole.history
    stopped = rb.align(a, b, net.inputs(), start=plan.inverse(), callback=lambda entry: True, **settings)
    assert (stopped.plan, stopped.objective) == (plan.inverse(), 0.0)
    late = rb.align(a, b, net.inputs(), time_limit=1e-9, **settings)
    assert late.plan.is_identity
    assert late.stop_reason == "reached time_limit=1e-09"
    for result in (stopped, late):
        assert not result.converged
        assert result.error < 1e-12


def test_an_interrupted_search_is_verified_like_any_other(net):
    def interrupt(entry):
        raise KeyboardInterrupt

    settings = {"graph": net.graph(), "forward": net.forward, "progress": False}
    result = rb.align(net.params(1), net.params(2), net.inputs(), callback=interrupt, **settings)
    assert result.stop_reason == "interrupted"
    assert result.error < 1e-12


def test_an_interruption_ends_the_alignment_of_many_as_a_whole(net, monkeypatch):
    from rebasin_core.solvers import weight_matching

    def interrupt(scores):
        raise KeyboardInterrupt

    monkeypatch.setattr(weight_matching, "linear_assignment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rb.align_many([net.params(seed) for seed in range(3)], graph=net.graph(), progress=False)


def test_the_result_is_not_worse_than_the_start_whatever_the_solver(net):
    class Stubborn:
        name = "stubborn"

        def solve(self, problem, progress=True):
            plan = rb.Plan.random(problem.graph, 4)
            return rb.solvers.Solution(plan, problem.judge(plan), (), True, "it knows best")

    a, graph = net.params(1), net.graph()
    plan = rb.Plan.random(graph, 1)
    settings = {"graph": graph, "solver": Stubborn(), "progress": False}
    result = rb.align(a, rb.permute(a, plan, graph), start=plan.inverse(), **settings)
    assert (result.plan, result.objective) == (plan.inverse(), 0.0)


# --- kept results -----------------------------------------------------------------------------------------------------
@pytest.fixture
def kept(net, tmp_path):
    settings = {"graph": net.graph(), "forward": net.forward, "solver": QUICK, "progress": False}
    result = rb.align(net.params(1), net.params(2), net.inputs(), **settings)
    path = tmp_path / "alignment.json"
    result.save(path)
    return result, path


def test_what_is_saved_is_loaded_again(net, kept):
    result, path = kept
    bare, whole = rb.Alignment.load(path), rb.Alignment.load(str(path), net.params(1), net.params(2))
    assert bare == whole == result
    assert bare.seconds == result.seconds
    assert bare.model is None
    for name, x in result.model.items():
        assert_array_equal(whole.model[name], x)
    for name, x in result.merge(0.3).items():
        assert_array_equal(whole.merge(0.3)[name], x)
    with pytest.raises(SettingError, match=r"Alignment\.load\(path, model_a, model_b\)"):
        bare.merge()
    assert whole != rb.align(net.params(1), net.params(2), graph=net.graph(), solver="weight-matching", progress=False)
    bare.save(path)
    assert rb.Alignment.load(path) == result


def test_a_loaded_alignment_fits_its_models_only(net, mlp, kept):
    _, path = kept
    other = mlp((3, 7, 5, 2))
    with pytest.raises(ShapeError, match=r"'w0' of model B"):
        rb.Alignment.load(path, other.params(1), other.params(2))
    with pytest.raises(SettingError, match=r"both models or none"):
        rb.Alignment.load(path, net.params(1))


def test_a_file_that_is_no_alignment_is_refused(kept):
    _, path = kept
    whole = json.loads(path.read_text())
    with pytest.raises(CheckpointError, match=r"cannot read .*elsewhere"):
        rb.Alignment.load(path.with_name("elsewhere"))
    path.write_bytes(b"\xff{")
    with pytest.raises(CheckpointError, match=r"is not JSON"):
        rb.Alignment.load(path)
    for stored in ([], {}, {**whole, "format": "rebasin-core/plan/1"}):
        path.write_text(json.dumps(stored))
        with pytest.raises(CheckpointError, match=r"is not an alignment.*Alignment\.save"):
            rb.Alignment.load(path)
    other = rb.Plan({"h1": [1, 0]}).to_json()
    lacking = ({name: x for name, x in whole.items() if name != key} for key in whole if key != "format")
    for stored in (
        *lacking,
        {**whole, "plan": json.loads(other)},
        {**whole, "history": 3},
        {**whole, "history": [[1]]},
    ):
        path.write_text(json.dumps(stored))
        with pytest.raises(CheckpointError, match=r"is damaged"):
            rb.Alignment.load(path)


def test_it_is_shown_in_a_line_and_in_a_small_table(kept):
    result, _ = kept
    assert repr(result).startswith("Alignment(Sinkhorn on L2: ")
    assert len(repr(result)) < 200
    assert "\n" not in repr(result)
    odd = replace(result, objective_name="<gap>")
    assert "&lt;gap&gt;" in odd._repr_html_()
    assert len(odd._repr_html_()) < 1000


# --- refusals, each before any work -----------------------------------------------------------------------------------
def refuse(net, error, words, unchanged, **changes):
    a, b = changes.pop("a", net.params(1)), changes.pop("b", net.params(2))
    settings = {"graph": net.graph(), "solver": QUICK, "progress": False, "forward": net.forward, **changes}
    with unchanged(a, b), pytest.raises(error, match=words) as caught:
        rb.align(a, b, **settings)
    assert isinstance(caught.value, RebasinError)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"objective": rb.objectives.L2}, SettingError, r"objective came as a class; write L2"),
        ({"solver": rb.solvers.Sinkhorn}, SettingError, r"solver came as a class; write Sinkhorn\(\)"),
        ({"objective": "L2"}, SettingError, r"expected objective as one of 'l2'.*did you mean 'l2'"),
        ({"objective": "midpoint"}, SettingError, r"objectives\.Midpoint\(loss, data\)"),
        ({"solver": "sinkhorns"}, SettingError, r"expected solver as one of.*did you mean 'sinkhorn'"),
        ({"solver": 3}, SettingError, r"expected a solver.*3"),
        ({"time_limit": 0}, SettingError, r"time_limit as a positive number, got 0"),
        ({"time_limit": "1 s"}, SettingError, r"time_limit.*'1 s'"),
        ({"callback": 3}, SettingError, r"callback as a function of one history entry, got 3"),
        ({"start": {"h1": [0]}}, PlanError, r"start as a Plan.*got dict"),
        ({"start": rb.Plan({"h9": [1, 0]})}, PlanError, r"another graph.*'h9'"),
        ({"objective": 3}, SettingError, r"expected an objective.*3"),
        ({"graph": {"w0": "h ."}}, SpecError, r"expected a PermutationGraph, got dict"),
        ({"seed": -1}, SettingError, r"seed.*-1"),
        ({"seed": 1.5}, SettingError, r"seed.*1\.5"),
        ({"seed": None}, SettingError, r"seed.*None"),
        ({"seed": True}, SettingError, r"seed.*True"),
        ({"progress": "no"}, SettingError, r"progress.*'no'"),
        ({"progress": None}, SettingError, r"progress.*None"),
        ({"progress": 1}, SettingError, r"progress.*1"),
        ({"objective": lambda a: 0}, SettingError, r"takes 1 arguments"),
        ({"objective": lambda a, b, c, d: 0}, SettingError, r"takes 4 arguments"),
        ({"objective": rb.objectives.Midpoint(None, None)}, SettingError, r"loss as a function"),
        ({"objective": rb.objectives.Midpoint(lambda o, y: 0.0, None)}, DataError, r"needs data"),
        ({"objective": rb.objectives.RandomPoint(lambda o, y: 0.0, [])}, DataError, r"no batch"),
        ({"objective": rb.objectives.RandomPoint(lambda o, y: 0.0, iter(()))}, DataError, r"no batch"),
        ({"objective": rb.objectives.Custom(lambda a, b: 0.0, np.zeros(3))}, DataError, r"ndarray"),
    ],
)
def test_bad_settings_are_refused(net, unchanged, changes, error, words):
    refuse(net, error, words, unchanged, **changes)


def test_bad_models_are_refused(net, unchanged):
    a = net.params(1)
    refuse(net, NonFiniteError, r"'w0' of model A", unchanged, a={**a, "w0": a["w0"] * np.nan})
    refuse(net, NonFiniteError, r"'b1' of model B", unchanged, b={**a, "b1": a["b1"] + np.inf})
    refuse(net, ShapeError, r"'b0' has shape", unchanged, b={**a, "b0": np.zeros(7)})
    refuse(net, SpecError, r"'extra'", unchanged, b={**a, "extra": np.zeros(7)})
    refuse(net, SpecError, r"'b0'", unchanged, b={name: x for name, x in a.items() if name != "b0"})
    whole = {name: np.round(x).astype(int) for name, x in a.items()}
    refuse(net, UnsupportedArrayError, r"'w0' is of dtype int64", unchanged, a=whole, b=whole)


def test_a_graph_of_another_network_is_refused(net, mlp, unchanged):
    refuse(net, ShapeError, r"'w0' of model B", unchanged, graph=mlp((3, 7, 5, 2)).graph())
    refuse(net, SpecError, r"model B", unchanged, graph=mlp((3, 6, 2)).graph())


@pytest.mark.parametrize(
    ("objective", "error", "words"),
    [
        (lambda a, b: a["w0"] - b["w0"], ShapeError, r"'<lambda>' returned an array of shape \(6, 3\)"),
        (lambda a, b: anp.sum(b["w0"]) * np.nan, NonFiniteError, r"'<lambda>' is nan"),
        (lambda a, b: float("inf"), NonFiniteError, r"'<lambda>' is inf"),
        (lambda a, b: 3, SettingError, r"'<lambda>' has no gradient.*plain int"),
        (lambda a, b: np.sum(a["w0"] ** 2), SettingError, r"'<lambda>' has no gradient.*autograd\.numpy"),
        (lambda a, b: "low", UnsupportedArrayError, r"'<lambda>' returned str"),
        (lambda a, b: None, UnsupportedArrayError, r"'<lambda>' returned NoneType"),
    ],
)
def test_an_objective_without_a_scalar_or_a_gradient_is_refused(net, unchanged, objective, error, words):
    refuse(net, error, words, unchanged, objective=objective)


def test_weight_matching_refuses_an_objective_that_is_no_distance_of_weights(net, unchanged):
    refuse(
        net,
        SettingError,
        r"cannot minimize 'mine'.*solvers\.Sinkhorn",
        unchanged,
        solver=rb.solvers.WeightMatching(),
        objective=rb.objectives.Custom(lambda a, b: anp.sum(b["w0"]), name="mine"),
    )
