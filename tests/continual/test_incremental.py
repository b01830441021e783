"""Learning one task after the other, on arrays of NumPy."""

import autograd.numpy as anp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.backends.optimizers import SGD, Adam
from rebasin_core.errors import DataError, NonFiniteError, RebasinError, SettingError, SpecError


def test_the_second_task_is_learned_and_the_first_is_kept_better_than_by_finetuning(small):
    first, second = small.blobs(0.0), small.blobs(np.pi / 2)
    ours = small.learner(beta=0.01)
    finetuned = small.learner(beta=0.0, memory_per_class=None)
    for learner in (ours, finetuned):
        learner.fit_task(first)
        assert learner.evaluate(first) > 0.95
        learner.fit_task(second)
        assert learner.evaluate(second) > 0.9
    assert ours.evaluate(first) > finetuned.evaluate(first) + 0.1
    assert ours.evaluate(first) > 0.9


def test_a_report_says_what_happened(small):
    learner = small.learner()
    report = learner.fit_task(small.blobs(0.0), "spring")
    assert (report.index, report.task, report.steps, report.moved, report.residual) == (0, "spring", 40, 0, 0.0)
    assert len(report.losses) == 20
    assert report.losses[-1] < report.losses[0]
    assert report.remembered == len(learner.memory[0]) == 10
    report = learner.fit_task(small.blobs(1.0), "summer", num_epochs=3)
    assert (report.steps, len(report.losses)) == (6, 3)
    assert report.residual > 0
    assert "task 1 (summer)" in str(report)
    assert learner.tasks == ("spring", "summer")
    assert [memory.task for memory in learner.memory] == ["spring", "summer"]


def test_alpha_0_gives_the_old_model_bit_by_bit_and_alpha_1_the_old_function(small):
    first, second = small.blobs(0.0), small.blobs(1.0)
    still, restless = SGD(1e-300), Adam(0.5)  # no residual to speak of, and permutations that move
    for alpha in (0.0, 1.0):
        learner = small.learner(alpha=alpha, residual_optimizer=still, optimizer=restless, init_scale=0.5)
        learner.fit_task(first)
        before = learner.params
        report = learner.fit_task(second)
        assert report.moved > 0
        if alpha == 0:
            for name, x in before.items():
                assert_array_equal(learner.params[name], x)
        else:
            assert not np.array_equal(learner.params["w1"], before["w1"])
            assert_allclose(
                small.forward(learner.params, first[0]), small.forward(before, first[0]), rtol=1e-10, atol=1e-12
            )


def test_a_soft_plan_may_be_kept_soft(small):
    plans = [
        small.learner(alpha=1.0, hard=hard, residual_optimizer=SGD(1e-300), optimizer=Adam(0.1), init_scale=1.0)
        for hard in (True, False)
    ]
    for learner in plans:
        learner.fit_task(small.blobs(0.0))
        learner.fit_task(small.blobs(1.0))
    hard, soft = (learner.params["b1"] for learner in plans)
    assert soft.std() < 0.9 * hard.std()  # doubly stochastic matrices bring units closer together
    assert_allclose(soft.sum(), hard.sum(), rtol=1e-3)


def test_what_is_kept_of_the_model_before_is_a_share(small):
    whole, half = small.learner(), small.learner(keep=0.5)
    for learner in (whole, half):
        learner.fit_task(small.blobs(0.0))
    before = whole.params
    for learner in (whole, half):
        learner.fit_task(small.blobs(1.0))
    for name, x in before.items():
        assert_allclose(half.params[name], 0.5 * x + 0.5 * whole.params[name], rtol=1e-12, atol=1e-12)


def test_averaged_iterates_are_the_mean_of_those_of_shorter_courses(small):
    def after(epochs, average):
        # One batch that is the whole task: every course of fewer epochs is the beginning of a longer one.
        learner = small.learner(average=average, batch_size=60, alpha=0.0)
        learner.fit_task(small.blobs(0.0))
        learner.fit_task(small.blobs(1.0), num_epochs=epochs)
        return learner.params["w1"]

    lasts = [after(epochs, 0.0) for epochs in (1, 2, 3, 4)]
    # A new order of the same rows sums in another order.
    assert_allclose(after(4, 1.0), np.mean(lasts, axis=0), rtol=1e-9, atol=1e-9)
    assert_allclose(after(4, 0.5), np.mean(lasts[2:], axis=0), rtol=1e-9, atol=1e-9)


