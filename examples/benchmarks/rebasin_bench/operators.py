"""The operator in every framework behind one face: forward alone, backward alone, both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "FRAMEWORK",
    "OPERATORS",
    "Array",
    "Operator",
    "jax_operator",
    "numpy_operator",
    "tensorflow_operator",
    "torch_operator",
]

Array = np.ndarray[Any, Any]
Function = Callable[[Any], Any]
"""From logits to plans, both of one framework."""


@dataclass(frozen=True)
class Operator:
    """A function of fixed logits and its pullback of a fixed cotangent; every call has finished when it returns.

    Attributes
    ----------
    forward : callable
        Returns the plan; nothing is recorded for a derivative.
    both : callable
        Returns the plan and the gradient.
    prepare_backward : callable or None
        Runs the forward pass once and returns a function that runs the backward pass alone; None where the framework
        compiles both into one.
    """

    forward: Callable[[], Any]
    both: Callable[[], tuple[Any, Any]]
    prepare_backward: Callable[[], Callable[[], Any]] | None


def torch_operator(function: Function, X: Array, G: Array, device: str = "cpu") -> Operator:
    """PyTorch, on the CPU or on a CUDA device."""
    import torch

    logits = torch.tensor(X, device=device)
    leaf = logits.clone().requires_grad_()
    cotangent = torch.tensor(G, device=device)
    wait: Callable[[], Any] = torch.cuda.synchronize if device != "cpu" else lambda: None

    # The authors' backward pass edits the cotangent it gets: both sides are handed a copy.
    def gradient(plan: Any, keep: bool) -> Any:
        (found,) = torch.autograd.grad(plan, leaf, cotangent.clone(), retain_graph=keep)
        wait()
        return found

    def forward() -> Any:
        with torch.no_grad():
            plan = function(logits)
        wait()
        return plan

    def both() -> tuple[Any, Any]:
        plan = function(leaf)
        return plan.detach(), gradient(plan, keep=False)

    def prepare_backward() -> Callable[[], Any]:
        plan = function(leaf)
        return lambda: gradient(plan, keep=True)

    return Operator(forward, both, prepare_backward)


def numpy_operator(function: Function, X: Array, G: Array) -> Operator:
    """NumPy, differentiated by autograd."""
    from autograd import make_vjp

    def both() -> tuple[Any, Any]:
        pullback, plan = make_vjp(function)(X)
        return plan, pullback(G)

    def prepare_backward() -> Callable[[], Any]:
        pullback, _ = make_vjp(function)(X)
        return lambda: pullback(G)

    return Operator(lambda: function(X), both, prepare_backward)


def tensorflow_operator(function: Function, X: Array, G: Array) -> Operator:
    """TensorFlow, eagerly."""
    import tensorflow as tf
    from rebasin_keras.tensorflow_gradients import EAGER_CALLS

    logits, cotangent = tf.constant(X), tf.constant(G)

    def both() -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            plan = function(logits)
        return plan, tape.gradient(plan, logits, output_gradients=cotangent)

    def prepare_backward() -> Callable[[], Any]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(logits)
            plan = function(logits)
        return lambda: tape.gradient(plan, logits, output_gradients=cotangent)

    # What a training loop sees: an operator that was called so often with the same shapes is compiled.
    for _ in range(EAGER_CALLS + 1):
        both()
    return Operator(lambda: function(logits), both, prepare_backward)


def compiled_tensorflow_operator(function: Function, X: Array, G: Array) -> Operator:
    """TensorFlow, as a ``tf.function``."""
    import tensorflow as tf

    logits, cotangent = tf.constant(X), tf.constant(G)

    def value_and_gradient(x: Any, g: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            plan = function(x)
        return plan, tape.gradient(plan, x, output_gradients=g)

    forward, both = tf.function(function), tf.function(value_and_gradient)
    return Operator(lambda: forward(logits), lambda: both(logits, cotangent), None)


def jax_operator(function: Function, X: Array, G: Array) -> Operator:
    """JAX, compiled; 64-bit floats are allowed inside only, since elsewhere the default is the user's business."""
    import jax

    def wide(run: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            with jax.enable_x64(True):
                return jax.block_until_ready(run())

        return call

    with jax.enable_x64(True):
        logits, cotangent = jax.numpy.asarray(X), jax.numpy.asarray(G)
    forward = jax.jit(function)
    linearized = jax.jit(lambda x: jax.vjp(function, x))
    backward = jax.jit(lambda pullback, g: pullback(g)[0])

    def value_and_gradient(x: Any, g: Any) -> tuple[Any, Any]:
        plan, pullback = jax.vjp(function, x)
        return plan, pullback(g)[0]

    both = jax.jit(value_and_gradient)

    def prepare_backward() -> Callable[[], Any]:
        pullback = wide(lambda: linearized(logits))()[1]
        return wide(lambda: backward(pullback, cotangent))

    return Operator(wide(lambda: forward(logits)), wide(lambda: both(logits, cotangent)), prepare_backward)


OPERATORS: dict[str, Callable[[Function, Array, Array], Operator]] = {
    "torch": torch_operator,
    "numpy": numpy_operator,
    "tensorflow": tensorflow_operator,
    "tf.function": compiled_tensorflow_operator,
    "jax": jax_operator,
}
FRAMEWORK = {"tf.function": "tensorflow"}
"""Of the ways that are not named like it."""
