"""One task from its data to the next model: read, learn, measure statistics, remember."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rebasin_core.backends.dtypes import is_floating
from rebasin_core.backends.protocol import Array
from rebasin_core.backends.scalars import as_number
from rebasin_core.continual.cost import Params
from rebasin_core.continual.course import Course
from rebasin_core.continual.heads import check_classes, check_task, pick
from rebasin_core.continual.learning import Network, rebase, train
from rebasin_core.continual.memory import Head, Picker, TaskMemory
from rebasin_core.continual.nested import map_leaves
from rebasin_core.continual.replay import Replay
from rebasin_core.continual.report import TaskReport
from rebasin_core.continual.settings import Settings
from rebasin_core.continual.task_data import TaskData
from rebasin_core.errors import NonFiniteError, SpecError
from rebasin_core.line.reestimation import reestimate_params
from rebasin_core.models.batch_norms import find_batch_norms
from rebasin_core.models.data import Batch, Batches
from rebasin_core.models.data import batch_size as count
from rebasin_core.models.model import Model
from rebasin_core.support.progress import progress_bar

__all__ = ["Episode", "Outcome", "score"]


@dataclass(frozen=True)
class Outcome:
    """The model after a task, what is remembered of it, and what happened."""

    params: Params
    memory: tuple[TaskMemory, ...]
    report: TaskReport


@dataclass(frozen=True)
class Episode:
    """The learning of one task.

    Attributes
    ----------
    model : Model
        How to compute with parameters.
    network : Network
        What is optimized.
    settings : Settings
        How.
    params : dict of str to array
        The model before.
    memory : tuple of TaskMemory
        Of the tasks before.
    index : int
        Number of the task, from 0; what it draws depends on the seed and this number alone.
    task : int, str or None
        Its head, or its label.
    """

    model: Model
    network: Network
    settings: Settings
    params: Params
    memory: tuple[TaskMemory, ...]
    index: int
    task: Head

    def remember(self, data: Any) -> Outcome:
        """Choose samples of a task that the model knows."""
        started = time.perf_counter()
        with self.model.keep_random_state(self._seed()):
            _, memory = self._inspect(data)
        seconds, remembered = time.perf_counter() - started, sum(map(len, memory))
        return Outcome(self.params, memory, TaskReport(self.index, self.task, 0, (), seconds, 0, 0.0, remembered))

    def learn(self, data: Any, epochs: int, progress: bool) -> Outcome:
        """Learn the task; see `RebasinIncremental.fit_task`."""
        started = time.perf_counter()
        settings, title = self.settings, f"task {self.index}"
        moved, residual = 0, 0.0
        with self.model.keep_random_state(self._seed()):
            read, memory = self._inspect(data)
            rng = np.random.default_rng([settings.seed, self.index, 1])
            samples = self._joined(read.stream(rng), rng, taught=True)
            with progress_bar(read.steps * epochs, title, progress) as bar:
                course = Course(read.steps, epochs, settings.average, bar)
                try:
                    if self.index == 0:
                        params = train(self.network, self.params, settings, samples, course)
                    else:
                        params, moved, residual = rebase(self.network, self.params, settings, samples, course)
                except NonFiniteError as error:
                    raise NonFiniteError(f"{title}: {error} The model is still the one before this task") from None
            params = self._measured(params, self._joined(read.once(), rng))
        report = TaskReport(
            index=self.index,
            task=self.task,
            steps=course.steps,
            losses=course.losses,
            seconds=time.perf_counter() - started,
            moved=moved,
            residual=residual,
            remembered=sum(map(len, memory)),
        )
        return Outcome(params, memory, report)

    def _inspect(self, data: Any) -> tuple[TaskData, tuple[TaskMemory, ...]]:
        """Read the data once; refuse what cannot be learned; choose what is remembered."""
        check_task(self.task)
        read = _task_data(self.model, data, self.settings)
        per_class = self.settings.memory_per_class
        rng = np.random.default_rng([self.settings.seed, self.index, 0])
        picker = None if per_class is None else Picker(per_class, rng)
        sample, classes = read.inspect(picker)
        check_classes(pick(self.model.forward(self.params, sample), self.task), classes, self.task)
        return read, () if picker is None else (picker.memory(self.task),)

    def _joined(self, batches: Iterator[Batch], rng: np.random.Generator, taught: bool = False) -> Iterator[Any]:
        settings = self.settings
        taught = taught and max(settings.distillation, settings.distill_heads) > 0
        teacher = partial(self.model.forward, self.params) if taught else None
        replay = Replay(
            self.memory, settings.memory_weight, settings.memory_batch_size, rng, teacher, settings.distill_heads
        )
        return (replay.join(batch, self.task) for batch in batches)

    def _measured(self, params: Params, samples: Iterator[Any]) -> Params:
        """Re-estimate running statistics, on batches as they were learned from."""
        try:
            norms = find_batch_norms(self.model)
        except SpecError:  # arrays, or a function of the user's, do not say what is a statistic
            norms = None
        return params if norms is None else reestimate_params(self.model, params, Batches(samples))

    def _seed(self) -> int:
        return int(np.random.SeedSequence([self.settings.seed, self.index]).generate_state(1)[0])


def score(model: Model, params: Params, settings: Settings, data: Any, task: Head, metric: Any) -> float:
    """Mean of a metric over data; see `RebasinIncremental.evaluate`."""
    check_task(task)
    measure = model.adapter.metric(model.source, metric)
    total, samples = 0.0, 0
    with model.keep_random_state():
        forward = model.forward
        for inputs, targets in _task_data(model, data, settings).once():
            n = count((inputs, targets))
            value = as_number(measure(pick(forward(params, inputs), task), targets), repr(metric))
            total, samples = total + n * value, samples + n
    return total / samples


def _task_data(model: Model, data: Any, settings: Settings) -> TaskData:
    """Data of which NumPy arrays come as the model's framework has them, floats in the dtype of its weights."""
    backend = model.backend
    like = next(x for x in model.params.values() if is_floating(backend.dtype(x)))

    def convert(x: Array) -> Array:
        if not isinstance(x, np.ndarray) or backend.name == "numpy":
            return x
        return backend.asarray(x, like=like, dtype=None if x.dtype.kind == "f" else str(x.dtype))

    return TaskData(data, settings.batch_size, lambda values: map_leaves(convert, values))
