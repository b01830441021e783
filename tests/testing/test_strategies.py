"""What the strategies draw is what they promise, and it shrinks to what is plain."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import Phase, assume, find, given, settings
from hypothesis import strategies as st

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.symmetry.axes import AxesSpec, Group, size
from rebasin_core.testing import axes_specs, logits, mlp_params, permutations, plans
from rebasin_core.testing.notation import axes_graphs


@given(st.data(), st.sampled_from([0, 1, 5, 100]))
def test_permutations_are_index_vectors(data, n):
    perm = data.draw(permutations(n))
    assert perm.dtype == np.int64
    assert sorted(perm.tolist()) == list(range(n))


@pytest.mark.parametrize("n", [5, 100])
def test_permutations_shrink_to_the_identity_and_to_an_exchange(n):
    identity = np.arange(n)
    assert np.array_equal(find(permutations(n), lambda perm: True), identity)
    least = find(permutations(n), lambda perm: not np.array_equal(perm, identity))
    assert (least != identity).sum() == 2


@pytest.mark.parametrize("n", [5, 100])
def test_every_unit_may_leave_its_place(n):
    find(permutations(n), lambda perm: (perm != np.arange(n)).all())


@given(st.data(), axes_graphs())
def test_plans_fit_their_graph(data, drawn):
    graph, params = drawn
    plan = data.draw(plans(graph))
    assert plan.parents == graph.parents
    back = plan.inverse().apply(plan.apply(params, graph), graph)
    for name, x in params.items():
        np.testing.assert_array_equal(back[name], x)


def test_plans_shrink_to_the_identity():
    graph = rb.PermutationGraph.from_axes({"v": "h c", "w": "(h d[h])"}, {"v": np.zeros((2, 40)), "w": np.zeros(6)})
    assert find(plans(graph), lambda plan: True).is_identity
    assert find(plans(graph), lambda plan: plan.moved("d") > 0).moved("c") == 0


@given(axes_specs({"a": 2, "b": 3, "k": 2}, parents={"k": "b"}))
def test_axes_have_the_sizes_asked_for(spec):
    sizes = {"a": 2, "b": 3, "k": 2}
    shape = tuple(size(axis, sizes) for axis in spec.axes)
    axes = {"w": spec, "sizes": AxesSpec("a b k[b]")}
    graph = rb.PermutationGraph.from_axes(axes, {"w": np.zeros(shape), "sizes": np.zeros((2, 3, 2))})
    assert graph.groups.keys() == sizes.keys()
    assert AxesSpec(spec.text) == spec


@pytest.mark.parametrize("mark", ["(", "+", "@", "d[h]", "c", "3"])
def test_every_part_of_the_notation_is_drawn(mark):
    find(axes_specs(), lambda spec: mark in spec.text, settings=settings(phases=[Phase.generate], max_examples=500))


def test_local_groups_stand_only_where_their_parent_is():
    find(axes_specs({"h": 2, "d": 3}, parents={"d": "h"}), lambda spec: Group("d", "h") in spec.group_nodes)


@given(mlp_params(), st.data())
def test_perceptrons_have_layers_that_fit(params, data):
    weights = [name for name in params if name.endswith("weight")]
    layers = [rb.layers.Dense(name.partition(".")[0]) for name in weights]
    graph = rb.PermutationGraph.from_layers(layers, params)
    assert len(graph.groups) <= len(weights) - 1
    assert len(params) in (len(weights), 2 * len(weights))
    assume(graph.groups)
    moved = data.draw(plans(graph)).apply(params, graph)
    assert {name: x.shape for name, x in moved.items()} == {name: x.shape for name, x in params.items()}


@given(mlp_params([3, 4, 2], bias=True, dtype="float32"))
def test_widths_biases_and_dtypes_can_be_chosen(params):
    assert {name: x.shape for name, x in params.items()} == {
        "fc1.weight": (4, 3), "fc1.bias": (4,), "fc2.weight": (2, 4), "fc2.bias": (2,),
    }  # fmt: skip
    assert {x.dtype for x in params.values()} == {np.dtype("float32")}


@given(logits(4, batch=[2, 3], dtype="float32"))
def test_logits_are_finite_and_have_their_shape(x):
    assert x.shape == (2, 3, 4, 4)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert np.isfinite(rb.sinkhorn(x)).all()


def test_logits_are_flat_tied_and_nearly_hard():
    find(logits(4), lambda x: np.ptp(x) == 0)
    find(logits(4), lambda x: 1 < len(np.unique(x)) <= 3)
    find(logits(4), lambda x: sorted(rb.sinkhorn(x).argmax(0)) == [0, 1, 2, 3] and rb.sinkhorn(x).max(0).min() > 0.99)


def test_sizes_out_of_range_are_refused():
    for strategy in (permutations, logits, lambda n: mlp_params(max_width=n)):
        with pytest.raises(SettingError, match="got -1"):
            find(strategy(-1), lambda drawn: True)


# --- without Hypothesis -----------------------------------------------------------------------------------------------
def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_the_package_says_what_to_install_where_hypothesis_is_absent():
    done = run("import sys; sys.modules['hypothesis'] = None; import rebasin_core.testing")
    assert done.returncode == 1
    assert 'pip install "rebasin-core[testing]"' in done.stderr.splitlines()[-1]


def test_it_is_loaded_when_first_asked_for():
    found = "'hypothesis' in sys.modules"
    code = f"import sys, rebasin_core as rb; print({found}); rb.testing; print({found})"
    assert run(code).stdout.split() == ["False", "True"]
