"""Array frameworks, found by the type of an array. Rooms from `sinkhorn_operator` upward may import it.

The core imports NumPy, SciPy and autograd only. Any other framework is an entry point of the group
``rebasin_core.backends``, named after the root module of its array types (``torch``, ``tensorflow``, ``jax``), and is
loaded when the first array of that framework is seen.
"""

from collections.abc import Callable
from typing import Any

from rebasin_core.backends.protocol import Array, Backend, DtypeName
from rebasin_core.errors import UnsupportedArrayError
from rebasin_core.support.registry import Registry

__all__ = ["Array", "Backend", "DtypeName", "get_backend", "register_backend"]

_AUTOGRAD = "rebasin_core.backends.autograd_numpy:AutogradBackend"
_REGISTRY: Registry[Backend] = Registry("rebasin_core.backends", {"numpy": _AUTOGRAD, "autograd": _AUTOGRAD})


def get_backend(*arrays: Any) -> Backend:
    """Return the backend that computes with these arrays.

    Parameters
    ----------
    *arrays : array
        At least one array; all of one framework. NumPy arrays and autograd boxes count as the same framework.

    Returns
    -------
    Backend
        One stateless object per framework: equal calls return the identical object.

    Raises
    ------
    UnsupportedArrayError
        If an argument is not an array of a known framework, or if the arrays belong to several.

    Examples
    --------
    >>> import numpy as np
    >>> get_backend(np.zeros(3)).name
    'numpy'
    """
    if not arrays:
        raise UnsupportedArrayError("get_backend() got no array; pass at least one, such as get_backend(logits)")
    first, *others = arrays
    backend = _backend_of_type(type(first))
    for other in others:
        found = _backend_of_type(type(other))
        if found is not backend:
            raise UnsupportedArrayError(
                f"the arrays belong to two frameworks: {_describe(type(first))} ({backend.name}) and "
                f"{_describe(type(other))} ({found.name}). Convert them to one framework first"
            )
    return backend


def register_backend(root_module: str, backend: Backend | Callable[[], Backend]) -> None:
    """Serve the arrays whose type is defined under `root_module` with `backend`.

    Takes precedence over entry points and over the built-in backend.

    Parameters
    ----------
    root_module : str
        First part of the module path of the array type, such as ``"torch"``.
    backend : Backend or callable
        The backend, or a class or function without arguments that makes it; called once, at the first such array.
    """
    _REGISTRY.register(root_module, backend)


def _backend_of_type(kind: type) -> Backend:
    backend = _REGISTRY.find(kind)
    if backend is None:
        raise UnsupportedArrayError(
            f"expected an array of NumPy, autograd or a framework with a registered backend, got {_describe(kind)}. "
            "Convert lists and numbers with np.asarray(..., dtype=float); for another framework, install its backend "
            "or call rebasin_core.register_backend()"
        )
    return backend


def _describe(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
