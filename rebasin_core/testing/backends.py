"""The laws of `rebasin_core.backends.protocol.Backend`, checked."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from rebasin_core.backends.dtypes import resolution
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.testing.corners import corner_laws
from rebasin_core.testing.descent import descent_laws
from rebasin_core.testing.laws import Law, check_laws, require, same
from rebasin_core.testing.operations import OPERATIONS, Operation, gradient, second_difference

__all__ = ["check_backend"]

Vector: TypeAlias = np.ndarray[Any, Any]
Transformation: TypeAlias = Callable[[Callable[[Array], Array]], Callable[[Array], Array]]


def check_backend(
    backend: Backend,
    array: Callable[[Vector], Array] | None = None,
    *,
    grad: Transformation | None = None,
    jit: Transformation | None = None,
) -> tuple[str, ...]:
    """Check that a backend obeys the laws of its protocol, with NumPy and finite differences as the judge.

    Every operation must have NumPy's value and the derivative that differences give, in double precision, where the
    framework has it, and in single; keep shapes, dtypes and devices, and leave its arguments alone. Then come the
    corners (ties, overflow, matrices that are not definite, gradients that are zero) and the optimizers.

    Parameters
    ----------
    backend : Backend
        What to check; it need not be registered.
    array : callable, optional
        Makes an array of the framework from one of NumPy's, with its dtype; default: ``backend.asarray``.
    grad : callable, optional
        The framework's own ``grad(fun)(x)``, such as ``jax.grad``, which may be nested: second derivatives are then
        checked, too. It must be zero where `fun` does not depend on `x`.
    jit : callable, optional
        The framework's own compilation, such as ``jax.jit``: every operation, and control flow, is then checked under
        it, too.

    Returns
    -------
    tuple of str
        The laws that hold: all of those that were checked.

    Raises
    ------
    LawError
        Some laws are broken; the message lists all of them, with what was found.

    Examples
    --------
    >>> import rebasin_core as rb
    >>> laws = check_backend(rb.get_backend(np.zeros(1)))
    >>> [law for law in laws if law.startswith("where")]
    ['where (float64)', 'where, broadcast (float64)', 'where (float32)', 'where, broadcast (float32)']
    """
    make = (lambda values: backend.asarray(values)) if array is None else array
    # Where a framework has no double precision, or must be asked for it, arrays of it come out single.
    dtypes = [name for name in ("float64", "float32") if backend.dtype(make(np.zeros(1, name))) == name]
    laws: dict[str, Law] = {"arrays of float32 can be made": lambda: require("float32" in dtypes, "none came")}
    for dtype in dtypes:
        for name, operation in OPERATIONS.items():
            laws[f"{name} ({dtype})"] = partial(_operation, backend, make, operation, dtype)
    if grad is not None and dtypes:
        for name, operation in OPERATIONS.items():
            laws[f"{name}, second derivative"] = partial(_second, backend, make, operation, dtypes[0], grad)
    if jit is not None:
        laws["all operations, compiled"] = partial(_compiled, backend, make, jit)
    laws |= corner_laws(backend, make, grad, jit) | descent_laws(backend, make)
    return check_laws(f"the backend {getattr(backend, 'name', backend)!r}", laws)


def _tolerance(dtype: str) -> float:
    """For results of a few dozen roundings."""
    return 1e3 * resolution(dtype)


def _constants(B: Backend, x: Array) -> Callable[[Vector], Array]:
    return lambda values: B.asarray(values, like=x)


def _operation(B: Backend, make: Callable[[Vector], Array], operation: Operation, dtype: str) -> None:
    """Value and gradient of one operation."""
    x, allowed = make(operation.x.astype(dtype)), _tolerance(dtype)
    before, device = B.to_numpy(x), _device(x)
    found, expected = operation.compute(B, x, _constants(B, x)), np.asarray(operation.expected(operation.x))
    require(B.shape(found) == expected.shape, f"it has shape {B.shape(found)}, expected {expected.shape}")
    require(B.dtype(found) == dtype, f"it made {B.dtype(found)} of {dtype}")
    require(_device(found) == device, f"it went from device {device} to {_device(found)}")
    same(B.to_numpy(found), expected, "the result", rtol=allowed, atol=allowed)
    same(B.to_numpy(x), before, "the argument, afterwards,")
    weight = np.random.default_rng(1).normal(size=expected.shape)

    def weighted(v: dict[str, Array]) -> Array:
        return B.sum(operation.compute(B, v["x"], _constants(B, x)) * B.asarray(weight, like=x))

    _, gradients = B.value_and_grad(weighted, {"x": x})
    slope = gradients["x"]
    require(B.dtype(slope) == dtype, f"its gradient is {B.dtype(slope)}, of an array of {dtype}")
    wanted = gradient(operation.expected, operation.x, weight)
    same(B.to_numpy(slope), wanted, "the gradient", rtol=max(allowed, 1e-7), atol=max(allowed, 1e-7))
    same(B.to_numpy(x), before, "the argument, after the gradient,")


def _second(
    B: Backend, make: Callable[[Vector], Array], operation: Operation, dtype: str, grad: Transformation
) -> None:
    """One entry of the second derivative, along two random directions."""
    rng = np.random.default_rng(2)
    weight = rng.normal(size=np.shape(operation.expected(operation.x)))
    one, two = rng.normal(size=(2, *operation.x.shape))

    def weighted(x: Array) -> Array:
        return B.sum(operation.compute(B, x, _constants(B, x)) * B.asarray(weight, like=x))

    def along(x: Array) -> Array:
        return B.sum(grad(weighted)(x) * B.asarray(one, like=x))

    found = B.to_numpy(grad(along)(make(operation.x.astype(dtype))))
    wanted = second_difference(operation.expected, operation.x, weight, one, two)
    allowed = max(_tolerance(dtype), 1e-5)
    same(np.sum(found * two), wanted, "the second derivative", rtol=allowed, atol=10 * allowed)


def _compiled(B: Backend, make: Callable[[Vector], Array], jit: Transformation) -> None:
    """All operations in one compiled function of one flat array, since compiling costs more than computing."""

    def everything(flat: Array) -> Array:
        parts = []
        for operation in OPERATIONS.values():
            zeros = B.reshape(flat[: operation.x.size], operation.x.shape)
            x = zeros + B.asarray(operation.x, like=flat)
            parts.append(B.reshape(operation.compute(B, x, _constants(B, flat)), (-1,)))
        return B.concat(parts, 0)

    longest = max(operation.x.size for operation in OPERATIONS.values())
    found = B.to_numpy(jit(everything)(make(np.zeros(longest, np.float32))))
    expected = np.concatenate([np.ravel(operation.expected(operation.x)) for operation in OPERATIONS.values()])
    same(found, expected, "the result", rtol=_tolerance("float32"), atol=_tolerance("float32"))


def _device(x: Array) -> str:
    """Where an array is, for frameworks that tell."""
    return str(getattr(x, "device", None))
