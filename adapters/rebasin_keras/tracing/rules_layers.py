"""Rules for dense layers, embeddings, activations and layers that do nothing in eval mode."""

import keras
import numpy as np

from rebasin_core.inference import Primitives, Tensor, composites
from rebasin_keras.tracing.activations import activate, gated
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.registry import register_rule

__all__ = ["effective_weight", "einsum"]

NOTHING = """
ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise Identity SpatialDropout1D SpatialDropout2D
SpatialDropout3D
"""

ACTIVATIONS = "ReLU LeakyReLU ELU ThresholdedReLU"


@register_rule(*(f"layers.{name}" for name in [*NOTHING.split(), *ACTIVATIONS.split()]))
def identity(p: Primitives, call: Call) -> Tensor:
    """Keep the axes of the input."""
    return call.tensor()


@register_rule("layers.InputLayer")
def input_layer(p: Primitives, call: Call) -> Tensor:
    """Stand at the start of a chain."""
    return call.tensor()


@register_rule("layers.Dense")
def dense(p: Primitives, call: Call) -> Tensor:
    """``x @ kernel + bias`` over the last axis."""
    x, kernel = call.tensor(), effective_weight(p, call, "kernel")
    lead = list(range(x.ndim - 1))
    out = p.ein([x, kernel], [[*lead, "in"], ["in", "out"]], [*lead, "out"])
    bias = call.optional_weight("bias")
    out = out if bias is None else p.elementwise(out, bias)
    return activate(p, call, out, call.layer.activation)


@register_rule("layers.EinsumDense")
def einsum_dense(p: Primitives, call: Call) -> Tensor:
    """Einstein's summation of the input and a kernel."""
    out = einsum(p, call.layer.equation, [call.tensor(), effective_weight(p, call, "kernel")])
    bias = call.optional_weight("bias")
    out = out if bias is None else p.elementwise(out, bias)
    return activate(p, call, out, call.layer.activation)


def effective_weight(p: Primitives, call: Call, name: str) -> Tensor:
    """Return a kernel or a table, with the low-rank update of LoRA where that is enabled."""
    layer = call.layer
    if getattr(layer, "quantization_mode", None):
        raise NotImplementedError("a quantized layer")
    if not getattr(layer, "lora_enabled", False):
        return call.weight(getattr(layer, name))
    weight = call.weight(getattr(layer, f"_{name}"))
    a, b = (call.weight(getattr(layer, f"lora_{name}_{part}")) for part in "ab")
    lead = list(range(a.ndim - 1))
    return p.elementwise(weight, p.ein([a, b], [[*lead, "rank"], ["rank", "out"]], [*lead, "out"]))


def einsum(p: Primitives, equation: str, operands: list[Tensor]) -> Tensor:
    """Einstein's summation, with ellipses."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    widths = [x.ndim - len(term.replace("...", "")) for x, term in zip(operands, terms, strict=True)]
    widest = max(widths)

    def labels(term: str, width: int) -> list[object]:
        before, dots, after = term.partition("...")
        return [*before, *(range(widest - width, widest) if dots else ()), *after]

    names = [labels(term, width) for term, width in zip(terms, widths, strict=True)]
    return p.ein(operands, names, labels(right, widest))


@register_rule("layers.Activation")
def activation(p: Primitives, call: Call) -> Tensor:
    """Apply an activation function."""
    return activate(p, call, call.tensor(), call.layer.activation)


@register_rule("layers.Softmax")
def softmax(p: Primitives, call: Call) -> Tensor:
    """Normalize along axes, with a mask that broadcasts to the input."""
    x, mask, axis = call.tensor(), call.optional("mask"), call.layer.axis
    x = x if mask is None else p.elementwise(x, mask)
    return p.normalize(x, axis if isinstance(axis, (list, tuple)) else [axis])


@register_rule("layers.PReLU")
def prelu(p: Primitives, call: Call) -> Tensor:
    """A slope per entry of a sample, or shared along axes: it moves with what it belongs to."""
    return p.elementwise(call.tensor(), call.weight(call.layer.alpha))


@register_rule("layers.GLU")
def glu(p: Primitives, call: Call) -> Tensor:
    """Multiply one half of an axis with a function of the other."""
    return gated(p, call.tensor(), call.layer.axis)


@register_rule("layers.Embedding")
def embedding(p: Primitives, call: Call) -> Tensor:
    """Look rows of a table up."""
    return _looked_up(p, call)


def _looked_up(p: Primitives, call: Call) -> Tensor:
    indices = call.tensor()
    p.pin([indices], "an index into an embedding")
    return composites.embedding(p, effective_weight(p, call, "embeddings"), indices.shape)


@register_rule("layers.ReversibleEmbedding")
def reversible_embedding(p: Primitives, call: Call) -> Tensor:
    """Look rows up, or multiply with the table's transpose."""
    if not call.get("reverse"):
        return _looked_up(p, call)
    x, layer = call.tensor(), call.layer
    lead = list(range(x.ndim - 1))
    if layer.tie_weights:
        return p.ein([x, effective_weight(p, call, "embeddings")], [[*lead, "in"], ["row", "in"]], [*lead, "row"])
    return p.ein([x, call.weight(layer.reverse_embeddings)], [[*lead, "in"], ["in", "row"]], [*lead, "row"])


@register_rule("layers.Masking")
def masking(p: Primitives, call: Call) -> Tensor:
    """Blank the steps all of whose features have one value. The mask travels on its own, so that its steps stay."""
    x = call.tensor()
    return p.normalize(p.pin_axes(x, range(x.ndim - 1), "steps of a masked sequence"), [-1])


@register_rule("layers.Rescaling")
def rescaling(p: Primitives, call: Call) -> Tensor:
    """Multiply and add constants: one for all entries, or one per channel."""
    x, layer = call.tensor(), call.layer
    scale, offset = (np.asarray(c, dtype=np.float64) for c in (layer.scale, layer.offset))
    if scale.ndim and keras.config.image_data_format() == "channels_first":
        scale = scale.reshape(scale.shape + (1,) * (3 - scale.ndim))
    return p.elementwise(x, *(p.literal(c, "the constants of a Rescaling layer") for c in (scale, offset)))


@register_rule("layers.Normalization")
def normalization(p: Primitives, call: Call) -> Tensor:
    """Normalize by the statistics of a data set.

    The layer keeps a copy of the mean and variance that it has adapted to, which does not follow when the variables are
    permuted, so that the axis it normalizes stays.
    """
    x, layer = call.tensor(), call.layer
    reason = "statistics of a Normalization layer"
    variables = [getattr(layer, name, None) for name in ("adapt_mean", "adapt_variance")]
    p.pin([call.weight(v) for v in variables if v is not None], reason)
    shape = [n if axis in layer._keep_axis else 1 for axis, n in enumerate(x.shape)]
    return p.elementwise(x, p.constant(shape, reason=reason))
