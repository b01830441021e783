"""Following a gradient: the one loop, whichever framework computes the gradient and makes the step."""

import math
from collections.abc import Callable, Mapping
from functools import partial

from rebasin_core.backends.dtypes import widened
from rebasin_core.backends.optimizers import Optimizer, parameter_groups
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import NonFiniteError

__all__ = ["minimize"]

Objective = Callable[[dict[str, Array], int], Array]


def minimize(
    backend: Backend,
    fun: Objective,
    x: Mapping[str, Array],
    optimizer: Optimizer | Mapping[str, Optimizer],
    num_steps: int,
    callback: Callable[[int, float, dict[str, Array]], bool],
) -> dict[str, Array]:
    """Minimize ``fun(x, step)`` by steps of the backend's own optimizers.

    Parameters
    ----------
    backend : Backend
        Of the arrays of `x`.
    fun : callable
        ``fun(x, step) -> scalar``, differentiable in the arrays of `x`.
    x : mapping of str to array
        Where to start; it is left alone. Variables narrower than float32 are kept in float32 between steps, in which a
        step that is small beside its variable still counts; `fun` and `callback` see them in the dtype that came.
    optimizer : Adam, SGD, or mapping of str to either
        One for all variables, or one per name; variables whose optimizers are equal form one parameter group, over
        which a gradient is clipped.
    num_steps : int
        Most steps to take.
    callback : callable
        ``callback(step, value, x)`` is given the value and the variables before the step's update, in arrays that no
        later step changes. It ends the run by returning True; these variables are then what is returned.

    Returns
    -------
    dict of str to array
        The variables after the last step, in the dtypes that came.

    Raises
    ------
    SettingError
        There is no variable, one has no optimizer, or the value does not depend on any.
    NonFiniteError
        The value or a gradient is not finite; the message names the step.

    Examples
    --------
    >>> import numpy as np
    >>> import rebasin_core as rb
    >>> x = {"a": np.array([3.0, -4.0])}
    >>> found = minimize(rb.get_backend(x["a"]), lambda v, step: (v["a"] ** 2).sum(), x, rb.optimizers.SGD(0.25), 2,
    ...                  lambda step, value, v: print(step, value))
    0 25.0
    1 6.25
    >>> found["a"].tolist()
    [0.75, -1.0]
    """
    steppers = [
        (names, backend.stepper(chosen, {name: widened(backend, x[name]) for name in names}))
        for chosen, names in parameter_groups(optimizer, x)
    ]

    def shown() -> dict[str, Array]:
        found = {name: values for _, stepper in steppers for name, values in stepper.read().items()}
        return {name: backend.astype(found[name], backend.dtype(values)) for name, values in x.items()}

    for step in range(num_steps):
        here = shown()
        value, gradients = backend.value_and_grad(partial(_at, fun, step), here)
        gradients = {name: widened(backend, gradient) for name, gradient in gradients.items()}
        _check_finite(backend, value, gradients, step)
        if callback(step, value, here):
            return here
        for names, stepper in steppers:
            stepper.update({name: gradients[name] for name in names})
    return shown()


def _at(fun: Objective, step: int, x: dict[str, Array]) -> Array:
    return fun(x, step)


def _check_finite(backend: Backend, value: float, gradients: dict[str, Array], step: int) -> None:
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the loss is {value} at step {step}; expected a finite number. Lower the learning rate, or rescale "
            f"the loss"
        )
    # One answer per gradient, and one wait for the device: what travels to the host are these answers.
    broken = backend.to_numpy(backend.stack([backend.any(~backend.isfinite(g)) for g in gradients.values()]))
    if broken.any():
        name = list(gradients)[int(broken.argmax())]
        raise NonFiniteError(
            f"the gradient of {name!r} holds NaN or infinity at step {step}; expected finite numbers. Lower the "
            f"learning rate, or look for a division by zero or a logarithm of zero in the loss"
        )
