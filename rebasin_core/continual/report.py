"""What the learning of one task did."""

from dataclasses import dataclass

from rebasin_core.continual.memory import Head

__all__ = ["TaskReport"]


@dataclass(frozen=True)
class TaskReport:
    """What happened while one task was learned.

    Attributes
    ----------
    index : int
        Number of the task, from 0.
    task : int, str or None
        Its head, or its label.
    steps : int
        Gradient steps; 0 for a task that was only remembered.
    losses : tuple of float
        Per epoch the mean cost, in units of the loss: Eq. 10 of the paper, averaged over tasks; the plain loss for the
        first task.
    seconds : float
        Wall time, in seconds.
    moved : int
        Units that the hard plan of Eq. 12 moved; 0 for the first task.
    residual : float
        Euclidean norm of the residual over that of the weights it was added to, dimensionless; 0 for the first task.
    remembered : int
        Samples of this task that went into the memory.
    """

    index: int
    task: Head
    steps: int
    losses: tuple[float, ...]
    seconds: float
    moved: int
    residual: float
    remembered: int

    def __str__(self) -> str:
        name = f"task {self.index}" if self.task is None else f"task {self.index} ({self.task})"
        course = f"cost {self.losses[0]:.4g} -> {self.losses[-1]:.4g}" if self.losses else "not trained"
        return f"{name}: {course} in {self.steps} steps, {self.seconds:.1f} s; {self.remembered} samples remembered"
