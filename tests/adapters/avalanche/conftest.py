"""Tiny benchmarks: points on a ring, whose angle says which class they are."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

if find_spec("avalanche") is None:
    collect_ignore_glob = ["*"]
else:
    import torch
    from avalanche.benchmarks import benchmark_from_datasets, tensors_benchmark
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
    from avalanche.logging import BaseLogger
    from avalanche.models import MultiHeadClassifier, MultiTaskModule
    from avalanche.training.plugins import EvaluationPlugin
    from rebasin_avalanche import RebasinStrategy

    from rebasin_core.backends.optimizers import Adam

    class TwoTasks(MultiTaskModule):
        """A shared body, and a head for every task label that comes."""

        def __init__(self, width=16, masking=True):
            super().__init__()
            self.body = torch.nn.Linear(2, width)
            self.classifier = MultiHeadClassifier(width, 2, masking=masking)

        def forward(self, x, task_labels):
            return self.classifier(torch.relu(self.body(x)), task_labels)


def points(classes, angle=0.0, n=40, seed=0):
    """Points around the directions of some of four classes, all of them turned by an angle."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes).repeat(n // len(classes))
    at = angle + y * torch.pi / 2
    return 2.0 * torch.stack([at.cos(), at.sin()], 1) + 0.3 * torch.randn(len(y), 2, generator=generator), y


def benchmark(*tasks, labels=None, **settings):
    """One experience per (classes, angle), tested on other points."""
    return tensors_benchmark(
        train_tensors=[points(*task) for task in tasks],
        test_tensors=[points(*task, seed=1) for task in tasks],
        task_labels=[0] * len(tasks) if labels is None else labels,
        **settings,
    )


def unlabeled(*tasks):
    """A benchmark of the newer kind, whose experiences have no task labels."""
    data = []
    for task in tasks:
        whole = torch.utils.data.TensorDataset(*points(*task))
        whole.targets = whole.tensors[1].tolist()
        data.append(as_classification_dataset(whole))
    return benchmark_from_datasets(train=data, test=data)


def mlp(outputs=4, seed=0, head=None):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        last = torch.nn.Linear(16, outputs) if head is None else head()
        return torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), last)


def evaluator(*metrics):
    return EvaluationPlugin(
        accuracy_metrics(experience=True, stream=True),
        forgetting_metrics(experience=True, stream=True),
        *metrics,
        loggers=[BaseLogger()],
    )


def strategy(model=None, metrics=(), **settings):
    given = {
        "train_epochs": 40,
        "train_mb_size": 40,
        "beta": 0.01,
        "first_optimizer": Adam(0.02),
        "evaluator": evaluator(*metrics),
        "progress": False,
    }
    return RebasinStrategy(model=mlp() if model is None else model, **{**given, **settings})


def accuracies(strategy, stream):
    """Of each experience, after what was learned so far."""
    found = []
    for experience in stream:
        values = strategy.eval(experience)
        (value,) = (x for name, x in values.items() if name.startswith("Top1_Acc_Stream"))
        strategy.evaluator.reset_last_metrics()
        found.append(value)
    return found


@pytest.fixture(scope="session")
def ring():
    return SimpleNamespace(
        points=points,
        benchmark=benchmark,
        unlabeled=unlabeled,
        mlp=mlp,
        strategy=strategy,
        evaluator=evaluator,
        accuracies=accuracies,
        TwoTasks=TwoTasks,
    )
