"""The rows of the table: every method with its settings, for perceptrons and for convolutional networks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from avalanche_rows import avalanche
from course import Course, accuracies
from replaying import joint, replay

import rebasin_core as rb
from rebasin_core.backends.optimizers import SGD, Adam

__all__ = ["Method", "methods", "rebasin"]

# Nothing beyond the paper's Eq. 10 to 12: the memory counts as many times as there are past tasks.
PAPER = {"init_scale": 5.0, "optimizer": Adam(0.1), "residual_optimizer": SGD(0.05, clip_value=0.001)}
TRICKS = {"average": 0.2, "keep": 0.5}
WEIGHTED = {"memory_weight": 3.0, **TRICKS}
# The residual is scaled with the place on the line instead: at 0.85 about a half of it is added.
TUNED = {
    "alpha": 0.85,
    "beta": 0.001,
    "memory_weight": 3.0,
    "average": 0.2,
    "scale_residual": True,
    "init_scale": 10.0,
    "optimizer": Adam(0.03),
}
# Steps ten times as long, the memory counted once, and about a third of what was learned goes into the next model.
FAST = {"memory_weight": 1.0, "average": 0.5, "distillation": 0.1}
# With a head per task, what the old heads say of a new task's images is held too.
HEADS = {"memory_weight": 1.0, "average": 0.5, "keep": 0.0, "distillation": 0.1, "distill_heads": 0.6}
# The first settings that were tried with heads: held half as much, the residual whole.
LIGHTER = {**HEADS, "average": 0.2, "distill_heads": 0.3}
# At this height the soft permutations are the identity to the last digit, and no gradient reaches the logits.
FROZEN = {"init_scale": 200.0}


@dataclass(frozen=True)
class Method:
    """A row of the table: its short and its long name, its function and what that is told."""

    key: str
    name: str
    function: Callable[..., np.ndarray]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_avalanche(self) -> bool:
        """Whether Avalanche computes it."""
        return self.function is avalanche

    def __call__(self, course: Course) -> np.ndarray:
        """Return the matrix of accuracies."""
        return self.function(course, **self.settings)


def rebasin(course: Course, **settings: Any) -> np.ndarray:
    """Re-basin incremental learning, as the library has it."""
    found = course.matrix()
    learner = rb.RebasinIncremental(
        course.start(),
        course.tasks[0].train[0][:2],
        loss="cross_entropy",
        groups=course.groups,
        num_epochs=course.epochs,
        batch_size=course.batch_size,
        first_optimizer=Adam(course.first_rate, weight_decay=0.01),
        memory_per_class=course.per_class,
        memory_batch_size=500,
        seed=course.seed,
        progress=False,
        **settings,
    )
    for k, task in enumerate(course.tasks):
        learner.fit_task(task.train, task.head)
        found[k, : k + 1] = accuracies(learner.model, course.tasks[: k + 1])
        course.learned()
    return found


def methods(rate: float, heads: bool = False) -> tuple[Method, ...]:
    """Return all rows of the table.

    Parameters
    ----------
    rate : float
        The learning rate that methods which are not tuned have after the first task.
    heads : bool, default False
        Whether every task has a head of its own.
    """
    tuned = {**TUNED, "residual_optimizer": Adam(3 * rate)}
    distilled = {**tuned, "distillation": 0.1}
    halved = {**WEIGHTED, "init_scale": 10.0, "residual_optimizer": Adam(rate)}
    held = {**tuned, **HEADS, "alpha": 0.8, "residual_optimizer": Adam(0.5 * rate)}
    lighter = {**tuned, **LIGHTER, "alpha": 0.5, "residual_optimizer": Adam(0.5 * rate)}
    fast = {**tuned, **FAST, "alpha": 0.9, "beta": 0.0003, "residual_optimizer": Adam(10 * rate)}
    without_heads = (
        Method(
            "replay-fast",
            "replay, distilled, ten times the rate",
            replay,
            _replayed({**FAST, "keep": 0.64, "rate": 10 * rate}),
        ),
        Method("fast", "re-basin, distilled, ten times the rate", rebasin, fast),
    )
    with_heads = (
        Method("replay-lighter", "replay, heads distilled by half", replay, _replayed({**LIGHTER, "rate": 0.5 * rate})),
        Method("lighter", "re-basin, heads distilled by half", rebasin, lighter),
        Method("replay-heads", "replay, heads distilled", replay, _replayed({**HEADS, "rate": 0.5 * rate})),
        Method("heads", "re-basin, heads distilled", rebasin, held),
        Method("heads-frozen", "the same, plan frozen at the identity", rebasin, {**held, **FROZEN}),
    )
    return (
        Method("finetuning", "finetuning", avalanche, {"strategy": "Naive"}),
        Method("ewc", "EWC", avalanche, {"strategy": "EWC", "ewc_lambda": 1e4}),
        Method("lwf", "LwF", avalanche, {"strategy": "LwF", "alpha": 5.0, "temperature": 2.0}),
        Method("agem", "A-GEM", avalanche, {"strategy": "AGEM", "sample_size": 256}),
        Method("replay", "replay", replay),
        Method("replay-weighted", "replay, weighted", replay, {"weight": 3.0}),
        Method("replay-halved", "replay, weighted, averaged, halved", replay, {"weight": 3.0, **TRICKS}),
        Method("replay-tuned", "replay, tuned", replay, {"weight": 3.0, **TRICKS, "rate": 3 * rate}),
        Method(
            "replay-distilled",
            "replay, tuned, distilled",
            replay,
            {"weight": 3.0, **TRICKS, "rate": 3 * rate, "distillation": 0.1},
        ),
        Method("paper", "re-basin, as in the paper", rebasin, PAPER),
        Method("halved", "re-basin, weighted, averaged, halved", rebasin, halved),
        Method("tuned", "re-basin, tuned", rebasin, tuned),
        Method("distilled", "re-basin, tuned, distilled", rebasin, distilled),
        Method("frozen", "the same, plan frozen at the identity", rebasin, {**distilled, **FROZEN}),
        *(with_heads if heads else without_heads),
        Method("joint", "joint training", joint),
    )


def _replayed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a re-basin under the names they have for a replay."""
    return {{"memory_weight": "weight"}.get(name, name): value for name, value in settings.items()}
