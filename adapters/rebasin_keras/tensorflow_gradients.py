"""Gradients in TensorFlow: registering a derivative of one's own, taking one, and following it."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from rebasin_core.backends.optimizers import SGD, Adam, Optimizer, parameter_groups
from rebasin_core.errors import SettingError
from rebasin_keras.descent import NARROW, check_finite

__all__ = ["EAGER_CALLS", "custom_vjp", "minimise", "value_and_grad"]

EAGER_CALLS, _MOST_SIGNATURES = 20, 64
"""How many calls with the same shapes run eagerly before the operator is compiled; and for how many shapes."""


def custom_vjp(primal: Callable[..., Any], vjp: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    """Register a derivative with ``tf.custom_gradient``.

    Parameters
    ----------
    primal : callable
        ``primal(*tensors) -> tensor``, run without recording: memory does not depend on what it does.
    vjp : callable
        ``vjp(cotangent, output, *tensors) -> cotangents``; an outer tape records it, so that a second derivative exists
        wherever `vjp` is built of functions that have one.

    Returns
    -------
    callable
        As `primal`, compiled where it is called often with tensors of the same shapes.
    """
    run = _compiled_when_repeated(primal)

    def registered(*values: Any) -> Any:
        # Read variables here: what is handed to the function below are tensors, watched or not.
        arrays = [tf.convert_to_tensor(x) for x in values]
        outputs: list[Any] = []

        def pullback(cotangent: Any) -> tuple[Any, ...]:
            # The output as an outer tape knows it, with this function as its history and not the steps of the primal.
            return vjp(cotangent, outputs[0], *arrays)

        @tf.custom_gradient
        def function(*inner: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
            return run(*map(tf.stop_gradient, inner)), pullback

        outputs.append(function(*arrays))
        return outputs[0]

    # The code of the core is meant to run as it is written; it asks for graph loops by name.
    converted: Callable[..., Any] = tf.autograph.experimental.do_not_convert(registered)
    return converted


def _compiled_when_repeated(primal: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function eagerly at first, as a graph once it has been called often with the same shapes and dtypes.

    Loops over small tensors cost several times as much when each operation is dispatched on its own; to build the graph
    costs as much as some fifty eager calls, so that a function that is called now and then is better left alone.
    """
    calls: Counter[Any] = Counter()
    graphs: dict[Any, Callable[..., Any]] = {}

    def run(*tensors: Any) -> Any:
        if not tf.executing_eagerly():
            return primal(*tensors)
        signature = tuple((tuple(x.shape), x.dtype, x.device) for x in tensors)
        if signature not in calls and len(calls) >= _MOST_SIGNATURES:
            calls.clear()
            graphs.clear()
        calls[signature] += 1
        if calls[signature] <= EAGER_CALLS:
            return primal(*tensors)
        if signature not in graphs:
            # A function of its own per signature: one for all would warn of every new shape.
            graphs[signature] = tf.function(primal, autograph=False)
        return graphs[signature](*tensors)

    return run


def value_and_grad(fun: Callable[[Any], Any], x: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Value and gradient of a scalar function of a dictionary of tensors.

    Raises
    ------
    SettingError
        The value does not depend on any of the variables.
    """
    leaves = {name: tf.identity(values) for name, values in x.items()}  # one tensor may come under two names
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(list(leaves.values()))
        value = fun(leaves)
    gradients = tape.gradient(value, list(leaves.values())) if tf.is_tensor(value) else [None]
    if all(gradient is None for gradient in gradients):
        raise SettingError(
            f"the objective has no gradient: it returned a {type(value).__name__} that does not depend on the "
            f"variables. Compute with TensorFlow or keras.ops, without .numpy() or float()"
        )
    # An objective may leave a group out; a gather gives the gradient as slices.
    dense = {
        name: tf.zeros_like(leaf) if gradient is None else tf.convert_to_tensor(gradient)
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return value, dense


def minimise(
    fun: Callable[[dict[str, Any], int], Any],
    x: dict[str, Any],
    optimizer: Optimizer | Mapping[str, Optimizer],
    num_steps: int,
    callback: Callable[[int, float, dict[str, Any]], bool],
) -> dict[str, Any]:
    """Minimise ``fun(x, step)`` with the kernels behind TensorFlow's optimisers, until `callback` returns True.

    The kernels and not ``keras.optimizers``, which compute with Keras's backend: that may be another framework. See
    `Backend.minimise`.

    Raises
    ------
    SettingError
        There is no variable, or one has no optimiser.
    NonFiniteError
        The value or a gradient is not finite; the message names the step.
    """
    groups = parameter_groups(optimizer, x)
    variables = {
        name: tf.Variable(tf.cast(v, tf.float32 if v.dtype.name in NARROW else v.dtype), trainable=False)
        for name, v in x.items()
    }
    rules = [(_rule(chosen, [variables[name] for name in names]), names) for chosen, names in groups]

    def shown() -> dict[str, Any]:
        return {name: tf.cast(tf.convert_to_tensor(v), x[name].dtype) for name, v in variables.items()}

    for step in range(num_steps):
        here = shown()

        def objective(candidate: Any, step: int = step) -> Any:
            return fun(candidate, step)

        value, gradients = value_and_grad(objective, here)
        check_finite(float(value), {name: g.numpy() for name, g in gradients.items()}, step)
        if callback(step, float(value), here):
            return here
        for move, names in rules:
            move(step, [tf.cast(gradients[name], variables[name].dtype) for name in names])
    return shown()


def _rule(optimizer: Optimizer, variables: list[Any]) -> Callable[[int, list[Any]], None]:
    """Return what makes one step of a parameter group, given the step and the gradients."""

    def zeros() -> list[Any]:
        return [tf.Variable(tf.zeros_like(v), trainable=False) for v in variables]

    first, second = zeros(), zeros() if isinstance(optimizer, Adam) else []

    def sgd(step: int, gradients: list[Any]) -> None:
        assert isinstance(optimizer, SGD)
        if (largest := optimizer.clip_value) is not None:
            gradients = [tf.clip_by_value(gradient, -largest, largest) for gradient in gradients]
        if optimizer.clip is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, optimizer.clip)
        for variable, velocity, gradient in zip(variables, first, gradients, strict=True):
            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle,
                accum=velocity.handle,
                lr=tf.constant(optimizer.learning_rate, variable.dtype),
                grad=gradient,
                momentum=tf.constant(optimizer.momentum, variable.dtype),
            )

    def adam(step: int, gradients: list[Any]) -> None:
        assert isinstance(optimizer, Adam)
        for variable, m, v, gradient in zip(variables, first, second, gradients, strict=True):
            if optimizer.weight_decay:
                variable.assign(variable * (1.0 - optimizer.learning_rate * optimizer.weight_decay))
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=tf.constant(0.9 ** (step + 1), variable.dtype),
                beta2_power=tf.constant(0.999 ** (step + 1), variable.dtype),
                lr=tf.constant(optimizer.learning_rate, variable.dtype),
                beta1=tf.constant(0.9, variable.dtype),
                beta2=tf.constant(0.999, variable.dtype),
                epsilon=tf.constant(1e-8, variable.dtype),
                grad=gradient,
            )

    return adam if isinstance(optimizer, Adam) else sgd
