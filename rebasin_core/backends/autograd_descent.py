"""Steps of Adam and SGD in NumPy, all variables of a parameter group in one vector of float64.

Autograd's own optimizers are whole loops that neither stop early nor take turns; its Adam computes what this one does.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from rebasin_core.backends.optimizers import SGD, Adam, Optimizer

__all__ = ["AutogradStepper"]

Vector: TypeAlias = np.ndarray[Any, Any]


class AutogradStepper:
    """`Stepper` for NumPy arrays."""

    def __init__(self, optimizer: Optimizer, variables: Mapping[str, Vector]) -> None:
        self._optimizer = optimizer
        self._shapes = {name: np.shape(values) for name, values in variables.items()}
        self._x = self._flat(variables)
        self._mean, self._square = np.zeros_like(self._x), np.zeros_like(self._x)
        self._steps = 0

    def read(self) -> dict[str, Vector]:
        """Return the variables as they are now, in float64."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes.values()])
        parts = np.split(self._x, ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def update(self, gradients: Mapping[str, Vector]) -> None:
        """Make one step; what was read before stays as it is."""
        gradient = self._flat(gradients)
        if isinstance(self._optimizer, SGD):
            self._move_by_momentum(self._optimizer, gradient)
        else:
            self._move_by_moments(self._optimizer, gradient)

    def _move_by_momentum(self, sgd: SGD, gradient: Vector) -> None:
        if sgd.clip_value is not None:
            gradient = np.clip(gradient, -sgd.clip_value, sgd.clip_value)
        if sgd.clip is not None and (norm := float(np.sqrt(np.sum(gradient**2)))) > sgd.clip:
            gradient = gradient * (sgd.clip / norm)
        self._mean = sgd.momentum * self._mean + gradient
        self._x = self._x - sgd.learning_rate * self._mean

    def _move_by_moments(self, adam: Adam, gradient: Vector) -> None:
        self._steps += 1
        self._mean = 0.1 * gradient + 0.9 * self._mean
        self._square = 0.001 * gradient**2 + 0.999 * self._square
        mean, square = self._mean / (1.0 - 0.9**self._steps), self._square / (1.0 - 0.999**self._steps)
        kept = 1.0 - adam.learning_rate * adam.weight_decay
        self._x = kept * self._x - adam.learning_rate * mean / (np.sqrt(square) + 1e-8)

    def _flat(self, arrays: Mapping[str, Vector]) -> Vector:
        return np.concatenate([np.asarray(arrays[name], dtype=np.float64).ravel() for name in self._shapes])
