"""Gradients in TensorFlow: registering a derivative of one's own, taking one, and following it with Adam."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from rebasin_core.errors import SettingError
from rebasin_keras.descent import NARROW, check_finite, check_variables

__all__ = ["adam", "custom_vjp", "value_and_grad"]

_EAGER_CALLS, _MOST_SIGNATURES = 20, 64


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
        if calls[signature] <= _EAGER_CALLS:
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


def adam(
    fun: Callable[[dict[str, Any], int], Any],
    x: dict[str, Any],
    learning_rate: float,
    num_steps: int,
    callback: Callable[[int, float, dict[str, Any]], bool],
) -> None:
    """Minimise ``fun(x, step)`` with the kernel behind TensorFlow's Adam, until `callback` returns True.

    The kernel and not ``keras.optimizers.Adam``, which computes with Keras's backend: that may be another framework.

    Raises
    ------
    NonFiniteError
        The value or a gradient is not finite; the message names the step.
    """
    check_variables(x)
    wide = {name: tf.float32 if values.dtype.name in NARROW else values.dtype for name, values in x.items()}
    variables = {name: tf.Variable(tf.cast(values, wide[name]), trainable=False) for name, values in x.items()}
    first = {name: tf.Variable(tf.zeros_like(v), trainable=False) for name, v in variables.items()}
    second = {name: tf.Variable(tf.zeros_like(v), trainable=False) for name, v in variables.items()}
    for step in range(num_steps):
        here = {name: tf.cast(tf.convert_to_tensor(v), x[name].dtype) for name, v in variables.items()}

        def objective(candidate: Any, step: int = step) -> Any:
            return fun(candidate, step)

        value, gradients = value_and_grad(objective, here)
        check_finite(float(value), {name: g.numpy() for name, g in gradients.items()}, step)
        if callback(step, float(value), here):
            return
        for name, variable in variables.items():

            def number(value: float, dtype: Any = wide[name]) -> Any:
                return tf.constant(value, dtype=dtype)

            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=first[name].handle,
                v=second[name].handle,
                beta1_power=number(0.9 ** (step + 1)),
                beta2_power=number(0.999 ** (step + 1)),
                lr=number(learning_rate),
                beta1=number(0.9),
                beta2=number(0.999),
                epsilon=number(1e-8),
                grad=tf.cast(gradients[name], wide[name]),
            )
