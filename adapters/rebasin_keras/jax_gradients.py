"""Gradients in JAX: registering a derivative of one's own, taking one, and following it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rebasin_core.backends.optimizers import SGD, Optimizer, parameter_groups
from rebasin_core.errors import SettingError
from rebasin_keras.descent import NARROW, check_finite

__all__ = ["custom_vjp", "minimise", "value_and_grad"]


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


def minimise(
    fun: Callable[[dict[str, Any], int], Any],
    x: dict[str, Any],
    optimizer: Optimizer | Mapping[str, Optimizer],
    num_steps: int,
    callback: Callable[[int, float, dict[str, Any]], bool],
) -> dict[str, Any]:
    """Minimise ``fun(x, step)`` until `callback` returns True; see `Backend.minimise`.

    Raises
    ------
    SettingError
        There is no variable, or one has no optimiser.
    NonFiniteError
        The value or a gradient is not finite; the message names the step.
    """
    dtypes = {name: values.dtype for name, values in x.items()}
    groups = parameter_groups(optimizer, x)
    rules = [_rule(chosen, {name: _widened(x[name]) for name in names}) for chosen, names in groups]
    states = [start for start, _, _ in rules]

    def shown() -> dict[str, Any]:
        found = {k: v for (_, _, read), state in zip(rules, states, strict=True) for k, v in read(state).items()}
        return {name: found[name].astype(dtype) for name, dtype in dtypes.items()}

    for step in range(num_steps):
        here = shown()

        def objective(candidate: Any, step: int = step) -> Any:
            return fun(candidate, step)

        value, gradients = value_and_grad(objective, here)
        check_finite(float(value), {name: np.asarray(g) for name, g in gradients.items()}, step)
        if callback(step, float(value), here):
            return here
        for k, ((_, update, _), (_, names)) in enumerate(zip(rules, groups, strict=True)):
            states[k] = update(step, {name: _widened(gradients[name]) for name in names}, states[k])
    return shown()


def _widened(x: Any) -> Any:
    return x.astype(jnp.float32) if str(x.dtype) in NARROW else x


_Rule: TypeAlias = tuple[Any, Callable[[int, Any, Any], Any], Callable[[Any], dict[str, Any]]]
"""A first state, ``update(step, gradients, state)``, compiled, and a reader of the variables in a state."""


def _rule(optimizer: Optimizer, variables: dict[str, Any]) -> _Rule:
    """An optimiser of one parameter group."""
    try:
        import optax
    except ModuleNotFoundError:
        return _rule_of_jax(optimizer, variables)
    if isinstance(optimizer, SGD):
        rule = optax.sgd(optimizer.learning_rate, momentum=optimizer.momentum or None)
        if optimizer.clip is not None:
            rule = optax.chain(optax.clip_by_global_norm(optimizer.clip), rule)
        if optimizer.clip_value is not None:
            rule = optax.chain(optax.clip(optimizer.clip_value), rule)
    elif optimizer.weight_decay:
        rule = optax.adamw(optimizer.learning_rate, weight_decay=optimizer.weight_decay)
    else:
        rule = optax.adam(optimizer.learning_rate)

    def update(step: int, gradients: Any, state: Any) -> Any:
        here, kept = state
        changes, kept = rule.update(gradients, kept, here)
        return optax.apply_updates(here, changes), kept

    return (variables, rule.init(variables)), jax.jit(update), lambda state: dict(state[0])


def _rule_of_jax(optimizer: Optimizer, variables: dict[str, Any]) -> _Rule:
    """The optimisers that come along with JAX itself."""
    from jax.example_libraries import optimizers

    if isinstance(optimizer, SGD):
        longest, largest = optimizer.clip, optimizer.clip_value
        start, move, read = optimizers.momentum(optimizer.learning_rate, optimizer.momentum)

        def clipped(step: int, gradients: Any, state: Any) -> Any:
            if largest is not None:
                gradients = jax.tree.map(lambda g: jnp.clip(g, -largest, largest), gradients)
            gradients = gradients if longest is None else optimizers.clip_grads(gradients, longest)
            return move(step, gradients, state)

        return start(variables), jax.jit(clipped), read
    kept = 1.0 - optimizer.learning_rate * optimizer.weight_decay
    start, step_of_adam, read = optimizers.adam(optimizer.learning_rate)

    def decayed(step: int, gradients: Any, state: Any) -> Any:
        # A leaf of the state is a variable and its moments; the step does not depend on the variable.
        leaves = [(kept * leaf[0], *leaf[1:]) for leaf in state.packed_state]
        return step_of_adam(step, gradients, state._replace(packed_state=leaves))

    return start(variables), jax.jit(decayed if optimizer.weight_decay else step_of_adam), read
