"""What is refused, before any work, and what the message says to type instead."""

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EarlyStoppingPlugin, EWCPlugin, LRSchedulerPlugin, LwFPlugin, ReplayPlugin

from rebasin_core.backends.optimizers import Adam
from rebasin_core.errors import DataError, NonFiniteError, SettingError, SpecError, UnsupportedModelError


@pytest.mark.parametrize(
    ("plugin", "callback"),
    [
        (lambda: EWCPlugin(1.0), "before_backward"),
        (lambda: LwFPlugin(), "before_backward"),
        (lambda: EarlyStoppingPlugin(1, "test_stream"), "after_training_epoch|before_training_iteration"),
        (lambda: LRSchedulerPlugin(_scheduler()), "after_training_epoch"),
    ],
    ids=["EWC", "LwF", "early stopping", "scheduler"],
)
def test_plugins_that_would_do_nothing(ring, plugin, callback):
    with pytest.raises(SettingError, match=callback):
        ring.strategy(plugins=[ReplayPlugin(10), plugin()])


def _scheduler():
    return torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))


def test_an_evaluator_among_the_plugins(ring):
    with pytest.raises(SettingError, match=r"EvaluationPlugin .* metrics belong into evaluator="):
        ring.strategy(plugins=[ring.strategy().evaluator])


@pytest.mark.parametrize("name", ["optimizer", "residual_optimizer", "first_optimizer"])
def test_optimizers_of_torch(ring, name):
    model = ring.mlp()
    with pytest.raises(SettingError, match=rf"{name} came as a torch.optim.SGD.*rebasin_core.optimizers.Adam\(0.01\)"):
        ring.strategy(model, **{name: torch.optim.SGD(model.parameters(), lr=0.1)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_every": 1}, "eval_every as -1 .* or 0"),
        ({"alpha": 2.0}, "alpha as a number from 0 to 1"),
        ({"memory_per_class": 0}, "memory_per_class=None"),
        ({"train_epochs": 0}, "train_epochs as a whole number"),
        ({"train_mb_size": 0}, "train_mb_size as a whole number"),
        ({"criterion": "cross_entrepy"}, "cross_entrepy"),
        ({"criterion": torch.nn.CrossEntropyLoss}, "with brackets"),
    ],
)
def test_settings_are_checked_at_once(ring, settings, message):
    with pytest.raises(SettingError, match=message):
        ring.strategy(**settings)


def test_a_setting_that_does_not_exist(ring):
    with pytest.raises(TypeError, match="unexpected keyword argument: aplha"):
        ring.strategy(aplha=0.5)


def test_groups_that_do_not_exist_before_anything_is_learned(ring):
    strategy = ring.strategy(groups=["layer7"])
    with pytest.raises(SpecError, match="there is no group 'layer7'"):
        strategy.train(ring.benchmark(([0, 1], 0.0)).train_stream)
    assert strategy.learner is None


def test_models_of_another_kind(ring):
    with pytest.raises(UnsupportedModelError, match="mapping"):
        ring.strategy({"w": torch.zeros(2, 2)})


def test_pieces_of_an_online_stream(ring):
    online = split_online_stream(ring.unlabeled(([0, 1], 0.0)).train_stream, experience_size=10)
    with pytest.raises(DataError, match=r"online stream.*train\(benchmark.train_stream\)"):
        ring.strategy().train(online)


def test_a_multi_task_model_without_task_labels(ring):
    benchmark = ring.unlabeled(([0, 1], 0.0))
    with pytest.raises(DataError, match="task_incremental_benchmark"):
        ring.strategy(ring.TwoTasks()).train(benchmark.train_stream)


def test_a_model_that_grows_where_nothing_says_which_classes_come(ring):
    strategy = ring.strategy(ring.mlp(head=lambda: IncrementalClassifier(16, 2)))
    with pytest.raises(DataError, match=r"with_classes_timeline\(benchmark\)"):
        strategy.train(ring.unlabeled(([0, 1], 0.0)).train_stream)


def test_a_class_the_model_has_no_output_for(ring):
    strategy = ring.strategy(ring.mlp(outputs=2))
    benchmark = ring.benchmark(([0, 1], 0.0), ([2, 3], 0.0))
    strategy.train(benchmark.train_stream[0])
    with pytest.raises(DataError, match="unseen class"):
        strategy.train(benchmark.train_stream[1])


def test_no_batch_is_left(ring):
    with pytest.raises(DataError, match="drop_last=True"):
        ring.strategy(train_mb_size=100).train(ring.benchmark(([0, 1], 0.0)).train_stream, drop_last=True)


def test_a_loss_that_is_no_number_leaves_everything_as_it_was(ring):
    benchmark = ring.benchmark(([0, 1], 0.0), ([2, 3], 0.0))
    strategy = ring.strategy(residual_optimizer=Adam(1e30))
    strategy.train(benchmark.train_stream[0])
    before = {name: x.clone() for name, x in strategy.model.state_dict().items()}
    with pytest.raises(NonFiniteError, match="task 1"):
        strategy.train(benchmark.train_stream[1])
    assert all(torch.equal(x, before[name]) for name, x in strategy.model.state_dict().items())
    assert len(strategy.learner.reports) == len(strategy.learner.memory) == 1
