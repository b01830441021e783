"""What a model and a process are made of, in a form that ``==`` compares."""

import pickle
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array

__all__ = ["on_host", "share_memory", "snapshot"]


def on_host(params: Mapping[str, Array]) -> dict[str, np.ndarray[Any, Any]]:
    """Copy parameters to NumPy."""
    return {name: get_backend(x).to_numpy(x) for name, x in params.items()}


def snapshot(model: Any, params: Mapping[str, Array]) -> dict[str, Any]:
    """Values of all parameters, plain attributes of the model (modes, flags), and the global random states, by name.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> model = SimpleNamespace(training=True)
    >>> before = snapshot(model, {"w": np.ones(2)})
    >>> model.training = False
    >>> after = snapshot(model, {"w": np.ones(2)})
    >>> [name for name in before if before[name] != after[name]]
    ["attribute 'training'"]
    """
    attributes = {
        f"attribute {name!r}": value
        for name, value in getattr(model, "__dict__", {}).items()
        if value is None or isinstance(value, (bool, int, float, str))
    }
    arrays = {f"parameter {name!r}": (x.dtype.str, x.shape, x.tobytes()) for name, x in on_host(params).items()}
    return {
        **arrays,
        **attributes,
        "Python's random state": random.getstate(),
        "NumPy's random state": pickle.dumps(np.random.get_state()),  # noqa: NPY002, the global state is watched
    }


def share_memory(x: Array, y: Array) -> bool:
    """Whether two arrays that can be written to share memory, for frameworks that let NumPy look."""
    try:
        a, b = np.from_dlpack(x), np.from_dlpack(y)
    except Exception:  # each framework refuses in its own way: other devices, dtypes that NumPy lacks, read-only
        return False
    return a.flags.writeable and b.flags.writeable and a.size > 0 and bool(np.shares_memory(a, b))
