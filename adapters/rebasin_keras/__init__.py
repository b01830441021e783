"""Keras 3, carried to and from rebasin-core: models on any backend, and TensorFlow's and JAX's arrays.

Nothing is imported before it is asked for: a user of JAX alone never loads TensorFlow, and the other way round. With
``KERAS_BACKEND=torch`` the arrays are served by rebasin_torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rebasin_keras.adapter import KerasAdapter
    from rebasin_keras.jax_backend import JaxBackend
    from rebasin_keras.net import RebasinModel
    from rebasin_keras.tensorflow_backend import TensorFlowBackend

__all__ = ["JaxBackend", "KerasAdapter", "RebasinModel", "TensorFlowBackend"]

_HOMES = {
    "JaxBackend": "jax_backend",
    "KerasAdapter": "adapter",
    "RebasinModel": "net",
    "TensorFlowBackend": "tensorflow_backend",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
