"""The experiments, and their finished runs, which are kept and not computed again."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from course import Course
from methods import Method
from metrics import average_accuracy, forgetting
from networks import HeadedResNet18, Perceptron
from tasks import Task, rotated_mnist, split_cifar10, split_cifar100
from torch import nn
from tqdm import tqdm

__all__ = ["EXPERIMENTS", "Experiment", "Runs"]


@dataclass(frozen=True)
class Experiment:
    """A sequence of tasks, and how one learns them."""

    tasks: Callable[[int, int | None], list[Task]]
    count: int
    network: Callable[[int], nn.Module]
    epochs: int
    batch_size: int
    rate: float
    groups: str | None = None


EXPERIMENTS = {
    "rotated-mnist": Experiment(rotated_mnist, 20, lambda width: Perceptron(), 5, 500, 1e-4),
    "split-cifar10": Experiment(split_cifar10, 5, lambda width: HeadedResNet18(5, 2, width), 1, 50, 1e-3, "linear"),
    "split-cifar100": Experiment(split_cifar100, 20, lambda width: HeadedResNet18(20, 5, width), 5, 50, 1e-3, "linear"),
}
FIRST_RATE = 1e-3  # of AdamW on the first task


@dataclass(frozen=True)
class Runs:
    """Runs of one experiment, one file each.

    Attributes
    ----------
    name : str
        Of the experiment.
    folder : Path
        Where the files are.
    tasks, epochs : int
        How many tasks, and passes over the data of each.
    images : int or None
        Training images of a task; None for all.
    width : int
        Channels of a ResNet-18.
    """

    name: str
    folder: Path
    tasks: int
    epochs: int
    images: int | None
    width: int

    def complete(self, methods: Sequence[Method], seeds: Iterable[int]) -> None:
        """Make the runs that are missing, under a progress bar."""
        missing = [(m, seed) for seed in seeds for m in methods if self.read(m, seed) is None]
        if not missing:
            return
        tasks = EXPERIMENTS[self.name].tasks(self.tasks, self.images)
        with tqdm(total=len(missing) * self.tasks) as bar:
            for done, (method, seed) in enumerate(missing):
                bar.set_description(f"{method.name}, seed {seed}")
                self._write(method, seed, tasks, bar.update)
                bar.update(self.tasks * (done + 1) - bar.n)  # a method may not go task by task

    def matrices(self, method: Method, seeds: Iterable[int]) -> np.ndarray:
        """Return the accuracies of all seeds, shape (seeds, tasks, tasks)."""
        found = [self.read(method, seed) for seed in seeds]
        return np.array([run["matrix"] for run in found if run is not None], dtype=float)

    def read(self, method: Method, seed: int) -> dict[str, Any] | None:
        """Return what is known of a run; None where it was not made."""
        file = self._file(method, seed)
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def _write(self, method: Method, seed: int, tasks: list[Task], learned: Callable[[], Any]) -> None:
        """Make one run."""
        experiment = EXPERIMENTS[self.name]
        course = Course(
            tasks=tasks,
            network=lambda: experiment.network(self.width),
            seed=seed,
            epochs=self.epochs,
            batch_size=experiment.batch_size,
            first_rate=FIRST_RATE,
            rate=experiment.rate,
            groups=experiment.groups,
            learned=learned,
        )
        started = time.perf_counter()
        matrix = method(course)
        found = {"matrix": matrix.tolist(), "seconds": time.perf_counter() - started, "settings": str(method.settings)}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file(method, seed).write_text(json.dumps(found), encoding="utf-8")
        tqdm.write(f"{method.name}, seed {seed}: {average_accuracy(matrix):.4f}, {forgetting(matrix):.4f}")

    def _file(self, method: Method, seed: int) -> Path:
        # A run with other settings is another run.
        told = (self.tasks, self.epochs, self.images, self.width, EXPERIMENTS[self.name].rate, str(method.settings))
        digest = hashlib.sha256(repr(told).encode()).hexdigest()[:8]
        return self.folder / f"{self.name}-{method.key}-{seed}-{digest}.json"
