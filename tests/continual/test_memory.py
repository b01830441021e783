"""What is remembered, and how it is replayed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.continual import TaskMemory
from rebasin_core.continual.memory import Picker
from rebasin_core.continual.replay import Replay
from rebasin_core.continual.task_data import TaskData
from rebasin_core.errors import DataError


def picked(batches, per_class, seed=0):
    picker = Picker(per_class, np.random.default_rng(seed))
    for batch in batches:
        picker.add(*batch)
    return picker.memory(None)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=40), per_class=st.integers(1, 6), cut=st.integers(1, 40))
def test_so_many_of_every_class_each_once_however_the_data_are_cut(labels, per_class, cut):
    y = np.array(labels)
    x = np.arange(len(y))[:, None] + 0.5
    whole = picked([(x, y)], per_class)
    parts = picked([(x[i : i + cut], y[i : i + cut]) for i in range(0, len(y), cut)], per_class)
    assert_array_equal(whole.inputs, parts.inputs)
    places = (whole.inputs[:, 0] - 0.5).astype(int)
    assert len(set(places)) == len(places)
    assert_array_equal(y[places], whole.targets)
    for label in set(labels):
        assert (whole.targets == label).sum() == min(per_class, labels.count(label))


def test_every_sample_has_the_same_chance():
    x = np.arange(10.0)[:, None]
    counts = np.zeros(10)
    for seed in range(400):
        memory = picked([(x[:7], np.zeros(7, int)), (x[7:], np.zeros(3, int))], 3, seed)
        counts[memory.inputs[:, 0].astype(int)] += 1
    assert counts.sum() == 1200
    assert (abs(counts - 120) < 45).all()  # five standard deviations


def test_targets_that_are_no_classes_are_kept_per_task():
    x = np.arange(12.0)[:, None]
    assert len(picked([(x, x)], 5)) == 5
    assert len(picked([(x, np.zeros((12, 3, 3), int))], 5)) == 5
    assert picked([(x, np.zeros((12, 3, 3), int))], 5).targets.shape == (5, 3, 3)


def test_inputs_of_several_arrays_stay_together():
    ids = np.arange(6)
    inputs = {"ids": ids, "pair": (ids * 1.5, ids > 2)}
    memory = picked([(inputs, ids % 2)], 2)
    assert_array_equal(memory.inputs["pair"][0], memory.inputs["ids"] * 1.5)
    assert_array_equal(memory.inputs["pair"][1], memory.inputs["ids"] > 2)
    assert memory.inputs["ids"].dtype == ids.dtype


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(DataError, match="several arrays"):
        picked([(np.zeros((2, 1)), {"a": np.zeros(2), "b": np.zeros(2)})], 1)
    with pytest.raises(DataError, match="pad the inputs"):
        picked([(np.zeros((2, 3)), np.array([0, 1])), (np.zeros((2, 4)), np.array([2, 3]))], 1)
    with pytest.raises(DataError, match="several structures"):
        picked([(np.zeros((2, 3)), np.array([0, 1])), ((np.zeros((2, 4)),), np.array([2, 3]))], 1)
    with pytest.raises(DataError, match="arrays of numbers"):
        picked([(np.array(["a", "b"]), np.array([0, 1]))], 1)


def memories(sizes, tasks=None):
    return [
        TaskMemory((tasks or [None] * len(sizes))[t], np.full((n, 2), float(t)), np.full(n, t))
        for t, n in enumerate(sizes)
    ]


def joined(replay, n=4, task=None):
    inputs, parts = replay.join((np.full((n, 2), -1.0), np.full(n, -1)), task)
    for part in parts:  # the targets say whose samples these are
        assert_array_equal(inputs[part.start : part.stop, 0], part.targets)
    return inputs, parts


def weight_of_tasks(parts):
    found = {}
    for part in parts:
        for task in np.unique(part.targets):
            found[int(task)] = part.weight * np.mean(part.targets == task)
    return found


@pytest.mark.parametrize("size", [100, 9, 2])
def test_every_task_weighs_the_same_however_many_samples_it_has(size):
    replay = Replay(memories([5, 5, 20], ["a", "b", "a"]), None, size, np.random.default_rng(0))
    inputs, parts = joined(replay, task="b")
    assert weight_of_tasks(parts) == pytest.approx({-1: 0.25, 0: 0.25, 1: 0.25, 2: 0.25})
    assert len(inputs) == 4 + (30 if size == 100 else 3 * max(1, size // 3))
    assert parts[0].head == "b"


def test_tasks_of_one_head_and_size_are_one_part():
    _, parts = joined(Replay(memories([5, 5, 5]), None, 100, np.random.default_rng(0)))
    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 19)]


def test_the_weight_of_the_memory_is_beside_that_of_the_task():
    _, parts = joined(Replay(memories([5, 3]), 3.0, 100, np.random.default_rng(0)))
    assert weight_of_tasks(parts) == pytest.approx({-1: 0.25, 0: 0.375, 1: 0.375})
    inputs, parts = joined(Replay(memories([5, 3]), 0.0, 100, np.random.default_rng(0)))
    assert (len(inputs), [part.weight for part in parts]) == (4, [1.0])


def test_where_the_memory_is_large_other_samples_are_drawn_each_time():
    memory = [TaskMemory(None, np.arange(50.0)[:, None], np.arange(50))]
    replay = Replay(memory, None, 10, np.random.default_rng(0))
    draws = [replay.join((np.zeros((1, 1)), np.zeros(1, int)), None) for _ in range(40)]
    for inputs, parts in draws:
        assert len(set(parts[1].targets.tolist())) == 10
        assert_array_equal(inputs[1:, 0], parts[1].targets)
    assert len(np.unique(np.concatenate([parts[1].targets for _, parts in draws]))) == 50


def test_a_pair_of_arrays_is_shuffled_for_every_epoch_and_cut_evenly():
    x = np.arange(11.0)[:, None]
    data = TaskData((x, list(range(11))), 5, lambda values: values)
    _, classes = data.inspect(None)
    assert_array_equal(classes, np.arange(11))
    assert data.steps == 3
    stream = data.stream(np.random.default_rng(0))
    epochs = [[next(stream) for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert sorted(len(inputs) for inputs, _ in epoch) == [3, 4, 4]
        assert sorted(np.concatenate([targets for _, targets in epoch])) == list(range(11))
        for inputs, targets in epoch:
            assert_array_equal(inputs[:, 0], targets)
    assert not np.array_equal(epochs[0][0][1], epochs[1][0][1])
    assert_allclose(np.concatenate([inputs for inputs, _ in data.once()]), x)
