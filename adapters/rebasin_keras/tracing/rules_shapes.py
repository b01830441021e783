"""Rules for layers that only move axes."""

from rebasin_core.inference import Primitives, Tensor
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.registry import register_rule

__all__: list[str] = []


@register_rule("layers.Flatten")
def flatten(p: Primitives, call: Call) -> Tensor:
    """Flatten every sample, with the channels last."""
    x = call.tensor()
    if call.layer.data_format == "channels_first" and x.ndim > 1:
        x = p.permute(x, [0, *range(2, x.ndim), 1])
    return p.reshape(x, call.shape)


@register_rule("layers.Reshape")
def reshape(p: Primitives, call: Call) -> Tensor:
    """Reshape every sample."""
    return p.reshape(call.tensor(), call.shape)


@register_rule("layers.Permute")
def permute(p: Primitives, call: Call) -> Tensor:
    """Reorder the axes of every sample; Keras counts them from one."""
    return p.permute(call.tensor(), [0, *call.layer.dims])


@register_rule("layers.RepeatVector")
def repeat_vector(p: Primitives, call: Call) -> Tensor:
    """Repeat every sample along a new axis."""
    return p.expand(p.insert(call.tensor(), 1), call.shape)
