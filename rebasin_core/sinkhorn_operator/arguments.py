"""The operator's arguments: what is refused, before any work, and what they are turned into."""

import math
import operator
from numbers import Real
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_floating
from rebasin_core.backends.protocol import Array, Backend, DtypeName
from rebasin_core.errors import NonFiniteError, SettingError, ShapeError, UnsupportedArrayError
from rebasin_core.sinkhorn_operator.kernel import limits_of
from rebasin_core.sinkhorn_operator.marginals import as_rows
from rebasin_core.support.settings import at_least, positive

__all__ = ["check_logits", "check_stopping", "read_start", "read_temperature"]

_DEFAULT_NUM_ITERS = 20
_COARSEST = 1e6
"""A tolerance that no plan misses, and that every dtype can hold."""


def check_logits(backend: Backend, logits: Array) -> tuple[DtypeName, tuple[int, ...], float | None]:
    """Return their dtype, their shape, and the largest of their absolute values, where it can be read."""
    dtype, shape = backend.dtype(logits), backend.shape(logits)
    if not is_floating(dtype):
        raise UnsupportedArrayError(
            f"expected logits of a real floating dtype, got {dtype}; convert them first, for instance to float32"
        )
    if len(shape) < 2 or 0 in shape:
        raise ShapeError(
            f"expected logits of shape (..., m, n) without an empty axis, got {shape}; a single matrix has shape "
            "(m, n), a batch (batch, m, n)"
        )
    if not backend.is_concrete(logits):
        return dtype, shape, None
    values = backend.stop_gradient(logits)
    largest = float(backend.maximum(backend.max(values), -backend.min(values)))
    if not math.isfinite(largest):
        raise NonFiniteError(
            "expected finite logits, got NaN or infinity; to forbid an entry, give it a low finite logit, such as the "
            "smallest one minus 50 tau, and if a training run produced this, lower its learning rate"
        )
    return dtype, shape, largest


def check_stopping(num_iters: int | None, tol: float | None) -> tuple[int | None, float | None]:
    """Return what ends the iterations: a number of them, or a tolerance."""
    if num_iters is not None and tol is not None:
        raise SettingError(
            f"expected num_iters or tol, got both ({num_iters!r}, {tol!r}); pass num_iters= for a fixed number of "
            "iterations, or tol= to iterate until the marginals are met"
        )
    if tol is not None:
        positive(tol=tol)
        return None, min(float(tol), _COARSEST)
    if num_iters is None:
        return _DEFAULT_NUM_ITERS, None
    if hasattr(num_iters, "shape") and num_iters.shape == ():  # a scalar of any framework
        num_iters = operator.index(num_iters)
    at_least(1, num_iters=num_iters)
    return int(num_iters), None


def read_temperature(backend: Backend, tau: Array | float, X: Array) -> tuple[Array, float | None]:
    """Return tau as a scalar array that goes with `X`, which is computed with, and its value where it can be read."""
    if isinstance(tau, Real):
        positive(tau=tau)
        value = float(tau)
        if not 1e-30 < value < 1e30:  # others are in the range of every dtype
            with np.errstate(over="ignore", under="ignore"):
                value = float(np.asarray(value, backend.dtype(X)))
            _check_range(backend, tau, value, X)
        return backend.asarray(value, like=X), value
    found = get_backend(tau)
    if found is not backend:
        raise UnsupportedArrayError(
            f"expected tau as a float or an array of {backend.name} like the logits, got an array of {found.name}; "
            "pass float(tau)"
        )
    if backend.shape(tau) != ():
        raise ShapeError(f"expected a scalar tau, got shape {backend.shape(tau)}; pass one temperature per call")
    with np.errstate(over="ignore", under="ignore"):
        scalar = backend.asarray(tau, like=X)
    if not backend.is_concrete(tau):
        return scalar, None
    given: Any = backend.to_numpy(tau).item()
    positive(tau=given)
    value = float(backend.to_numpy(scalar))
    _check_range(backend, given, value, X)
    return scalar, value


def _check_range(backend: Backend, given: Any, value: float, X: Array) -> None:
    smallest = limits_of(backend, X).smallest
    if not smallest <= value < math.inf:
        raise SettingError(
            f"expected tau as a number that {backend.dtype(X)} can hold, {smallest:.2g} or more, got {given!r}, which "
            f"is {value!r} there; multiply logits and tau by the same number, or pass float64 logits"
        )


def read_start(
    backend: Backend, start: tuple[Array, Array] | None, X: Array, shape: tuple[int, ...]
) -> tuple[Array, Array] | None:
    """Return the potentials to start from as rows, constant to every gradient."""
    if start is None:
        return None
    try:
        u, v = start
    except (TypeError, ValueError):
        raise ShapeError(
            "expected start as a pair (u, v), got something else; pass start=info.potentials of an earlier call"
        ) from None
    *batch, m, n = shape
    rows = []
    for name, potential, size in (("u", u, m), ("v", v, n)):
        potential = backend.stop_gradient(backend.asarray(potential, like=X))
        if backend.shape(potential) != (*batch, size):
            raise ShapeError(
                f"expected the potential {name} of start of shape {(*batch, size)} for these logits, got "
                f"{backend.shape(potential)}; pass potentials of an earlier call with logits of the same shape"
            )
        if backend.is_concrete(potential) and backend.any(~backend.isfinite(potential)):
            raise NonFiniteError(
                f"expected finite potentials to start from, got NaN or infinity in {name}; leave out start="
            )
        rows.append(as_rows(backend, potential, X))
    return rows[0], rows[1]
