"""Gradients: registering a derivative of one's own, taking one, and following it."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rebasin_core.backends.optimizers import SGD, Optimizer, parameter_groups
from rebasin_core.errors import NonFiniteError, SettingError
from rebasin_torch.dynamo import not_compiled
from rebasin_torch.values import NARROW

__all__ = ["custom_vjp", "minimise", "value_and_grad"]


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


def _at(fun: Callable[[dict[str, Tensor], int], Tensor], step: int, x: dict[str, Tensor]) -> Tensor:
    return fun(x, step)


def _leaf(values: Tensor) -> Tensor:
    values = values.detach()
    return (values.clone() if values.is_inference() else values).requires_grad_()


def minimise(
    fun: Callable[[dict[str, Tensor], int], Tensor],
    x: dict[str, Tensor],
    optimizer: Optimizer | Mapping[str, Optimizer],
    num_steps: int,
    callback: Callable[[int, float, dict[str, Tensor]], bool],
) -> dict[str, Tensor]:
    """Minimise ``fun(x, step)`` with ``torch.optim``, until `callback` returns True; see `Backend.minimise`.

    `fun` and `callback` see variables of the dtypes that came. Half-precision ones are kept in float32 between steps,
    in which a step that is small beside its variable still counts.

    Raises
    ------
    SettingError
        There is no variable, or one has no optimiser.
    NonFiniteError
        The value or a gradient is not finite; the message names the step.
    """
    groups = parameter_groups(optimizer, x)
    with torch.inference_mode(False), torch.enable_grad():
        variables = {
            name: values.detach().clone().to(torch.float32 if values.dtype in NARROW else values.dtype)
            for name, values in x.items()
        }
        steps = [_stepper(chosen, [variables[name] for name in names]) for chosen, names in groups]

    def shown() -> dict[str, Tensor]:
        return {name: values.to(x[name].dtype, copy=True) for name, values in variables.items()}

    for step in range(num_steps):
        here = shown()
        value, gradients = value_and_grad(partial(_at, fun, step), here)
        _check_finite(value, gradients, step)
        if callback(step, float(value), here):
            return here
        for name, values in variables.items():
            values.grad = gradients[name].to(values.dtype)
        for move in steps:
            move()
    return shown()


def _stepper(optimizer: Optimizer, variables: list[Tensor]) -> Callable[[], Any]:
    """Return what makes one step of a parameter group, whose gradients are in ``.grad``."""
    if isinstance(optimizer, SGD):
        sgd = torch.optim.SGD(variables, lr=optimizer.learning_rate, momentum=optimizer.momentum)
        longest, largest = optimizer.clip, optimizer.clip_value
        if longest is None and largest is None:
            return sgd.step

        def clipped() -> None:
            if largest is not None:
                torch.nn.utils.clip_grad_value_(variables, largest)
            if longest is not None:
                torch.nn.utils.clip_grad_norm_(variables, longest)
            sgd.step()

        return clipped
    if optimizer.weight_decay:
        decay = optimizer.weight_decay
        return torch.optim.AdamW(variables, lr=optimizer.learning_rate, weight_decay=decay).step
    return torch.optim.Adam(variables, lr=optimizer.learning_rate).step


def _check_finite(value: Tensor, gradients: dict[str, Tensor], step: int) -> None:
    # One answer for all of them: a single wait for the device.
    finite = torch.stack([torch.isfinite(x).all() for x in (value, *gradients.values())])
    if bool(finite.all()):
        return
    if not bool(torch.isfinite(value)):
        raise NonFiniteError(
            f"The loss is {float(value)} at step {step}; expected a finite number. Lower the learning rate, or rescale "
            f"the loss."
        )
    name = next(name for name, gradient in gradients.items() if not bool(torch.isfinite(gradient).all()))
    raise NonFiniteError(
        f"The gradient of {name!r} holds NaN or infinity at step {step}; expected finite numbers. Lower the learning "
        f"rate, or look for a division by zero or a logarithm of zero in the loss."
    )
