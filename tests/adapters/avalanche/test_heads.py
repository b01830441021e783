"""Task labels, heads of their own, and networks that grow."""

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark, task_incremental_benchmark, with_classes_timeline
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
from avalanche.models import IncrementalClassifier, SimpleMLP, as_multitask
from torch.utils.data import TensorDataset

import rebasin_core as rb

DOMAINS = ([0, 1], 0.0), ([0, 1], 2.0)


@pytest.mark.parametrize("labels", [[0, 1], [1, 0]])
@pytest.mark.parametrize("decorated", [False, True], ids=["module", "as_multitask"])
def test_a_multi_task_model_learns_a_head_per_task(ring, labels, decorated):
    torch.manual_seed(0)
    plain = SimpleMLP(num_classes=2, input_size=2, hidden_size=16)
    model = as_multitask(plain, "classifier") if decorated else ring.TwoTasks()
    benchmark = ring.benchmark(*DOMAINS, labels=labels)
    strategy = ring.strategy(model)
    strategy.train(benchmark.train_stream)
    assert strategy.learner.tasks == tuple(labels)
    assert min(ring.accuracies(strategy, benchmark.test_stream)) > 0.9
    x, task = strategy.learner.memory[0].inputs
    assert x.shape == (10, 2)
    assert set(task) == {labels[0]}


def test_units_of_the_body_are_moved_in_every_head(ring):
    strategy = ring.strategy(ring.TwoTasks())
    strategy.train(ring.benchmark(*DOMAINS, labels=[0, 1]).train_stream)
    graph, model = strategy.learner.graph, strategy.model.eval()
    moved = rb.permute(model, rb.Plan.random(graph, seed=0), graph)
    assert not torch.equal(moved.body.weight, model.body.weight)
    x = ring.points([0, 1])[0]
    for task in (0, 1):
        torch.testing.assert_close(moved(x, task), model(x, task))


def test_an_experience_may_hold_several_tasks(ring):
    """Points of both tasks contradict each other but for their labels."""
    (x0, y0), (x1, y1) = ring.points([0, 1], 0.0), ring.points([0, 1], torch.pi)
    whole = TensorDataset(torch.cat([x0, x1]), torch.cat([y0, y1]))
    labels = [0] * len(y0) + [1] * len(y1)
    data = _make_taskaware_classification_dataset(whole, task_labels=labels, targets=whole.tensors[1].tolist())
    benchmark = dataset_benchmark([data, data], [data])
    strategy = ring.strategy(ring.TwoTasks(masking=False))
    strategy.train(benchmark.train_stream)
    assert strategy.learner.tasks == (None, None)
    assert set(strategy.learner.memory[0].inputs[1]) == {0, 1}
    assert ring.accuracies(strategy, benchmark.test_stream)[0] > 0.9


def test_tasks_made_by_task_incremental_benchmark_carry_their_labels(ring):
    benchmark = with_classes_timeline(task_incremental_benchmark(ring.unlabeled(*DOMAINS)))
    # With masking, Avalanche 0.6 stumbles over the classes of such a benchmark, which are a set.
    strategy = ring.strategy(ring.TwoTasks(masking=False))
    strategy.train(benchmark.train_stream)
    assert strategy.learner.tasks == (0, 1)
    assert min(ring.accuracies(strategy, benchmark.test_stream)) > 0.9


def test_a_classifier_that_grows_keeps_memory_and_reports(ring):
    benchmark = ring.benchmark(([0, 1], 0.0), ([2, 3], 0.0))
    torch.manual_seed(0)
    strategy = ring.strategy(ring.mlp(head=lambda: IncrementalClassifier(16, 2)))
    strategy.train(benchmark.train_stream[0])
    first = strategy.learner
    assert strategy.model[2].classifier.out_features == 2
    strategy.train(benchmark.train_stream[1])
    assert strategy.model[2].classifier.out_features == 4
    assert strategy.model[2].active_units.tolist() == [1, 1, 1, 1]
    assert strategy.learner.reports[0] is first.reports[0]
    assert strategy.learner.memory[0] is first.memory[0]
    assert min(ring.accuracies(strategy, benchmark.test_stream)) > 0.9


@pytest.mark.parametrize("looked_ahead", [False, True], ids=["trained only", "evaluated, too"])
def test_new_units_are_drawn_by_the_seed(ring, looked_ahead):
    benchmark = ring.benchmark(([0, 1], 0.0), ([2, 3], 0.0))
    found = []
    for elsewhere in (1, 2):
        strategy = ring.strategy(ring.mlp(head=lambda: IncrementalClassifier(16, 2)), train_epochs=2)
        strategy.train(benchmark.train_stream[0])
        torch.manual_seed(elsewhere)
        if looked_ahead:  # evaluation lets the network grow, too
            strategy.eval(benchmark.test_stream)
        strategy.train(benchmark.train_stream[1])
        found.append(strategy.learner.params)
    assert all(torch.equal(x, found[1][name]) for name, x in found[0].items())


def test_units_that_a_mask_hides_are_those_of_avalanche(ring):
    """The buffer changes with each experience and no shape does."""
    benchmark = ring.benchmark(([0, 1], 0.0), ([2, 3], 0.0))
    strategy = ring.strategy(ring.mlp(head=lambda: IncrementalClassifier(16, 4)))
    strategy.train(benchmark.train_stream[0])
    assert strategy.learner.params["2.active_units"].tolist() == [1, 1, 0, 0]
    strategy.train(benchmark.train_stream[1])
    assert strategy.learner.params["2.active_units"].tolist() == [1, 1, 1, 1]
    assert min(ring.accuracies(strategy, benchmark.test_stream)) > 0.9
