"""What every method is given: tasks, a network, and how long it may learn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tasks import Task
from torch import Tensor, nn

__all__ = ["Course", "accuracies", "picked"]


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Course:
    """What every method is given.

    Attributes
    ----------
    tasks : list of Task
        In their order.
    network : callable
        Makes an untrained network.
    seed : int
        Of its weights, and of everything that is drawn.
    epochs, batch_size : int
        Passes over the data of a task, and images in a step.
    first_rate, rate : float
        Learning rates of AdamW on the first task, and on those after it.
    per_class : int
        Images that are remembered of every class and task.
    groups : str or None
        Which groups a re-basin may permute.
    learned : callable
        Called after every task.
    """

    tasks: list[Task]
    network: Callable[[], nn.Module]
    seed: int
    epochs: int
    batch_size: int
    first_rate: float
    rate: float
    per_class: int = 5
    groups: str | None = None
    learned: Callable[[], Any] = field(default=_nothing, compare=False)

    def start(self) -> nn.Module:
        """Return the network that all methods begin with."""
        torch.manual_seed(self.seed)
        return self.network()

    def matrix(self) -> np.ndarray:
        """Return a matrix for accuracies, all NaN: row k after task k, column j on task j."""
        return np.full((len(self.tasks), len(self.tasks)), np.nan)


def picked(outputs: Any, head: int | None) -> Tensor:
    """Return the output of a head; the output itself where there is only one."""
    return outputs if head is None else outputs[head]


@torch.no_grad()
def accuracies(model: nn.Module, tasks: Sequence[Task], size: int = 1000) -> list[float]:
    """Accuracy on the test images of every task, from 0 to 1."""
    model.eval()
    found = []
    for task in tasks:
        parts = zip(*(values.split(size) for values in task.test), strict=True)
        right = sum(int((picked(model(x), task.head).argmax(1) == y).sum()) for x, y in parts)
        found.append(right / len(task.test[1]))
    return found
