"""The course of one task's optimisation: what is noted at every step, and the average of the iterates."""

from collections.abc import Iterable
from typing import Any

from rebasin_core.backends.protocol import Array
from rebasin_core.line.mean import between
from rebasin_core.support.progress import Progress

__all__ = ["Course"]


class Course:
    """What a `callback` of `rebasin_core.backends.descent.minimize` sees go by.

    Parameters
    ----------
    steps_per_epoch, num_epochs : int
        How long the course is.
    average : float
        Share of its steps, the last ones, whose iterates are averaged; 0 for the last iterate alone. Dimensionless.
    bar : Progress
        Moved at every step.
    """

    def __init__(self, steps_per_epoch: int, num_epochs: int, average: float, bar: Progress) -> None:
        self.steps = steps_per_epoch * num_epochs
        self._per_epoch, self._bar = steps_per_epoch, bar
        self._first = self.steps - int(average * self.steps) + 1
        self._values: list[float] = []
        self._mean: dict[str, Array] = {}
        self._count = 0

    def __call__(self, step: int, value: float, variables: dict[str, Array]) -> bool:
        """Note the cost, and the iterate that `step` steps have led to; never end the run."""
        self._values.append(value)
        self._add(step, variables)
        self._bar.update(f"cost {value:.4g}")
        return False

    def end(self, last: dict[str, Array]) -> dict[str, Array]:
        """Return the average of the iterates, or the last one."""
        self._add(self.steps, last)
        return self._mean or last

    def _add(self, iterate: int, variables: dict[str, Array]) -> None:
        if iterate >= max(self._first, 1):
            self._count += 1
            self._mean = {
                name: x if self._count == 1 else between(self._mean[name], x, 1.0 / self._count)
                for name, x in variables.items()
            }

    @property
    def losses(self) -> tuple[float, ...]:
        """Mean cost per epoch."""
        n = self._per_epoch
        return tuple(_mean(self._values[i : i + n]) for i in range(0, len(self._values), n))


def _mean(values: Iterable[Any]) -> float:
    found = list(values)
    return float(sum(found) / len(found))
