"""Following a gradient with NumPy: autograd's Adam, and the plain step.

Autograd's optimisers are whole loops over one flat vector. Two of them cannot take turns, so one loop drives all
variables of Adam, each with its own learning rate, and the variables of SGD, whose step is a subtraction, are moved
whenever that loop asks for a gradient.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
from autograd.misc.optimizers import adam as autograd_adam

from rebasin_core.backends.optimizers import SGD, Adam, Optimizer, parameter_groups
from rebasin_core.errors import NonFiniteError

__all__ = ["minimise"]

Vector: TypeAlias = np.ndarray[Any, Any]


def minimise(
    value_and_grad: Callable[[Callable[[Any], Any], Any], tuple[float, Any]],
    fun: Callable[[dict[str, Vector], int], Any],
    x: dict[str, Vector],
    optimizer: Optimizer | Mapping[str, Optimizer],
    num_steps: int,
    callback: Callable[[int, float, dict[str, Vector]], bool],
) -> dict[str, Vector]:
    """Minimise ``fun(x, step)`` until `callback` returns True; see `rebasin_core.backends.protocol.Backend`.

    Between steps, the variables are float64; `fun` and `callback` see them in their own dtypes.

    Raises
    ------
    SettingError, NonFiniteError
    """
    state = _State(x, parameter_groups(optimizer, x))

    def gradients_at(step: int) -> dict[str, Vector]:
        here = state.variables()
        value, gradients = value_and_grad(lambda candidate: fun(candidate, step), here)
        _check_finite(value, gradients, step)
        if callback(step, value, here):
            raise _StopEarly
        return {name: np.asarray(gradient, dtype=np.float64) for name, gradient in gradients.items()}

    def of_adam(flat: Vector, step: int) -> Vector:
        state.move_adam(flat)
        gradients = gradients_at(step)
        state.move_sgd(gradients)
        state.decay()
        return state.flat(gradients)

    with suppress(_StopEarly):
        if not state.rates:
            for step in range(num_steps):
                state.move_sgd(gradients_at(step))
        else:
            rates = state.flat({name: np.full(np.shape(x[name]), rate) for name, rate in state.rates.items()})
            state.move_adam(autograd_adam(of_adam, state.flat(state.wide), num_iters=num_steps, step_size=rates))
    return state.variables()


class _State:
    """The variables in float64, and what each optimiser keeps of the past."""

    def __init__(self, x: dict[str, Vector], groups: list[tuple[Optimizer, list[str]]]) -> None:
        self.dtypes = {name: np.asarray(values).dtype for name, values in x.items()}
        self.wide = {name: np.array(values, dtype=np.float64) for name, values in x.items()}
        self.sgd = [(optimizer, names) for optimizer, names in groups if isinstance(optimizer, SGD)]
        adam = [(optimizer, name) for optimizer, names in groups if isinstance(optimizer, Adam) for name in names]
        self.rates = {name: optimizer.learning_rate for optimizer, name in adam}
        self.decays = {name: optimizer.learning_rate * optimizer.weight_decay for optimizer, name in adam}
        # By how much decay has moved a variable so far, which autograd's loop does not know of.
        self.decayed: dict[str, Any] = dict.fromkeys(self.rates, 0.0)
        self.velocity: dict[str, Any] = dict.fromkeys(x, 0.0)

    def variables(self) -> dict[str, Vector]:
        """The variables in their own dtypes, as copies."""
        return {name: values.astype(self.dtypes[name]) for name, values in self.wide.items()}

    def flat(self, arrays: Mapping[str, Vector]) -> Vector:
        """The arrays of Adam's variables as one vector."""
        return np.concatenate([arrays[name].ravel() for name in self.rates])

    def move_adam(self, flat: Vector) -> None:
        """Take over where autograd's loop has got to."""
        ends = np.cumsum([self.wide[name].size for name in self.rates])
        for name, part in zip(self.rates, np.split(flat, ends[:-1]), strict=True):
            self.wide[name] = part.reshape(self.wide[name].shape) + self.decayed[name]

    def decay(self) -> None:
        """Decay as AdamW does, by what the variables are before the step."""
        for name, rate in self.decays.items():
            if rate:
                self.decayed[name] = self.decayed[name] - rate * self.wide[name]

    def move_sgd(self, gradients: dict[str, Vector]) -> None:
        """One step of every group of SGD."""
        for optimizer, names in self.sgd:
            if (largest := optimizer.clip_value) is not None:
                gradients = {**gradients, **{name: np.clip(gradients[name], -largest, largest) for name in names}}
            norm = np.sqrt(sum(float(np.sum(gradients[name] ** 2)) for name in names))
            shortened = 1.0 if optimizer.clip is None or norm <= optimizer.clip else optimizer.clip / norm
            for name in names:
                self.velocity[name] = optimizer.momentum * self.velocity[name] + shortened * gradients[name]
                self.wide[name] = self.wide[name] - optimizer.learning_rate * self.velocity[name]


class _StopEarly(Exception):  # noqa: N818 -- a signal, not an error
    """Leaves autograd's optimiser, which has no other way out before its last step."""


def _check_finite(value: float, gradients: dict[str, Vector], step: int) -> None:
    if not np.isfinite(value):
        raise NonFiniteError(
            f"The loss is {value} at step {step}; expected a finite number. "
            "Lower the learning rate, or rescale the loss."
        )
    for name, gradient in gradients.items():
        if not np.all(np.isfinite(gradient)):
            raise NonFiniteError(
                f"The gradient of {name!r} holds NaN or infinity at step {step}; expected finite numbers. Lower the "
                "learning rate, or look for a division by zero or a logarithm of zero in the loss."
            )
