"""The derivative of a model's forward function, against differences."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_floating, resolution
from rebasin_core.backends.protocol import Array
from rebasin_core.testing.laws import require
from rebasin_core.verification import compare_outputs, leaves

__all__ = ["check_derivative", "nudged"]

Params = dict[str, Array]


def nudged(params: Mapping[str, Array], seed: int, names: Any = None) -> Params:
    """Change every floating-point number a little; what is positive stays so, and tied parameters stay tied."""
    changed = dict(params)
    for name in params if names is None else names:
        x = params[name]
        backend = get_backend(x)
        if is_floating(backend.dtype(x)):
            # The same numbers for all arrays of one shape: those of tied parameters then stay equal.
            noise = np.random.default_rng(seed).uniform(0.5, 1.0, size=backend.shape(x))
            values = backend.to_numpy(x)
            changed[name] = backend.asarray((values * (1 + 0.2 * noise) + 0.02 * noise).astype(values.dtype), like=x)
    return changed


def check_derivative(fun: Callable[[Params], Any], params: Params, seed: int) -> None:
    """Require the gradient of a random sum of the outputs to be that of the function, in every parameter."""
    backend = get_backend(*params.values())
    variables = {name: x for name, x in params.items() if is_floating(backend.dtype(x))}
    weights = _weights(fun(params), seed)

    def weighted(v: Params) -> Array:
        outputs = [x for x in leaves(fun({**params, **v})) if is_floating(get_backend(x).dtype(x))]
        total = None
        for x, weight in zip(outputs, weights, strict=True):
            part = backend.sum(backend.astype(x, "float32") * weight)
            total = part if total is None else total + part
        return total

    _, gradients = backend.value_and_grad(weighted, variables)
    slopes = {name: backend.to_numpy(x).astype(np.float64) for name, x in gradients.items()}
    for name, x in variables.items():
        dtype = backend.dtype(gradients[name])
        require(dtype == backend.dtype(x), f"the gradient of {name!r} is {dtype}, of an array of {backend.dtype(x)}")
        require(slopes[name].shape == backend.shape(x), f"the gradient of {name!r} has shape {slopes[name].shape}")
        require(np.isfinite(slopes[name]).all(), f"the gradient of {name!r} is not finite")
    _check_constants(fun, params, [name for name, slope in slopes.items() if not slope.any()], seed)
    if max(resolution(backend.dtype(x)) for x in variables.values()) < 1e-4:
        _check_along(weighted, variables, slopes)


def _weights(outputs: Any, seed: int) -> list[Array]:
    """Random numbers of the shapes of the outputs."""
    rng = np.random.default_rng(seed)
    found = []
    for x in leaves(outputs):
        backend = get_backend(x)
        if is_floating(backend.dtype(x)):
            single = backend.astype(x, "float32")
            found.append(backend.asarray(rng.normal(size=backend.shape(x)), like=backend.stop_gradient(single)))
    require(found, "the outputs hold no floating-point array")
    return found


def _check_constants(fun: Callable[[Params], Any], params: Params, flat: list[str], seed: int) -> None:
    """Parameters in which the gradient is zero everywhere must not matter."""
    if not flat:
        return
    same = compare_outputs(fun(params), fun(nudged(params, seed, flat)), params).is_rounding
    require(same, f"the gradient in {', '.join(map(repr, flat))} is zero, but the outputs depend on it")


def _check_along(weighted: Callable[[Params], Array], variables: Params, slopes: dict[str, Any]) -> None:
    """Along the gradient, the function must grow by the gradient's norm."""
    backend = get_backend(*variables.values())
    norm = float(np.sqrt(sum(np.sum(slope**2) for slope in slopes.values())))
    size = float(np.sqrt(sum(np.sum(backend.to_numpy(x).astype(np.float64) ** 2) for x in variables.values())))
    values = []
    for step in (1e-3 * size, -1e-3 * size):
        moved = {
            name: backend.asarray(backend.to_numpy(x) + step / norm * slopes[name], like=x)
            for name, x in variables.items()
        }
        values.append(float(backend.to_numpy(weighted(moved))))
    found = (values[0] - values[1]) / (2e-3 * size)
    noise = 1e-6 * max(map(abs, values)) / (1e-3 * size)
    require(
        abs(found - norm) <= 0.05 * norm + noise,
        f"along the gradient the outputs change by {found:.3g} per unit, the gradient says {norm:.3g}",
    )
