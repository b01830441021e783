"""Gradients: registering a derivative of one's own, taking one, and following it with Adam."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rebasin_core.errors import NonFiniteError, SettingError
from rebasin_torch.values import NARROW

__all__ = ["adam", "custom_vjp", "value_and_grad"]


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
    registered: Callable[..., Tensor]
    registered = torch.compiler.disable(Function.apply)  # type: ignore[no-untyped-call,unused-ignore]
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


def adam(
    fun: Callable[[dict[str, Tensor], int], Tensor],
    x: dict[str, Tensor],
    learning_rate: float,
    num_steps: int,
    callback: Callable[[int, float, dict[str, Tensor]], bool],
) -> None:
    """Minimise ``fun(x, step)`` with ``torch.optim.Adam``, until `callback` returns True.

    `fun` and `callback` see variables of the dtypes that came. Half-precision ones are kept in float32 between steps,
    in which a step that is small beside its variable still counts.

    Raises
    ------
    NonFiniteError
        The value or a gradient is not finite; the message names the step.
    """
    if not x:
        raise SettingError("there is no variable to optimise; pass at least one")
    with torch.inference_mode(False), torch.enable_grad():
        variables = {
            name: values.detach().clone().to(torch.float32 if values.dtype in NARROW else values.dtype)
            for name, values in x.items()
        }
        optimiser = torch.optim.Adam(list(variables.values()), lr=learning_rate)
    for step in range(num_steps):
        here = {name: values.to(x[name].dtype, copy=True) for name, values in variables.items()}
        value, gradients = value_and_grad(partial(_at, fun, step), here)
        _check_finite(value, gradients, step)
        if callback(step, float(value), here):
            return
        for name, values in variables.items():
            values.grad = gradients[name].to(values.dtype)
        optimiser.step()


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