def test_the_model_of_the_user_is_never_touched_and_later_changes_to_it_do_not_matter(small):
    params, graph = small.start()
    before = {name: x.copy() for name, x in params.items()}
    learner = small.learner(params, graph)
    for name, x in params.items():
        assert_array_equal(x, before[name])
        x[:] = np.nan
    learner.fit_task(small.blobs(0.0))
    for model in (learner.model, learner.params):
        model["w1"][:] = np.nan
    assert np.isfinite(learner.params["w1"]).all()
    assert learner.evaluate(small.blobs(0.0)) > 0.9


def test_a_model_that_knows_its_first_task_is_not_trained_on_it_again(small):
    teacher = small.learner()
    teacher.fit_task(small.blobs(0.0))
    pupil = small.learner(teacher.params, teacher.graph)
    report = pupil.remember(small.blobs(0.0))
    assert (report.steps, report.remembered, pupil.tasks) == (0, 10, (None,))
    assert_array_equal(pupil.params["w1"], teacher.params["w1"])
    assert_array_equal(pupil.memory[0].inputs, teacher.memory[0].inputs)
    pupil.fit_task(small.blobs(1.0))
    teacher.fit_task(small.blobs(1.0))
    assert_array_equal(pupil.params["w1"], teacher.params["w1"])


def test_the_weight_of_the_memory_trades_the_new_task_for_the_old(small):
    losses = []
    for weight in (0.0, 1.0, 50.0):
        learner = small.learner(memory_weight=weight, beta=0.0)
        first, second = small.blobs(0.0), small.blobs(np.pi / 2)
        learner.fit_task(first)
        learner.fit_task(second)
        losses.append([learner.evaluate(data, metric=small.cross_entropy) for data in (first, second)])
    old, new = np.array(losses).T
    assert old[0] > old[1] > old[2]
    assert new[0] < new[1] < new[2]


def test_heads_are_picked_by_the_task(small):
    params, graph = small.start(extra=True)
    learner = small.learner(params, graph, forward=small.heads, beta=0.01)
    left, right = small.blobs(0.0), small.blobs(0.5, classes=3)
    learner.fit_task(left, "left")
    untouched = learner.params["w3"]
    assert_array_equal(untouched, params["w3"])
    learner.fit_task(right, "right", num_epochs=40)
    assert learner.evaluate(right, "right") > 0.9
    assert learner.evaluate(left, "left") > 0.9
    with pytest.raises(SettingError, match="2 heads, 'left', 'right', and none was named"):
        learner.fit_task(left)
    with pytest.raises(SettingError, match="there is no head 'middle'"):
        learner.evaluate(left, "middle")
    with pytest.raises(DataError, match="unseen class, no head: the targets hold 2, and head 'left'"):
        learner.fit_task(right, "left")
    assert learner.tasks == ("left", "right")


def test_a_loss_that_becomes_nan_leaves_the_model_and_the_memory_as_they_were(small):
    calls = []

    def breaks(outputs, targets):
        calls.append(len(outputs))
        return small.cross_entropy(outputs, targets) * (np.nan if len(calls) == 46 else 1.0)

    learner = small.learner(loss=breaks, memory_per_class=None)
    learner.fit_task(small.blobs(0.0))
    before = learner.params
    with pytest.raises(NonFiniteError, match=r"task 1: the loss is nan at step 5.*still the one before"):
        learner.fit_task(small.blobs(1.0))
    for name, x in before.items():
        assert_array_equal(learner.params[name], x)
    assert learner.tasks == (None,)
    learner.fit_task(small.blobs(1.0))  # and can be learned after all
    assert learner.tasks == (None, None)


def test_numbers_that_leave_the_range_in_the_very_last_step_are_found(small):
    def steep(outputs, targets):
        return 1e4 * small.cross_entropy(outputs, targets)

    learner = small.learner(loss=steep, num_epochs=1, batch_size=60, first_optimizer=SGD(1e308))
    with pytest.raises(NonFiniteError, match="after the last step"), np.errstate(over="ignore"):
        learner.fit_task(small.blobs(0.0))
    assert learner.tasks == ()


