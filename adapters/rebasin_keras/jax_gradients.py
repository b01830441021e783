"""Gradients in JAX: registering a derivative of one's own, taking one, and following it with Adam."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rebasin_core.errors import SettingError
from rebasin_keras.descent import NARROW, check_finite, check_variables

__all__ = ["adam", "custom_vjp", "value_and_grad"]


def custom_vjp(primal: Callable[..., Any], vjp: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    """Register a derivative with ``jax.custom_vjp``.

    Parameters
    ----------
    primal : callable
        ``primal(*arrays) -> array``.
    vjp : callable
        ``vjp(cotangent, output, *arrays) -> cotangents``, ``None`` for zero; differentiable as often as the functions
        it is built of.

    Returns
    -------
    callable
        As `primal`. Both are compiled, once per shape: loops over small arrays cost JAX fifty times as much when each
        operation is dispatched on its own.
    """
    # A lambda, since JAX would fill in optional arguments that a function may have, and trace them.
    function: Any = jax.custom_vjp(jax.jit(lambda *arrays: primal(*arrays)))
    compiled_vjp = jax.jit(vjp)

    def forward(*arrays: Any) -> tuple[Any, tuple[Any, ...]]:
        # Through the registered function, not the primal: an outer gradient must not look inside either.
        output = function(*arrays)
        return output, (output, *arrays)

    def backward(kept: tuple[Any, ...], cotangent: Any) -> tuple[Any, ...]:
        return tuple(compiled_vjp(cotangent, *kept))

    function.defvjp(forward, backward)
    return function  # type: ignore[no-any-return]


def value_and_grad(fun: Callable[[Any], Any], x: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Value and gradient of a scalar function of a dictionary of arrays.

    Raises
    ------
    SettingError
        The function returned something other than a JAX array.
    """

    def scalar(x: dict[str, Any]) -> Any:
        value = fun(x)
        if not isinstance(value, jax.Array):
            raise SettingError(
                f"the objective has no gradient: it returned a {type(value).__name__} that does not depend on the "
                f"variables. Compute with jax.numpy or keras.ops, without float() or np.asarray()"
            )
        return value.reshape(()) if value.size == 1 else value

    value, gradients = jax.value_and_grad(scalar)({name: jnp.asarray(values) for name, values in x.items()})
    return value, gradients


def adam(
    fun: Callable[[dict[str, Any], int], Any],
    x: dict[str, Any],
    learning_rate: float,
    num_steps: int,
    callback: Callable[[int, float, dict[str, Any]], bool],
) -> None:
    """Minimise ``fun(x, step)`` until `callback` returns True.

    Raises
    ------
    NonFiniteError
        The value or a gradient is not finite; the message names the step.
    """
    check_variables(x)
    dtypes = {name: values.dtype for name, values in x.items()}
    state, update, read = _optimiser(learning_rate, {name: _widened(values) for name, values in x.items()})
    for step in range(num_steps):
        here = {name: values.astype(dtypes[name]) for name, values in read(state).items()}

        def objective(candidate: Any, step: int = step) -> Any:
            return fun(candidate, step)

        value, gradients = value_and_grad(objective, here)
        check_finite(float(value), {name: np.asarray(g) for name, g in gradients.items()}, step)
        if callback(step, float(value), here):
            return
        state = update(step, {name: _widened(g) for name, g in gradients.items()}, state)


def _widened(x: Any) -> Any:
    return x.astype(jnp.float32) if str(x.dtype) in NARROW else x


def _optimiser(
    learning_rate: float, variables: dict[str, Any]
) -> tuple[Any, Callable[[int, Any, Any], Any], Callable[[Any], dict[str, Any]]]:
    """Adam as a state, ``update(step, gradients, state)`` and a reader of the variables in a state, compiled."""
    try:
        import optax
    except ModuleNotFoundError:
        # The Adam that comes along with JAX itself.
        from jax.example_libraries import optimizers

        start, update, read = optimizers.adam(learning_rate)
        return start(variables), jax.jit(update), read
    adam = optax.adam(learning_rate)

    def step_of(step: int, gradients: Any, state: Any) -> Any:
        here, moments = state
        changes, moments = adam.update(gradients, moments, here)
        return optax.apply_updates(here, changes), moments

    return (variables, adam.init(variables)), jax.jit(step_of), lambda state: dict(state[0])
