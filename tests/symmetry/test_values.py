"""Graphs and plans are values: compared to a bool, hashed or not by intent, unchangeable, copied and read back."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rebasin_core as rb
from rebasin_core.errors import RebasinError
from rebasin_core.symmetry.frozen import FrozenDict

COPIES = [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]


def linked_graph():
    layers = [rb.layers.Dense("a"), rb.layers.Activation(), rb.layers.Dense("b")]
    params = {"a.weight": np.ones((4, 3)), "a.bias": np.ones(4), "b.weight": np.ones((2, 4))}
    return rb.PermutationGraph.from_layers(layers, params)


def local_graph():
    return rb.PermutationGraph.from_axes({"w": "(h d[h]) c", "v": "h"}, {"w": np.zeros((6, 4)), "v": np.zeros(2)})


@given(st.data(), st.integers(0, 1000))
def test_equal_values_hash_equally_and_copies_are_equal(strategies, data, seed):
    graph, params = data.draw(strategies.networks(count=1))
    same = rb.PermutationGraph.from_axes({name: str(spec) for name, spec in graph.axes.items()}, params)
    assert graph == same
    assert hash(graph) == hash(same)
    plan, soft = rb.Plan.random(graph, seed), rb.SoftPlan.random(graph, seed)
    assert hash(plan) == hash(rb.Plan.random(same, seed))
    for copied in COPIES:
        assert copied(graph) == graph
        assert hash(copied(graph)) == hash(graph)
        assert (copied(plan), copied(soft)) == (plan, soft)
        assert copied(plan).parents == plan.parents


def test_a_graph_and_its_copies_cannot_be_changed():
    for graph in (linked_graph(), *(copied(linked_graph()) for copied in COPIES)):
        for field in dataclasses.fields(graph):
            value = getattr(graph, field.name)
            if field.name == "buffers":
                assert isinstance(value, frozenset)
                continue
            for change in (
                lambda d: d.__setitem__("a", 99),
                lambda d: d.update(a=99),
                lambda d: d.setdefault("x", 1),
                lambda d: d.clear(),
                lambda d: d.popitem(),
                lambda d: d.pop("a"),
                lambda d: d.__delitem__("a"),
                lambda d: d.__ior__({"a": 99}),
            ):
                with pytest.raises(TypeError, match="does not change; change a copy"):
                    change(value)
        assert graph == linked_graph()
        with pytest.raises(dataclasses.FrozenInstanceError):
            graph.groups = {}


def test_a_graph_does_not_follow_the_dictionaries_it_was_made_of():
    graph = linked_graph()
    groups = dict(graph.groups)
    made = dataclasses.replace(graph, groups=groups)
    groups["a"] = 99
    assert made == graph
    assert made.links == graph.links


def test_a_frozen_dictionary_reads_as_a_dictionary():
    frozen = FrozenDict({"h": 8})
    assert frozen == {"h": 8}
    assert json.loads(json.dumps(frozen)) == {"h": 8}
    assert repr(frozen) == "{'h': 8}"
    assert frozen | {"c": 2} == {"h": 8, "c": 2}
    assert hash(FrozenDict({"a": 1, "b": 2})) == hash(FrozenDict({"b": 2, "a": 1}))


def test_index_vectors_of_a_plan_and_its_copies_are_read_only():
    plan = rb.Plan.random(local_graph(), 1)
    others = [copied(plan) for copied in COPIES]
    for one in (plan, *others, plan.inverse(), plan.reorder("h", [1, 0]), plan.compose(plan)):
        for vector in one.values():
            with pytest.raises(ValueError, match="read-only"):
                vector[...] = 0
            with pytest.raises(ValueError, match="WRITEABLE"):
                vector.setflags(write=True)


def test_plans_of_other_parents_differ():
    halves = [[0, 1], [1, 0]]
    of_h = rb.Plan({"h": [0, 1], "c": [0, 1], "d": halves}, {"d": "h"})
    of_c = rb.Plan({"h": [0, 1], "c": [0, 1], "d": halves}, {"d": "c"})
    assert of_h != of_c
    assert rb.SoftPlan.from_plan(of_h) != rb.SoftPlan.from_plan(of_c)


def framework_arrays(kind):
    if kind == "numpy":
        return np.zeros(())
    module = pytest.importorskip({"torch": "torch", "tensorflow": "tensorflow", "jax": "jax.numpy"}[kind])
    return module.zeros((), dtype=module.float64 if kind == "torch" else module.float32)


@pytest.mark.parametrize("kind", ["numpy", "torch", "tensorflow", "jax"])
def test_soft_plans_compare_to_a_bool(kind):
    graph, like = local_graph(), framework_arrays(kind)
    soft = rb.SoftPlan.random(graph, 1, like=like)
    assert (soft == rb.SoftPlan.random(graph, 1, like=like)) is True
    assert (soft == rb.SoftPlan.random(graph, 2, like=like)) is False
    assert (soft == rb.Plan.random(graph, 1)) is False
    assert (soft != dict(soft)) is True
    with pytest.raises(TypeError, match="unhashable type: 'SoftPlan'"):
        hash(soft)


GRAPH = linked_graph()
LOCAL = local_graph()
READERS = {
    "graph": (rb.PermutationGraph.from_json, GRAPH.to_json()),
    "local graph": (rb.PermutationGraph.from_json, LOCAL.to_json()),
    "plan": (rb.Plan.from_json, rb.Plan.random(LOCAL, 1).to_json()),
    "soft plan": (rb.SoftPlan.from_json, rb.SoftPlan.random(LOCAL, 1).to_json()),
}
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.integers(-1, 7) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["h", "d[h]", "(h d[h]) .", "a.weight", "(", "x@[1 0]", 10**400])
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["h", "d", "w", "a"]), inner, max_size=4)
    ),
    max_leaves=8,
)


def read_or_refuse(read, text):
    try:
        value = read(text)
    except RebasinError as error:
        message = str(error)
        assert message
        assert message[0].islower() or message[0] in "'{0123456789"
        return
    again = read(value.to_json())
    assert again == value
    assert again.to_json() == value.to_json()


@pytest.mark.parametrize("kind", READERS)
@given(JSON | st.text())
def test_any_text_is_read_or_refused_in_the_family(kind, value):
    read, good = READERS[kind]
    read_or_refuse(read, value if isinstance(value, str) else json.dumps(value))
    form = json.loads(good)["format"]
    if isinstance(value, dict):
        read_or_refuse(read, json.dumps({"format": form, **value}))


def places_in(value, path=()):
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places_in(inner, (*path, key))


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=200)
@given(data=st.data())
def test_a_text_with_one_thing_removed_or_replaced_is_read_or_refused_in_the_family(kind, data):
    read, good = READERS[kind]
    stored = json.loads(good)
    path = data.draw(st.sampled_from([path for path in places_in(stored) if path]))
    holder = stored
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        del holder[path[-1]]
    else:
        holder[path[-1]] = data.draw(JSON)
    read_or_refuse(read, json.dumps(stored))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000, b"\xff\xfe\xfd", None, 3, ""])
def test_what_python_itself_cannot_read_is_refused_in_the_family(kind, text):
    read, _ = READERS[kind]
    with pytest.raises(RebasinError):
        read(text)


def test_a_text_without_links_or_groups_still_reads():
    stored = json.loads(GRAPH.to_json())
    assert stored.pop("links")
    assert stored.pop("groups")
    again = rb.PermutationGraph.from_json(json.dumps(stored))
    assert again == GRAPH
    assert again.links == {}
