"""Replay: every batch of the current task together with samples of the tasks before.

The samples are computed with in one pass of the network, behind the batch; so layers that normalise by the batch see
current and past samples together, as their statistics will be measured in the end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_floating
from rebasin_core.backends.protocol import Array
from rebasin_core.continual.distillation import Teacher, outputs_of
from rebasin_core.continual.heads import pick
from rebasin_core.continual.memory import Head, TaskMemory
from rebasin_core.continual.nested import flatten, take_rows, unflatten
from rebasin_core.errors import DataError, SettingError
from rebasin_core.models.data import Batch
from rebasin_core.models.data import batch_size as count

__all__ = ["Part", "Replay"]


@dataclass(frozen=True)
class Part:
    """Rows ``start`` to ``stop`` of the outputs: whose they are, their targets, and what their mean loss counts.

    `before` are the outputs of these rows before the task, where they are distilled; without targets, the distance to
    them is all that counts.
    """

    head: Head
    targets: Any
    start: int
    stop: int
    weight: float
    before: Any = None


class Replay:
    """Adds the memory to batches.

    Parameters
    ----------
    memories : sequence of TaskMemory
        Of the tasks before.
    weight : float, optional
        What the mean loss over past tasks counts beside that of the current task, dimensionless; default: as many times
        as there are past tasks, which gives the average over all tasks. The weights of a batch sum to 1.
    size : int
        Most samples of the memory per batch; where there are more, as many of every task are drawn.
    rng : numpy.random.Generator
        Draws them.
    teacher : callable, optional
        The model before the task, asked once what it says of the memory, where that is to be distilled.
    heads : float, default 0.0
        What the teacher's outputs of every past head on the samples of the current task count beside its loss.
    """

    def __init__(
        self,
        memories: Sequence[TaskMemory],
        weight: float | None,
        size: int,
        rng: np.random.Generator,
        teacher: Teacher | None = None,
        heads: float = 0.0,
    ) -> None:
        past = 0.0 if not memories else float(len(memories)) if weight is None else float(weight)
        self._current, self._past = 1.0 / (1.0 + past), past / (1.0 + past)
        self._rng, self._size, self._teacher, self._heads = rng, size, teacher, heads
        everything = sum(map(len, memories)) <= size
        share = max(1, size // max(1, len(memories)))
        # Tasks of one head with as many samples each are one part: the mean over all samples is the mean over tasks.
        self._buckets: dict[tuple[Head, int], list[TaskMemory]] = {}
        for memory in memories if past else ():
            taken = len(memory) if everything else min(len(memory), share)
            self._buckets.setdefault((memory.task, taken), []).append(memory)
        self._tasks = len(memories)
        self._rows = [(len(memory), taken) for (_, taken), found in self._buckets.items() for memory in found]
        self._arrays: tuple[list[Array], list[Array], list[Array]] | None = None

    def join(self, batch: Batch, head: Head) -> tuple[Any, list[Part]]:
        """Return the inputs of batch and memory together, and what belongs to whom.

        Raises
        ------
        DataError
            The inputs of the current task have another structure or shape than those in the memory.
        """
        inputs, targets = batch
        n = count(batch)
        parts = [Part(head, targets, 0, n, self._current)]
        if not self._buckets:
            return inputs, parts
        leaves, structure = flatten(inputs)
        past_inputs, past_targets, past_outputs = self._like(leaves, structure, targets)
        rows, starts = self._draw()
        if rows is not None:
            past_inputs = [take_rows(x, rows) for x in past_inputs]
        joined = [get_backend(x).concat([x, past], 0) for x, past in zip(leaves, past_inputs, strict=True)]
        at = 0
        for i, ((owner, taken), found) in enumerate(self._buckets.items()):
            size, values = taken * len(found), past_targets[i]
            before = past_outputs[i] if past_outputs else None
            if rows is not None:
                # Rows count through the whole memory, targets through their bucket.
                mine = rows[at : at + size] - starts[at]
                values, before = take_rows(values, mine), None if before is None else take_rows(before, mine)
            weight = self._past * len(found) / self._tasks
            parts.append(Part(owner, values, n + at, n + at + size, weight, before))
            at += size
        if self._teacher is not None and self._heads:
            parts += self._other_heads(self._teacher(inputs), head, n)
        return unflatten(joined, structure), parts

    def _other_heads(self, said: Any, head: Head, n: int) -> list[Part]:
        """The current samples once more per past head: what the teacher says of them there is to stay."""
        if not isinstance(said, (Mapping, tuple, list)):
            raise SettingError(
                f"distill_heads={self._heads!r} keeps what other heads say of a task's samples, and the model has one "
                f"output for all tasks; leave it out"
            )
        owners = dict.fromkeys(owner for owner, _ in self._buckets if owner != head)
        weight = self._current * self._heads
        return [Part(owner, None, 0, n, weight, _constant(pick(said, owner))) for owner in owners]

    def _draw(self) -> tuple[np.ndarray[Any, Any] | None, np.ndarray[Any, Any]]:
        """Rows of the memory to take, None for all of them; and per row where its bucket begins."""
        if all(taken == length for length, taken in self._rows):
            return None, np.empty(0, dtype=np.int64)
        rows, starts, before = [], [], 0
        for (_, taken), found in self._buckets.items():
            begin = before
            for memory in found:
                rows.append(before + np.sort(self._rng.permutation(len(memory))[:taken]))
                starts.append(np.full(taken, begin))
                before += len(memory)
        return np.concatenate(rows), np.concatenate(starts)

    def _like(self, leaves: list[Array], structure: Any, targets: Any) -> tuple[list[Array], list[Array], list[Array]]:
        """The memory as arrays like those of a batch, and what the teacher says of it, made at the first one."""
        if self._arrays is not None:
            return self._arrays
        past = [memory for found in self._buckets.values() for memory in found]
        columns = []
        for memory in past:
            values, theirs = flatten(memory.inputs)
            shapes, wanted = ([tuple(x.shape)[1:] for x in arrays] for arrays in (values, leaves))
            if theirs != structure or shapes != wanted:
                raise DataError(
                    f"inputs of this task have shapes {wanted} per sample, those of an earlier one {shapes}; they go "
                    f"through the network together. Bring them to one shape, or pass memory_weight=0 to replay none"
                )
            columns.append(values)
        inputs = [
            get_backend(x).asarray(np.concatenate(column), like=x)
            for x, column in zip(leaves, zip(*columns, strict=True), strict=True)
        ]
        like = targets if hasattr(targets, "shape") else leaves[0]
        joined = [np.concatenate([memory.targets for memory in found]) for found in self._buckets.values()]
        outputs = [] if self._teacher is None else self._asked(self._teacher, unflatten(inputs, structure))
        self._arrays = inputs, [_as_targets(values, like) for values in joined], outputs
        return self._arrays

    def _asked(self, teacher: Teacher, inputs: Any) -> list[Array]:
        """Outputs of the teacher on the whole memory, bucket by bucket."""
        outputs, at = [], 0
        for (owner, _), found in self._buckets.items():
            rows = range(at, at := at + sum(map(len, found)))
            outputs.append(outputs_of(teacher, inputs, rows, owner, self._size))
        return outputs


def _constant(x: Array) -> Array:
    return get_backend(x).stop_gradient(x)


def _as_targets(values: np.ndarray[Any, Any], like: Array) -> Array:
    """Targets of the memory, of the dtype of the batch's where both are whole numbers, or both are not."""
    backend = get_backend(like)
    alike = (values.dtype.kind == "f") == is_floating(backend.dtype(like))
    return backend.asarray(values, like=like, dtype=None if alike else str(values.dtype))
