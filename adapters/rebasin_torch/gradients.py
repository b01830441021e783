"""Gradients: registering a derivative of one's own, taking one, and following it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rebasin_core.backends.optimizers import SGD, Optimizer
from rebasin_core.errors import SettingError
from rebasin_torch.dynamo import not_compiled

__all__ = ["TorchStepper", "custom_vjp", "value_and_grad"]


def custom_vjp(primal: Callable[..., Tensor], vjp: Callable[..., tuple[Tensor | None, ...]]) -> Callable[..., Tensor]:
    """Register a derivative with autograd.

    Parameters
    ----------
    primal : callable
        ``primal(*tensors) -> tensor``, run without recording.
    vjp : callable
        ``vjp(cotangent, output, *tensors) -> cotangents``. Autograd records it where a second derivative is asked for;
        only the inputs and the output are kept in between, so memory does not depend on what `primal` does.

    Returns
    -------
    callable
        As `primal`. ``torch.compile`` leaves it alone: what it does may depend on values, which a compiler cannot read.
    """

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(*arrays: Tensor) -> Tensor:
            return primal(*arrays)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ctx.save_for_backward(output, *inputs)

        @staticmethod
        def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
            output, *arrays = ctx.saved_tensors
            return vjp(cotangent, output, *arrays)

    Function.__name__ = Function.__qualname__ = "Implicit"  # what a person reads in grad_fn
    # `apply` asks for it at every call, which takes longer than reading an attribute.
    Function.forward.__signature__ = inspect.signature(Function.forward)  # type: ignore[attr-defined]
    outside = not_compiled(Function.apply)  # type: ignore[no-untyped-call,unused-ignore]

    def registered(*arrays: Tensor) -> Tensor:
        result: Tensor = (outside if torch.compiler.is_compiling() else Function.apply)(*arrays)
        return result

    return registered


def value_and_grad(fun: Callable[[Any], Tensor], x: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Value and gradient of a scalar function of a dictionary of tensors.

    Raises
    ------
    SettingError
        The value does not depend on any of the variables.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaves = {name: _leaf(values) for name, values in x.items()}
        value = fun(leaves)
        if not isinstance(value, Tensor) or not value.requires_grad:
            raise SettingError(
                f"the objective has no gradient: it returned a {type(value).__name__} that does not depend on the "
                f"variables. Compute with torch, without .item(), .detach(), .numpy() or torch.no_grad()"
            )
        # allow_unused with zeros in their place: an objective may leave a group out.
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def _leaf(values: Tensor) -> Tensor:
    values = values.detach()
    return (values.clone() if values.is_inference() else values).requires_grad_()


class TorchStepper:
    """`rebasin_core.backends.protocol.Stepper` by ``torch.optim``."""

    def __init__(self, optimizer: Optimizer, variables: Mapping[str, Tensor]) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            self._variables = {name: values.detach().clone() for name, values in variables.items()}
        self._settings, self._optimizer = optimizer, _optimizer(optimizer, list(self._variables.values()))

    def read(self) -> dict[str, Tensor]:
        """Return copies of the variables."""
        return {name: values.clone() for name, values in self._variables.items()}

    def update(self, gradients: Mapping[str, Tensor]) -> None:
        """Make one step."""
        for name, values in self._variables.items():
            values.grad = gradients[name]
        if isinstance(self._settings, SGD):
            _clip(self._settings, list(self._variables.values()))
        self._optimizer.step()


def _optimizer(optimizer: Optimizer, variables: list[Tensor]) -> torch.optim.Optimizer:
    rate = optimizer.learning_rate
    if isinstance(optimizer, SGD):
        return torch.optim.SGD(variables, lr=rate, momentum=optimizer.momentum)
    if optimizer.weight_decay:
        return torch.optim.AdamW(variables, lr=rate, weight_decay=optimizer.weight_decay)
    return torch.optim.Adam(variables, lr=rate)


def _clip(sgd: SGD, variables: list[Tensor]) -> None:
    if sgd.clip is None and sgd.clip_value is None:
        return
    for values in variables:
        # torch clips in place, and the gradients of two variables may be one tensor, or one number that is repeated.
        values.grad = None if values.grad is None else values.grad.clone()
    if sgd.clip_value is not None:
        torch.nn.utils.clip_grad_value_(variables, sgd.clip_value)
    if sgd.clip is not None:
        torch.nn.utils.clip_grad_norm_(variables, sgd.clip)