def test_batches_of_the_users_own_are_read_too(small):
    x, y = small.blobs(0.0)
    learner = small.learner()
    batches = [(x[i : i + 20], y[i : i + 20]) for i in range(0, 60, 20)]
    assert learner.fit_task(batches, num_epochs=2).steps == 6
    assert learner.fit_task((batch for batch in batches), num_epochs=2).steps == 6
    assert learner.evaluate(batches) == learner.evaluate((x, y))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"alpha": 1.5}, SettingError, "alpha as a number from 0 to 1, got 1.5"),
        ({"beta": -0.1}, SettingError, "beta as a number of at least 0, got -0.1"),
        ({"keep": float("nan")}, SettingError, "keep as a number of at least 0, got nan"),
        ({"tau": 0.0}, SettingError, "tau as a positive number"),
        ({"num_epochs": 0}, SettingError, "num_epochs as a whole number of at least 1"),
        ({"memory_per_class": 0}, SettingError, "memory_per_class=0 would replay nothing.*memory_per_class=None"),
        ({"memory_per_class": -1}, SettingError, "memory_per_class as a whole number of at least 1, got -1"),
        ({"memory_weight": -1.0}, SettingError, "memory_weight"),
        ({"optimizer": 0.1}, SettingError, r"optimizer as rebasin_core.optimizers.Adam\(...\) or SGD\(...\)"),
        ({"hard": 1}, SettingError, "hard as True or False"),
        ({"progress": 2}, SettingError, "progress as True or False"),
        (
            {"groups": ["g"]},
            SpecError,
            r"there is no group 'g'; the groups of this graph, with their sizes: 'h' \(12\)",
        ),
        ({"groups": "h"}, SpecError, "a list of names, got 'h'"),
        ({"groups": []}, SpecError, "no group is left to permute"),
        ({"loss": None}, SettingError, "expected loss as a function"),
        ({"graph": "h"}, SpecError, "expected graph as a PermutationGraph, got str"),
        ({"forward": None}, SpecError, "does not say how to compute"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_any_work(small, settings, error, message):
    params, graph = small.start()
    with pytest.raises(error, match=message):
        small.learner(params, **{"graph": graph, **settings})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.zeros((0, 2)), np.zeros(0, int)), "empty"),
        ([], "no batch|empty"),
        ((np.zeros((4, 2)), np.array([0, 1, 2, 0])), "unseen class, no head: the targets hold 2, and the model"),
        ((np.zeros((4, 2)), np.array([0, 1, -1, 0])), "the targets hold -1"),
        ((np.zeros((4, 2)), np.zeros(3, int)), "differ in length"),
        ((np.zeros((2, 2)), (np.zeros(2), np.zeros(2))), "several arrays"),
        (np.zeros((4, 2)), "cannot read ndarray"),
    ],
)
def test_data_that_cannot_be_learned_are_refused_before_any_work(small, data, message):
    learner = small.learner()
    before = learner.params
    with pytest.raises(DataError, match=message):
        learner.fit_task(data)
    assert learner.tasks == ()
    assert_array_equal(learner.params["w1"], before["w1"])


def test_inputs_of_another_shape_than_those_in_the_memory_are_refused(small):
    def pooled(params, x):
        return small.forward(params, anp.mean(x, axis=1) if x.ndim == 3 else x)

    learner = small.learner(forward=pooled, num_epochs=1)
    x, y = small.blobs(0.0)
    learner.fit_task((x, y))
    with pytest.raises(DataError, match=r"shapes \[\(3, 2\)\] per sample, those of an earlier one \[\(2,\)\]"):
        learner.fit_task((np.stack([x] * 3, axis=1), y))


def test_a_loss_must_return_one_number(small):
    for loss in (lambda outputs, targets: outputs, lambda outputs, targets: "none"):
        with pytest.raises(RebasinError, match="must return"):
            small.learner(loss=loss).fit_task(small.blobs(0.0))


def test_groups_that_were_not_chosen_stay_where_they_are():
    rng = np.random.default_rng(0)
    params = {"w1": rng.normal(size=(5, 2)), "w2": rng.normal(size=(6, 5)), "w3": rng.normal(size=(2, 6))}
    graph = rb.PermutationGraph.from_axes({"w1": "a .", "w2": "b a", "w3": ". b"}, params)
    learner = rb.RebasinIncremental(
        params,
        graph=graph,
        forward=lambda p, x: anp.tanh(x @ p["w1"].T) @ p["w2"].T @ p["w3"].T,
        loss=lambda outputs, targets: anp.mean((outputs - targets) ** 2),
        groups=["b"],
        alpha=1.0,
        optimizer=Adam(0.5),
        init_scale=0.1,
        residual_optimizer=SGD(1e-300),
        progress=False,
    )
    assert learner.graph.groups == {"b": 6}
    x = rng.normal(size=(20, 2))
    learner.remember((x, x))
    assert learner.fit_task((x, -x), num_epochs=20).moved > 0
    assert_array_equal(learner.params["w1"], params["w1"])
    assert not np.array_equal(learner.params["w3"], params["w3"])
