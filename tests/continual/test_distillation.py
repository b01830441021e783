"""What the model said of the memory before a task, kept beside the targets; and the residual that alpha scales."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.backends.optimizers import SGD
from rebasin_core.continual.cost import mean_loss
from rebasin_core.continual.distillation import outputs_of, squared_distance
from rebasin_core.continual.memory import TaskMemory
from rebasin_core.continual.replay import Part, Replay
from rebasin_core.errors import SettingError, ShapeError


def memory(rng, head, n=4):
    return TaskMemory(head, rng.normal(size=(n, 2)), np.arange(n) % 2)


def test_the_cost_is_the_loss_of_the_memory_and_the_distance_by_the_weight_of_the_memory(small):
    rng = np.random.default_rng(0)
    params, _ = small.start()
    x, outputs = rng.normal(size=(7, 2)), rng.normal(size=(4, 2))
    targets = np.array([0, 1, 0, 1, 1, 0, 1])
    parts = [Part(None, targets[:3], 0, 3, 0.25), Part(None, targets[3:], 3, 7, 0.75, outputs)]
    found = mean_loss(small.forward, small.cross_entropy, params, x, parts, distillation=0.1)
    said = small.forward(params, x)
    current, past = small.cross_entropy(said[:3], targets[:3]), small.cross_entropy(said[3:], targets[3:])
    distance = np.mean(np.sum((said[3:] - outputs) ** 2, axis=1))
    assert_allclose(found, 0.25 * current + 0.75 * (past + 0.1 * distance), rtol=1e-12)
    without = mean_loss(small.forward, small.cross_entropy, params, x, parts)
    assert_allclose(without, 0.25 * current + 0.75 * past, rtol=1e-12)


@pytest.mark.parametrize("size", [100, 6])
def test_every_sample_of_the_memory_comes_with_its_own_outputs_from_its_own_head(small, size):
    rng = np.random.default_rng(0)
    params, _ = small.start(extra=True)
    memories = [memory(rng, "left"), memory(rng, "right", 5), memory(rng, "left")]
    asked = []

    def teacher(inputs):
        asked.append(len(inputs))
        return small.heads(params, inputs)

    replay = Replay(memories, None, size, np.random.default_rng(1), teacher)
    batch = rng.normal(size=(3, 2)), np.zeros(3, int)
    for _ in range(3):
        inputs, parts = replay.join(batch, "left")
        assert parts[0].before is None
        assert len(parts) == 3
        for part in parts[1:]:
            wanted = small.heads(params, inputs[part.start : part.stop])[part.head]
            assert_allclose(part.before, wanted, rtol=1e-12)
    assert sum(asked) == 13  # once, and not at every step
    assert max(asked) <= size


def test_past_heads_are_held_on_the_samples_of_the_task_too(small):
    rng = np.random.default_rng(0)
    params, _ = small.start(extra=True)
    memories = [memory(rng, "left"), memory(rng, "left", 5)]
    replay = Replay(memories, 3.0, 100, rng, lambda inputs: small.heads(params, inputs), heads=0.5)
    x, y = rng.normal(size=(3, 2)), np.array([0, 1, 2])
    inputs, (current, past, one_more, held) = replay.join((x, y), "right")
    assert (held.head, held.targets, held.start, held.stop) == ("left", None, 0, 3)
    assert_allclose(held.before, small.heads(params, x)["left"], rtol=1e-12)
    moved = {**params, "w2": params["w2"] + 0.1}
    without = mean_loss(small.heads, small.cross_entropy, moved, inputs, [current, past, one_more])
    found = mean_loss(small.heads, small.cross_entropy, moved, inputs, [current, past, one_more, held])
    gap = squared_distance(small.heads(moved, x)["left"], held.before)
    assert_allclose(found - without, 0.25 * 0.5 * gap, rtol=1e-9)
    assert len(replay.join((x, y), "left")[1]) == 3, "the head that learns is not held"


def test_held_heads_move_less(small):
    def moved(distill_heads):
        params, graph = small.start(extra=True)
        settings = {"beta": 0.0, "init_scale": 100.0}  # the plan is the identity: what moves is the residual's
        learner = small.learner(params, graph, forward=small.heads, distill_heads=distill_heads, **settings)
        learner.fit_task(small.blobs(0.0), "left")
        before = learner.params
        x, y = small.blobs(1.0, classes=3)
        learner.fit_task((x, y), "right")
        return np.abs(small.heads(learner.params, x)["left"] - small.heads(before, x)["left"]).mean()

    assert moved(1.0) < 0.5 * moved(0.0)


def test_a_model_with_one_output_has_no_other_heads(small):
    learner = small.learner(distill_heads=0.1)
    learner.fit_task(small.blobs(0.0))
    with pytest.raises(SettingError, match=r"distill_heads=0.1 .* one output for all tasks"):
        learner.fit_task(small.blobs(1.0))
    assert len(learner.tasks) == 1


def test_the_distance_is_a_mean_over_samples_in_float32_at_least():
    outputs = np.array([[3.0, 4.0], [0.0, 0.0]], np.float16)
    found = squared_distance(outputs, np.zeros((2, 2), np.float16))
    assert found == 12.5
    assert found.dtype == np.float32


def test_outputs_without_a_row_per_sample_cannot_be_compared():
    with pytest.raises(ShapeError, match=r"returned shape \(2,\) for 3 samples.*distillation=0"):
        outputs_of(lambda x: x.sum(axis=0), np.zeros((3, 2)), range(3), None, 10)


def test_distillation_keeps_the_outputs_where_the_loss_alone_moves_them(small):
    def moved(distillation):
        learner = small.learner(distillation=distillation, beta=0.0)
        learner.fit_task(small.blobs(0.0))
        samples = learner.memory[0].inputs
        before = small.forward(learner.params, samples)
        learner.fit_task(small.blobs(np.pi / 2))
        return np.abs(small.forward(learner.params, samples) - before).mean(), learner.params["w1"]

    (plain, w), (held, other) = moved(0.0), moved(1.0)
    assert held < 0.5 * plain
    assert not np.array_equal(w, other)


def test_the_first_task_has_nothing_to_distil(small):
    plain, distilled = small.learner(), small.learner(distillation=5.0)
    for learner in (plain, distilled):
        learner.fit_task(small.blobs(0.0))
    assert_array_equal(plain.params["w1"], distilled.params["w1"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distillation": -0.1}, "distillation as a number of at least 0"),
        ({"distillation": 0.1, "memory_per_class": None}, "memory_per_class=None replays none"),
        ({"distillation": 0.1, "memory_weight": 0}, "memory_weight=0 replays none"),
        ({"distill_heads": 0.1, "memory_weight": 0}, "distill_heads=0.1 .* memory_weight=0 replays none"),
        ({"distill_heads": -0.1}, "distill_heads as a number of at least 0"),
        ({"scale_residual": 1}, "scale_residual as True or False"),
    ],
)
def test_settings_that_make_no_sense(small, settings, message):
    with pytest.raises(SettingError, match=message):
        small.learner(**settings)


def test_a_distilled_run_that_is_resumed_is_the_run_without_interruption(small, tmp_path):
    whole = small.learner(distillation=0.2, scale_residual=True, memory_batch_size=12)
    for task in range(3):
        whole.fit_task(small.blobs(0.5 * task), task)
        if task == 1:
            whole.save(tmp_path / "run")
    params, _ = small.start()
    resumed = type(whole).load(
        tmp_path / "run", params, forward=small.forward, loss=small.cross_entropy, progress=False
    )
    assert (resumed.settings.distillation, resumed.settings.scale_residual) == (0.2, True)
    resumed.fit_task(small.blobs(1.0), 2)
    for name, x in whole.params.items():
        assert_array_equal(resumed.params[name], x)


def test_a_scaled_residual_counts_whole_in_the_middle_and_not_at_all_at_the_ends(small):
    def after(alpha, scale_residual):
        # Logits that do not move: P is the identity, and the line a point.
        learner = small.learner(alpha=alpha, scale_residual=scale_residual, optimizer=SGD(1e-300), beta=0.0)
        learner.fit_task(small.blobs(0.0))
        before = learner.params
        report = learner.fit_task(small.blobs(1.0))
        assert report.moved == 0
        return learner.params["w1"] - before["w1"], report.residual

    whole, norm = after(0.5, False)
    assert_array_equal(after(0.5, True)[0], whole)
    for alpha, share in ((0.85, 0.51), (0.0, 0.0), (1.0, 0.0)):
        delta, scaled = after(alpha, True)
        assert_allclose(delta, share * whole, rtol=1e-9, atol=1e-12)
        assert_allclose(scaled, share * norm, rtol=1e-9)
