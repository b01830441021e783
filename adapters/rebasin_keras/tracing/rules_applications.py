"""Rules for layers of their own that models of ``keras.applications`` define."""

from rebasin_core.inference import Primitives, Tensor
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.registry import register_rule

__all__: list[str] = []


@register_rule("layers.LayerScale")
def layer_scale(p: Primitives, call: Call) -> Tensor:
    """Multiply every channel by a weight (ConvNeXt)."""
    return p.elementwise(call.tensor(), call.weight(call.layer.gamma))


@register_rule("layers.StochasticDepth")
def stochastic_depth(p: Primitives, call: Call) -> Tensor:
    """Drop whole samples in training, nothing in eval mode (ConvNeXt)."""
    return call.tensor()


@register_rule("layers.CustomScaleLayer")
def scaled_sum(p: Primitives, call: Call) -> Tensor:
    """Add a branch times a number (Inception-ResNet)."""
    return p.elementwise(*call.tensors())
