"""Plain training of the weights, with or without a memory: what a re-basin has to be compared with."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from course import Course, accuracies, picked
from tasks import Task
from torch import Tensor, nn

import rebasin_core as rb
from rebasin_core.continual.memory import Picker

__all__ = ["Memory", "joint", "measured", "replay"]

MOST = 500  # images of the memory in a step


class Memory:
    """A few images of every class of every task: the same ones that a re-basin with this seed remembers."""

    def __init__(self, course: Course, generator: torch.Generator) -> None:
        self.per_class, self.seed, self.generator = course.per_class, course.seed, generator
        self.x, self.y = torch.empty(0), torch.empty(0, dtype=torch.int64)
        self.heads: list[int | None] = []

    def add(self, task: Task, index: int) -> None:
        """Draw images of a task, which has this number in its course."""
        x, y = task.train
        # Which few images are kept is luck, and no part of the comparison.
        picker = Picker(self.per_class, np.random.default_rng([self.seed, index, 0]))
        picker.add(np.arange(len(y)), y.numpy())
        rows = torch.as_tensor(picker.memory(task.head).inputs)
        self.x, self.y = (torch.cat([a, b[rows]]) if len(self.y) else b[rows] for a, b in ((self.x, x), (self.y, y)))
        self.heads += [task.head] * len(rows)

    def draw(self) -> Tensor:
        """Places of the images for one step."""
        return torch.randperm(len(self.y), generator=self.generator)[:MOST]

    def outputs(self, model: nn.Module) -> Tensor:
        """What a model says of every image, by its head."""
        model.eval()
        with torch.no_grad():
            return torch.cat(
                [self.of_heads(model(self.x[rows]), rows) for rows in torch.arange(len(self.y)).split(MOST)]
            )

    def of_heads(self, outputs: Tensor | list[Tensor], rows: Tensor) -> Tensor:
        """Outputs of the head that each of these images belongs to."""
        if isinstance(outputs, Tensor):
            return outputs
        heads = torch.tensor([self.heads[row] for row in rows.tolist()])
        return torch.stack(outputs, 1)[torch.arange(len(rows)), heads]


def replay(
    course: Course,
    weight: float = 1.0,
    average: float = 0.0,
    keep: float = 0.0,
    distillation: float = 0.0,
    distill_heads: float = 0.0,
    rate: float | None = None,
) -> np.ndarray:
    """Train on every batch together with images of past tasks.

    Parameters
    ----------
    course : Course
        What is learned.
    weight : float, default 1.0
        What the memory's loss counts beside the current one's; 0 is finetuning.
    average : float, default 0.0
        Share of a task's last steps whose weights are averaged.
    keep : float, default 0.0
        Share of the weights before the task in those after it.
    distillation : float, default 0.0
        What the squared distance to the memory's outputs before the task counts beside the memory's loss.
    distill_heads : float, default 0.0
        What the squared distance to the outputs of the other heads before the task counts beside its loss.
    rate : float, optional
        Learning rate after the first task; default: that of the course.
    """
    model, found = course.start(), course.matrix()
    generator = torch.Generator().manual_seed(course.seed)
    memory = Memory(course, generator)
    for k, task in enumerate(course.tasks):
        past = memory if k and weight else None
        before = [p.detach().clone() for p in model.parameters()]
        teacher = past.outputs(model) if past and distillation else None
        old = copy.deepcopy(model).eval() if past and distill_heads else None
        speed = (rate or course.rate) if k else course.first_rate
        mean = Mean(average if k else 0.0, course.epochs * -(-len(task.train[1]) // course.batch_size))
        optimizer = torch.optim.AdamW(model.parameters(), speed)
        model.train()
        for x, y in batches(task, course, generator):
            optimizer.zero_grad()
            value = loss(model, x, y, task.head, past, weight, teacher, distillation)
            if old is not None:
                heads = [past_task.head for past_task in course.tasks[:k]]
                value = value + distill_heads * heads_moved(model, old, x, heads) / (1.0 + weight)
            value.backward()
            optimizer.step()
            mean.add(model)
        with torch.no_grad():
            for p, new, old in zip(model.parameters(), mean.values or model.parameters(), before, strict=True):
                p.copy_(torch.lerp(new, old, keep if k else 0.0))
        model = measured(model, [task], course, past, generator)
        memory.add(task, k)
        found[k, : k + 1] = accuracies(model, course.tasks[: k + 1])
        course.learned()
    return found


def joint(course: Course) -> np.ndarray:
    """Train on the data of all tasks together, a batch of one task at a time: what no memory can be better than."""
    model, found = course.start(), course.matrix()
    generator = torch.Generator().manual_seed(course.seed)
    optimizer = torch.optim.AdamW(model.parameters(), course.first_rate)
    model.train()
    streams = [batches(task, course, generator) for task in course.tasks]
    for parts in zip(*streams, strict=False):
        # Every step sees all tasks: batches as large together as one of the other methods, and as many steps.
        take = -(-course.batch_size // len(course.tasks))
        for start in range(0, min(len(y) for _, y in parts), take):
            optimizer.zero_grad()
            rows = slice(start, start + take)
            outputs = model(torch.cat([x[rows] for x, _ in parts]))
            total, at = torch.zeros(()), 0
            for task, (_, y) in zip(course.tasks, parts, strict=True):
                n = len(y[rows])
                mine = picked(outputs, task.head)[at : at + n]
                total, at = total + nn.functional.cross_entropy(mine, y[rows]) / len(parts), at + n
            total.backward()
            optimizer.step()
    found[-1] = accuracies(measured(model, course.tasks, course, None, generator), course.tasks)
    return found


def batches(
    task: Task, course: Course, generator: torch.Generator, epochs: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of a task, in a new order for every epoch."""
    x, y = task.train
    for _ in range(course.epochs if epochs is None else epochs):
        for rows in torch.randperm(len(y), generator=generator).split(course.batch_size):
            yield x[rows], y[rows]


