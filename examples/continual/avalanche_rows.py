"""Rows of the table that Avalanche computes: finetuning, EWC, LwF and A-GEM.

The strategies are Avalanche's own, of version 0.6.0. Two things are done around them, as they would take longer than
the training: batches are cut from whole tensors instead of put together image by image, and accuracies are measured by
`course.accuracies`, without Avalanche's evaluation and logging. As for all other rows, the statistics of batch
normalization are re-estimated before that.
"""

import importlib.util
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from course import Course, accuracies, picked
from replaying import measured
from tasks import Task
from torch import Tensor, nn

__all__ = ["HINT", "avalanche", "is_installed"]

HINT = 'They are computed by Avalanche: pip install -e ".[avalanche]"'


def is_installed() -> bool:
    """Whether Avalanche is there."""
    return importlib.util.find_spec("avalanche") is not None


class Batches:
    """Batches of one task, with its label, in a new order every time."""

    def __init__(self, task: Task, size: int, generator: torch.Generator) -> None:
        self.task, self.size, self.generator = task, size, generator

    def __len__(self) -> int:
        return -(-len(self.task.train[1]) // self.size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        x, y = self.task.train
        for rows in torch.randperm(len(y), generator=self.generator).split(self.size):
            yield [x[rows], y[rows], torch.full((len(rows),), self.task.head or 0)]


def avalanche(course: Course, strategy: str, **settings: Any) -> np.ndarray:
    """Learn with a strategy of Avalanche.

    Parameters
    ----------
    course : Course
        What is learned.
    strategy : {"Naive", "EWC", "LwF", "AGEM"}
        Its class in ``avalanche.training.supervised``.
    **settings
        Of the strategy.
    """
    with warnings.catch_warnings():
        # Of its optional solvers, of which none is needed here.
        warnings.simplefilter("ignore")
        from avalanche.benchmarks import tensors_benchmark
        from avalanche.models import MultiTaskModule
        from avalanche.training import supervised
        from avalanche.training.plugins import EvaluationPlugin

    class Headed(MultiTaskModule):
        """A network with a head per task, asked by the task's label."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
            return picked(self.network(x), task_label)

    generator = torch.Generator().manual_seed(course.seed)

    class Fast(getattr(supervised, strategy)):  # type: ignore[misc]
        """The strategy, on whole tensors."""

        def make_train_dataloader(self, **given: Any) -> None:
            self.dataloader = Batches(course.tasks[self.experience.current_experience], course.batch_size, generator)

    if strategy == "AGEM":
        settings["patterns_per_exp"] = course.per_class * len(course.tasks[0].train[1].unique())
    network, found = course.start(), course.matrix()
    random.seed(course.seed)  # which images A-GEM remembers
    headed = course.tasks[0].head is not None
    optimizer = torch.optim.AdamW(network.parameters(), course.first_rate)
    learner = Fast(
        model=Headed(network) if headed else network,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=course.batch_size,
        train_epochs=course.epochs,
        evaluator=EvaluationPlugin(loggers=[]),
        **settings,
    )
    stream = tensors_benchmark(
        train_tensors=[task.train for task in course.tasks],
        test_tensors=[task.test for task in course.tasks],
        task_labels=[task.head or 0 for task in course.tasks],
    ).train_stream
    for k, (task, experience) in enumerate(zip(course.tasks, stream, strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = course.rate if k else course.first_rate
        learner.train(experience)
        found[k, : k + 1] = accuracies(measured(network, [task], course, None, generator), course.tasks[: k + 1])
        course.learned()
    return found
