"""Gradients in JAX: registering a derivative of one's own, taking one, and following it."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from rebasin_core.backends.optimizers import SGD, Optimizer
from rebasin_core.errors import SettingError

__all__ = ["JaxStepper", "custom_vjp", "value_and_grad"]


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


class JaxStepper:
    """`rebasin_core.backends.protocol.Stepper` by a compiled step of optax, or of JAX where that is missing."""

    def __init__(self, optimizer: Optimizer, variables: Mapping[str, Any]) -> None:
        self._state, self._update, self._read = _rule(optimizer, dict(variables))
        self._steps = 0

    def read(self) -> dict[str, Any]:
        """Return the variables as they are now."""
        return self._read(self._state)

    def update(self, gradients: Mapping[str, Any]) -> None:
        """Make one step."""
        self._state = self._update(self._steps, dict(gradients), self._state)
        self._steps += 1


_Rule: TypeAlias = tuple[Any, Callable[[int, Any, Any], Any], Callable[[Any], dict[str, Any]]]
"""A first state, ``update(step, gradients, state)``, compiled, and a reader of the variables in a state."""


def _rule(optimizer: Optimizer, variables: dict[str, Any]) -> _Rule:
    """An optimizer of one parameter group."""
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
    """The optimizers that come along with JAX itself."""
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
