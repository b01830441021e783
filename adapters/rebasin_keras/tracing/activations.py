"""Activation functions: which of them treat every entry alike, and what the others do."""

from typing import Any

import keras

from rebasin_core.inference import Primitives, Tensor
from rebasin_keras.tracing.call import Call

__all__ = ["ELEMENTWISE", "activate", "require_elementwise"]

ELEMENTWISE = """
abs absolute celu cos elu exp exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear
log_sigmoid mish negative relu relu6 selu sigmoid silu sin soft_shrink softplus softsign sparse_plus sparse_sigmoid
square squareplus swish tanh tanh_shrink threshold
"""
"""Names in ``keras.activations`` and ``keras.ops`` of functions that act on every entry by itself."""

_ALONG_THE_LAST_AXIS = "log_softmax softmax sparsemax"


def activate(p: Primitives, call: Call, x: Tensor, activation: Any) -> Tensor:
    """Apply the activation of a layer: a function of Keras's, or a layer."""
    if activation is None or _is_one_of(activation, ELEMENTWISE):
        return x
    if isinstance(activation, keras.layers.Layer):
        result: Tensor = call.run(activation, x)
        return result
    if _is_one_of(activation, _ALONG_THE_LAST_AXIS):
        return p.normalize(x, [-1])
    if _is_one_of(activation, "glu"):
        return gated(p, x, -1)
    raise NotImplementedError(f"no rule for the activation {_name(activation)}")


def gated(p: Primitives, x: Tensor, axis: int) -> Tensor:
    """Multiply one half of an axis with a function of the other."""
    half = x.shape[axis] // 2
    return p.elementwise(p.gather(x, axis, range(half)), p.gather(x, axis, range(half, 2 * half)))


def require_elementwise(activation: Any) -> None:
    """Raise unless a function is known to treat every entry alike."""
    if activation is not None and not _is_one_of(activation, ELEMENTWISE):
        raise NotImplementedError(f"no rule for the activation {_name(activation)}")


def _is_one_of(activation: Any, names: str) -> bool:
    """Whether this very function stands under one of these names; the name alone says nothing of a user's function."""
    places = (keras.activations, keras.ops)
    found = [getattr(place, name, None) for name in names.split() for place in places]
    return any(activation is function for function in found)


def _name(activation: Any) -> str:
    return str(getattr(activation, "__name__", activation))
