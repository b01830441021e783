"""The rows of the paper's tables: how the second network is re-based onto the first."""

from dataclasses import dataclass, replace
from typing import Any

from tasks import Task
from torch import Tensor

import rebasin_core as rb

__all__ = ["METHODS", "Method", "batches", "objective", "rebased"]


@dataclass(frozen=True)
class Method:
    """A row of a table: an objective, a solver, and the color of its curve."""

    name: str
    objective: str | None
    solver: Any
    color: str


METHODS = (
    Method("naive", None, None, "black"),
    Method("WM", "L2", rb.solvers.WeightMatching(), "#1f77b4"),
    Method("C_L2", "L2", rb.solvers.Sinkhorn(), "#17becf"),
    Method("STE", "midpoint", rb.solvers.StraightThrough(), "#d62728"),
    Method("C_Mid", "midpoint", rb.solvers.Sinkhorn(), "#ff7f0e"),
    Method("C_Rnd", "random point", rb.solvers.Sinkhorn(), "#2ca02c"),
)


def batches(data: tuple[Tensor, Tensor], size: int, count: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Cut data into batches; the first `count` of them."""
    x, y = data
    return list(zip(x.split(size), y.split(size), strict=True))[:count]


def objective(method: Method, task: Task, batch_size: int, evaluation_batches: int = 8) -> Any:
    """Return the objective of a method on the training data of a task."""
    if method.objective == "L2":
        return rb.objectives.L2()
    kind = rb.objectives.Midpoint if method.objective == "midpoint" else rb.objectives.RandomPoint
    return kind(task.loss, batches(task.train, batch_size), evaluation_batches=evaluation_batches)


def rebased(
    method: Method, task: Task, a: Any, b: Any, seed: int, quick: bool = False, batch_size: int = 512
) -> tuple[Any, Any]:
    """Return the second network re-based onto the first, and the alignment (None for the naive row)."""
    if method.objective is None:
        return b, None
    solver = method.solver
    if quick and isinstance(solver, rb.solvers.Sinkhorn):
        solver = replace(solver, max_steps=10, num_rounds=1, max_swaps=0)
    elif quick and isinstance(solver, rb.solvers.StraightThrough):
        solver = replace(solver, max_steps=10)
    goal = objective(method, task, batch_size)
    result = rb.align(a, b, task.train[0][:8], objective=goal, solver=solver, seed=seed, progress=False)
    return result.model, result