def loss(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    head: int | None,
    memory: Memory | None,
    weight: float,
    teacher: Tensor | None,
    distillation: float,
) -> Tensor:
    """Cross-entropy of a batch and of the memory, which counts `weight`; both are divided by the sum."""
    if memory is None:
        return nn.functional.cross_entropy(picked(model(x), head), y)
    rows = memory.draw()
    outputs = model(torch.cat([x, memory.x[rows]]))
    n = len(y)
    current = nn.functional.cross_entropy(picked(outputs, head)[:n], y)
    old = memory.of_heads(outputs[n:] if isinstance(outputs, Tensor) else [out[n:] for out in outputs], rows)
    past = nn.functional.cross_entropy(old, memory.y[rows])
    if teacher is not None:
        past = past + distillation * (old - teacher[rows]).square().sum(1).mean()
    return (current + weight * past) / (1.0 + weight)


def heads_moved(model: nn.Module, old: nn.Module, x: Tensor, heads: list[int | None]) -> Tensor:
    """Squared distance of the outputs of some heads to those of another model, summed over the heads."""
    with torch.no_grad():
        before = old(x)
    now, gap = model(x), torch.zeros(())
    for head in heads:
        gap = gap + (picked(now, head) - picked(before, head)).square().sum(1).mean()
    return gap


class Mean:
    """Average of the weights over the last share of a number of steps."""

    def __init__(self, share: float, steps: int) -> None:
        self.first, self.step, self.values = steps - int(share * steps), 0, list[Tensor]()

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Take the weights after one more step."""
        self.step += 1
        count = self.step - self.first
        if count == 1:
            self.values = [p.detach().clone() for p in model.parameters()]
        elif count > 1:
            for mean, p in zip(self.values, model.parameters(), strict=True):
                mean.lerp_(p, 1.0 / count)


def measured(
    model: nn.Module, tasks: Sequence[Task], course: Course, memory: Memory | None, generator: torch.Generator
) -> nn.Module:
    """Re-estimate the statistics of batch normalization, on what was learned from, as the library does.

    Averaged weights need it; and after the few steps of a short task, the layers' own moving averages lag behind.
    """
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()):
        return model
    found = []
    for task in tasks:
        for x, y in batches(task, course, generator, epochs=1):
            found.append((x if memory is None else torch.cat([x, memory.x[memory.draw()]]), y))
    return rb.reestimate(model, found)
