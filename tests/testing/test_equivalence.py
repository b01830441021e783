"""`check_equivalent`: a wrong graph is caught, shrunk to the least that shows it, and the axis to blame is named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rebasin_core as rb
from rebasin_core.errors import EquivalenceError, NonFiniteError, PlanError, SettingError, SpecError
from rebasin_core.symmetry.axes import Group
from rebasin_core.testing import check_equivalent, layer_graphs, plans
from rebasin_core.testing.shrinking import minimal, perform, swaps
from rebasin_core.verification import with_axis

DEEP = (3, 6, 6, 6, 6, 2)


def caught(net, params=None, forward=None, **axes):
    """What is raised for a perceptron some of whose axes are wrong."""
    params = params or net.params()
    graph = rb.PermutationGraph.from_axes({**net.axes(), **axes}, params)
    with pytest.raises(EquivalenceError) as info:
        check_equivalent(params, net.inputs(), graph=graph, forward=forward or net.forward)
    return info.value


# --- what is right ----------------------------------------------------------------------------------------------------
def test_a_right_graph_passes_with_a_report(mlp, unchanged):
    net = mlp(DEEP)
    params, x = net.params(), net.inputs()
    with unchanged(params, x):
        found = check_equivalent(params, x, graph=net.graph(), forward=net.forward, plans=4)
    assert found.trials == 5
    assert found.error <= found.tolerance == np.sqrt(np.finfo(float).eps)


def test_the_graph_is_the_models_own_where_none_is_given(normed):
    assert check_equivalent(normed(), np.ones((2, 3))).trials == 4


@given(st.data())
def test_plans_may_be_those_that_hypothesis_draws(mlp, data):
    net = mlp((3, 4, 2))
    plan = data.draw(plans(net.graph()))
    found = check_equivalent(net.params(), net.inputs(), graph=net.graph(), forward=net.forward, plans=[plan])
    assert found.trials == 2


# --- what is wrong ----------------------------------------------------------------------------------------------------
def test_two_groups_confused_are_shrunk_to_one_with_parameter_and_axis(mlp):
    """The bias of the second layer moves with the third: of four groups and 24 units, one exchange is left."""
    error = caught(mlp(DEEP), b1="h3")
    assert error.groups in (("h2",), ("h3",))
    assert (error.parameter, error.axis) == ("b1", 0)
    assert sorted(error.plan.moved(group) for group in error.plan) == [0, 0, 0, 2]
    assert error.plan.moved(error.groups[0]) == 2
    assert "Axis 0 of parameter 'b1' must move with 'h2', not with 'h3'" in str(error)
    assert f"exchange units {' and '.join(map(str, np.flatnonzero(moved_by(error))))} of group" in str(error)


def moved_by(error):
    order = error.plan[error.groups[0]]
    return order != np.arange(len(order))


@pytest.mark.parametrize(
    ("axes", "group", "place", "words"),
    [
        ({"b0": "."}, "h1", ("b0", 0), "must move with 'h1'; write it there"),
        ({"w1": "h2 ."}, "h1", ("w1", 1), "must move with 'h1'; write it there"),
        ({"w2": "h3 h1"}, "h1", ("w2", 1), "must move with 'h2', not with 'h1'"),
        ({"b4": "k", "w4": "k h4"}, "k", None, "No correction of a single axis repairs it. The group reorders axis 0"),
    ],
)
def test_wrong_axes_are_named(mlp, axes, group, place, words):
    error = caught(mlp(DEEP), **axes)
    assert error.groups == (group,)
    assert (error.parameter, error.axis) == (place or (None, None))
    assert words in str(error)


def test_an_axis_that_must_not_move_is_named(mlp):
    error = caught(mlp((3, 6, 6)), b1="h1")
    assert (error.groups, error.parameter, error.axis) == (("h1",), "b1", 0)
    assert "must not move with 'h1'" in str(error)


def flattened(order):
    """A convolution by one place, flattened channels first, and a dense layer."""
    rng = np.random.default_rng(0)
    params = {"conv": rng.normal(size=(4, 2)), "fc": rng.normal(size=(3, 12))}

    def forward(p, x):
        return np.tanh(np.einsum("ci,nip->ncp", p["conv"], x)).reshape(len(x), -1) @ p["fc"].T

    graph = rb.PermutationGraph.from_axes({"conv": "c .", "fc": f". {order}"}, params)
    return params, rng.normal(size=(5, 2, 3)), graph, forward


@pytest.mark.parametrize(
    ("order", "words"), [("(3 c)", 'is "(c 3)", not "(3 c)"'), (".", "must move with 'c', as \"(c 3)\"")]
)
def test_a_wrong_flatten_is_named_with_the_right_one(order, words):
    params, x, graph, forward = flattened(order)
    with pytest.raises(EquivalenceError) as info:
        check_equivalent(params, x, graph=graph, forward=forward)
    assert (info.value.parameter, info.value.axis) == ("fc", 1)
    assert words in str(info.value)
    check_equivalent(params, x, graph=flattened("(c 3)")[2], forward=forward)


def test_branches_in_the_wrong_order_are_named():
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=(3, 2)), "out": rng.normal(size=(1, 6))}

    def forward(p, x):
        return np.tanh(np.concatenate([x @ p["a"].T, x @ p["b"].T], 1)) @ p["out"].T

    graph = rb.PermutationGraph.from_axes({"a": "a .", "b": "b .", "out": ". (b+a)"}, params)
    with pytest.raises(EquivalenceError) as info:
        check_equivalent(params, np.ones((1, 2)), graph=graph, forward=forward)
    assert 'Axis 1 of parameter \'out\' is "(a+b)", not "(b+a)"' in str(info.value)


def test_an_exchange_inside_of_a_local_group_names_its_row():
    params = {"q": np.arange(6.0).reshape(3, 2), "k": np.arange(6.0, 12.0)}
    graph = rb.PermutationGraph.from_axes({"q": "h d[h]", "k": "(h 2)"}, params)
    with pytest.raises(EquivalenceError) as info:
        check_equivalent(
            params, np.ones(1), graph=graph, forward=lambda p, x: (p["q"].ravel() * p["k"]).sum(keepdims=True)
        )
    assert info.value.groups == ("d",)
    assert "of group 'd' at place" in str(info.value)
    assert info.value.plan.moved("d") == 2


def test_groups_that_break_only_together_are_left_together(mlp):
    net = mlp(DEEP)
    params = net.params()

    def forward(p, x):
        """The outputs, unless the first two groups both moved."""
        moved = (not np.allclose(p[name].mean(-1), params[name].mean(-1)) for name in ("w0", "w1"))
        return net.forward(p, x) + float(all(moved))

    error = caught(net, forward=forward)
    assert error.groups == ("h1", "h2")
    assert error.parameter is None
    assert [error.plan.moved(group) for group in ("h1", "h2", "h3", "h4")] == [2, 2, 0, 0]
    assert "Each of the groups 'h1' and 'h2' may move, but not together" in str(error)


def test_zero_biases_hide_nothing(mlp):
    net = mlp((3, 6, 2))
    error = caught(net, params={**net.params(), "b0": np.zeros(6)}, b0=".")
    assert error.parameter == "b0"


@given(layer_graphs(max_blocks=2), st.data())
def test_a_graph_with_a_forgotten_axis_never_passes(net, data):
    """Any one axis of any random network: moved without its group, the outputs change, and one group is to blame."""
    places = [
        (name, i)
        for name, spec in net.graph.axes.items()
        for i, axis in enumerate(spec.axes)
        if isinstance(axis, Group) and axis.parent is None and net.graph.groups[axis.name] > 1
    ]
    if not places:
        return
    name, i = data.draw(st.sampled_from(places))
    group = net.graph.axes[name].axes[i].name
    alone = len(net.graph.occurrences(group)) == 1
    wrong = with_axis(net.graph, name, i, rb.AxesSpec(".").axes[0])
    # Behind a norm or a rectifier an axis may make no difference; then it breaks nothing to forget it.
    plan = rb.Plan.random(net.graph, 1)
    moved = net.forward(plan.apply(net.params, wrong), net.inputs)
    if alone or np.allclose(moved, net.forward(net.params, net.inputs), rtol=1e-6):
        return
    with pytest.raises(EquivalenceError) as info:
        check_equivalent(net.params, net.inputs, graph=wrong, forward=net.forward, plans=[plan])
    assert info.value.groups == (group,)


# --- what cannot be told ----------------------------------------------------------------------------------------------
def test_networks_that_are_no_functions_are_told_from_wrong_graphs(mlp):
    error = caught(mlp((3, 6, 2)), forward=lambda p, x: next(NOISE) + x)
    assert "So it is where nothing moves" in str(error)
    assert error.groups == ()


def test_outputs_without_any_number_are_told_from_wrong_graphs(mlp):
    net = mlp((3, 6, 2))
    with pytest.raises(NonFiniteError, match="nothing can be compared"):
        check_equivalent(net.params(), net.inputs(), graph=net.graph(), forward=lambda p, x: x * np.nan)


NOISE = iter(range(100))


def test_the_tolerance_can_be_chosen(mlp):
    net = mlp((3, 6, 2))
    wrong = rb.PermutationGraph.from_axes({**net.axes(), "b0": "."}, net.params())
    assert check_equivalent(net.params(), net.inputs(), graph=wrong, forward=net.forward, tolerance=100.0).error > 0.01
    with pytest.raises(EquivalenceError, match=r"allowed 1\.0e-30"):
        check_equivalent(net.params(), net.inputs(), graph=net.graph(), forward=net.forward, tolerance=1e-30)


def test_bad_settings_are_refused(mlp):
    net = mlp((3, 6, 2))
    good = {"graph": net.graph(), "forward": net.forward}
    for settings, error, words in [
        ({"plans": 0}, SettingError, "plans"),
        ({"plans": []}, SettingError, "at least one plan"),
        ({"plans": [rb.Plan({"k": [0]})]}, PlanError, "another graph"),
        ({"seed": -1}, SettingError, "seed"),
        ({"tolerance": -1.0}, SettingError, "tolerance"),
        ({"graph": None}, SpecError, "pass graph="),
        ({"forward": None}, SpecError, "pass forward="),
    ]:
        with pytest.raises(error, match=words):
            check_equivalent(net.params(), net.inputs(), **{**good, **settings})


# --- shrinking --------------------------------------------------------------------------------------------------------
@given(st.sets(st.integers(0, 30), min_size=1), st.integers(31, 40))
def test_what_is_needed_is_kept_and_nothing_else(needed, count):
    assert minimal(range(count), lambda some: needed <= set(some)) == sorted(needed)


def test_shrinking_takes_few_trials():
    trials = []
    assert minimal(range(1000), lambda some: trials.append(some) or 321 in some) == [321]
    assert len(trials) < 25


@given(st.data())
def test_exchanges_make_the_plan_they_were_taken_from(strategies, data):
    graph, _ = data.draw(strategies.networks())
    plan = data.draw(plans(graph))
    some = swaps(plan, plan)
    assert perform(graph, some) == plan
    assert len(some) <= sum(plan[group].size for group in plan)
    for swap in some:
        assert perform(graph, [swap]).moved(swap.group) == 2
