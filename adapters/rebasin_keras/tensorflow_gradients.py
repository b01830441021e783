"""Gradients in TensorFlow: registering a derivative of one's own, taking one, and following it."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from rebasin_core.backends.optimizers import SGD, Adam, Optimizer
from rebasin_core.errors import SettingError

__all__ = ["EAGER_CALLS", "TensorFlowStepper", "custom_vjp", "value_and_grad"]

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


class TensorFlowStepper:
    """`rebasin_core.backends.protocol.Stepper` by the kernels behind TensorFlow's optimizers.

    The kernels and not ``keras.optimizers``, which compute with Keras's backend: that may be another framework.
    """

    def __init__(self, optimizer: Optimizer, variables: Mapping[str, Any]) -> None:
        self._optimizer = optimizer
        self._variables = {name: tf.Variable(tf.convert_to_tensor(v), trainable=False) for name, v in variables.items()}
        self._first, self._second = self._zeros(), self._zeros() if isinstance(optimizer, Adam) else {}
        self._steps = 0

    def _zeros(self) -> dict[str, Any]:
        return {name: tf.Variable(tf.zeros_like(v), trainable=False) for name, v in self._variables.items()}

    def read(self) -> dict[str, Any]:
        """Return the variables as tensors; TensorFlow copies one that is still held before it changes the variable."""
        return {name: tf.convert_to_tensor(v) for name, v in self._variables.items()}

    def update(self, gradients: Mapping[str, Any]) -> None:
        """Make one step."""
        self._steps += 1
        if isinstance(self._optimizer, SGD):
            self._move_by_momentum(self._optimizer, [gradients[name] for name in self._variables])
        else:
            self._move_by_moments(self._optimizer, gradients)

    def _move_by_momentum(self, sgd: SGD, gradients: list[Any]) -> None:
        if (largest := sgd.clip_value) is not None:
            gradients = [tf.clip_by_value(gradient, -largest, largest) for gradient in gradients]
        if sgd.clip is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, sgd.clip)
        for (name, variable), gradient in zip(self._variables.items(), gradients, strict=True):
            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle,
                accum=self._first[name].handle,
                lr=tf.constant(sgd.learning_rate, variable.dtype),
                grad=gradient,
                momentum=tf.constant(sgd.momentum, variable.dtype),
            )

    def _move_by_moments(self, adam: Adam, gradients: Mapping[str, Any]) -> None:
        for name, variable in self._variables.items():
            if adam.weight_decay:
                variable.assign(variable * (1.0 - adam.learning_rate * adam.weight_decay))
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._first[name].handle,
                v=self._second[name].handle,
                beta1_power=tf.constant(0.9**self._steps, variable.dtype),
                beta2_power=tf.constant(0.999**self._steps, variable.dtype),
                lr=tf.constant(adam.learning_rate, variable.dtype),
                beta1=tf.constant(0.9, variable.dtype),
                beta2=tf.constant(0.999, variable.dtype),
                epsilon=tf.constant(1e-8, variable.dtype),
                grad=gradients[name],
            )
