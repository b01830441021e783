"""Rules for ``keras.ops`` in a functional graph: element-wise functions, reductions, products and neural operations."""

from collections.abc import Sequence
from typing import Any

from rebasin_core.inference import Primitives, Tensor, composites
from rebasin_keras.tracing.activations import gated
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.registry import register_rule
from rebasin_keras.tracing.rules_attention import attend
from rebasin_keras.tracing.rules_convolution import convolve, convolve_depthwise, pooled, resized
from rebasin_keras.tracing.rules_layers import einsum
from rebasin_keras.tracing.rules_norms import along

__all__: list[str] = []

# Element-wise functions: the result has the axes of the argument.
UNARY = """
Abs Absolute Angle Arccos Arccosh Arcsin Arcsinh Arctan Arctanh BitwiseInvert BitwiseNot Cast Cbrt Ceil Celu Clip Conj
Conjugate ConvertToTensor Copy Cos Cosh Deg2rad Elu Erf Erfc Erfinv Exp Exp2 Expm1 Fabs Floor Gelu HardShrink
HardSigmoid HardSilu HardTanh I0 Imag Isfinite Isinf Isnan Isneginf Isposinf Isreal LeakyRelu Log Log10 Log1p Log2
LogSigmoid LogicalNot NanToNum Negative Rad2deg Real Reciprocal Relu Relu6 Round Rsqrt SaturateCast Selu Sigmoid Sign
Signbit Silu Sin Sinc Sinh SoftShrink Softplus Softsign SparsePlus SparseSigmoid Sqrt Square Squareplus StopGradient Tan
TanhShrink Tanh Threshold Trunc
"""

# Element-wise functions of several tensors, broadcast against each other.
NARY = """
Add Arctan2 BitwiseAnd BitwiseLeftShift BitwiseOr BitwiseRightShift BitwiseXor Divide DivideNoNan Equal FloorDivide Fmax
Fmin Fmod Gcd Greater GreaterEqual Heaviside Hypot Isclose Lcm Ldexp LeftShift Less LessEqual Logaddexp Logaddexp2
LogicalAnd LogicalOr LogicalXor Maximum Minimum Mod Multiply Nextafter NotEqual Power RightShift Subtract TrueDivide
Where
"""

# Symmetric functions over axes: attribute `axis`, one axis, several, or None for all.
REDUCTIONS = """
All Amax Amin Any CountNonzero Logsumexp Max Mean Median Min Nanmax Nanmean Nanmedian Nanmin Nanprod Nanstd Nansum
Nanvar Norm Percentile Prod Ptp Quantile Std Sum Var
"""


def axes_of(axis: Any, ndim: int) -> list[int]:
    """Axes as a list, from the ways in which Keras takes them."""
    if axis is None:
        return list(range(ndim))
    return [a % ndim for a in (axis if isinstance(axis, (list, tuple)) else [axis])]


@register_rule(*(f"ops.{name}" for name in UNARY.split()))
def unary(p: Primitives, call: Call) -> Tensor:
    """Keep the axes of the argument; bounds that are tensors are broadcast."""
    bounds = [getattr(call.layer, name, None) for name in ("x_min", "x_max")]
    return p.elementwise(call.tensor(), *(call.symbolic(b) for b in bounds if b is not None))


@register_rule(*(f"ops.{name}" for name in NARY.split()))
def nary(p: Primitives, call: Call) -> Tensor:
    """Broadcast the arguments, lists of numbers among them."""
    return p.elementwise(*(call.symbolic(x) for x in call.arguments.values()))


@register_rule(*(f"ops.{name}" for name in REDUCTIONS.split()))
def reduction(p: Primitives, call: Call) -> Tensor:
    """Reduce by a symmetric function."""
    x, op = call.tensor(), call.layer
    name = type(op).__name__
    if name in ("Percentile", "Quantile") and len(call.shape) > x.ndim:
        raise NotImplementedError("several quantiles at once")
    if name == "Norm" and op.ord not in (None, "fro", 2) and len(axes_of(op.axis, x.ndim)) > 1:
        raise NotImplementedError(f"the matrix norm {op.ord!r}")
    return p.reduce(x, axes_of(op.axis, x.ndim), keepdims=bool(getattr(op, "keepdims", False)))


@register_rule("ops.Average")
def average(p: Primitives, call: Call) -> Tensor:
    """Average, with weights per entry or along one axis."""
    x, weights, axis = call.tensor("x"), call.optional("weights"), call.layer.axis
    axes = axes_of(axis, x.ndim)
    if weights is not None:
        x = p.ein([x, weights], [range(x.ndim), axes if weights.ndim == 1 else range(x.ndim)], range(x.ndim))
    return p.reduce(x, axes)


@register_rule("ops.Moments")
def moments(p: Primitives, call: Call) -> list[Tensor]:
    """Mean and variance."""
    x, op = call.tensor(), call.layer
    reduced = p.reduce(x, axes_of(op.axes, x.ndim), keepdims=bool(op.keepdims))
    return [reduced, reduced]


@register_rule("ops.Argmax", "ops.Argmin", "ops.Nanargmax", "ops.Nanargmin")
def index_of_extremum(p: Primitives, call: Call) -> Tensor:
    """Reduce an axis that stays, because its index is the result."""
    x, op = call.tensor(), call.layer
    axes = axes_of(op.axis, x.ndim)
    return p.reduce(p.pin_axes(x, axes, "its index is returned"), axes, keepdims=bool(op.keepdims))


@register_rule("ops.Cumsum", "ops.Cumprod", "ops.Sort", "ops.Argsort", "ops.TopK", "ops.Nancumsum", "ops.Nancumprod")
def ordered(p: Primitives, call: Call) -> Tensor | list[Tensor]:
    """Operate along an axis whose order matters; the others are batches."""
    x, axis = call.tensor(), getattr(call.layer, "axis", -1)
    if axis is None:
        raise NotImplementedError("a flattened tensor")
    out = p.window(x, [axis], [call.shape[axis]], "the order along it matters")
    return out if len(call.shapes) == 1 else [out] * len(call.shapes)


@register_rule("ops.Softmax", "ops.LogSoftmax", "ops.Sparsemax", "ops.Normalize")
def normalize(p: Primitives, call: Call) -> Tensor:
    """Normalize along axes."""
    x = call.tensor()
    return p.normalize(x, axes_of(call.layer.axis, x.ndim))


@register_rule("ops.Glu")
def glu(p: Primitives, call: Call) -> Tensor:
    """Multiply one half of an axis with a function of the other."""
    return gated(p, call.tensor(), call.layer.axis)


@register_rule("ops.Matmul")
def matmul(p: Primitives, call: Call) -> Tensor:
    """``x1 @ x2``."""
    return composites.matmul(p, call.tensor("x1"), call.tensor("x2"))


@register_rule("ops.Dot")
def dot(p: Primitives, call: Call) -> Tensor:
    """Sum over the last axis of the first and the last but one of the second tensor; numbers multiply."""
    a, b = call.tensor("x1"), call.tensor("x2")
    if not a.ndim or not b.ndim:
        return p.elementwise(a, b)
    return _tensordot(p, a, b, [a.ndim - 1], [max(b.ndim - 2, 0)])


@register_rule("ops.Inner")
def inner(p: Primitives, call: Call) -> Tensor:
    """Sum over the last axes."""
    a, b = call.tensor("x1"), call.tensor("x2")
    return _tensordot(p, a, b, [a.ndim - 1], [b.ndim - 1])


@register_rule("ops.Outer")
def outer(p: Primitives, call: Call) -> Tensor:
    """All products of two vectors."""
    a, b = call.tensor("x1"), call.tensor("x2")
    if a.ndim != 1 or b.ndim != 1:
        raise NotImplementedError("an outer product of flattened tensors")
    return p.ein([a, b], ["i", "j"], "ij")


@register_rule("ops.Tensordot")
def tensordot(p: Primitives, call: Call) -> Tensor:
    """Sum over pairs of axes."""
    a, b, axes = call.tensor("x1"), call.tensor("x2"), call.layer.axes
    if isinstance(axes, int):
        return _tensordot(p, a, b, list(range(a.ndim - axes, a.ndim)), list(range(axes)))
    in_a, in_b = (axes_of(part, x.ndim) for part, x in zip(axes, (a, b), strict=True))
    return _tensordot(p, a, b, in_a, in_b)


def _tensordot(p: Primitives, a: Tensor, b: Tensor, in_a: Sequence[int], in_b: Sequence[int]) -> Tensor:
    labels_a: list[object] = [("a", i) for i in range(a.ndim)]
    labels_b: list[object] = [("b", i) for i in range(b.ndim)]
    for k, (i, j) in enumerate(zip(in_a, in_b, strict=True)):
        labels_a[i] = labels_b[j] = k
    kept = [label for label in [*labels_a, *labels_b] if not isinstance(label, int)]
    return p.ein([a, b], [labels_a, labels_b], kept)


@register_rule("ops.Einsum")
def einsum_op(p: Primitives, call: Call) -> Tensor:
    """Einstein's summation."""
    return einsum(p, call.layer.subscripts, call.tensors())


@register_rule("ops.Conv", "ops.ConvTranspose")
def convolution(p: Primitives, call: Call) -> Tensor:
    """Convolve; the number of groups is what the kernel leaves of the channels."""
    op, kernel, x = call.layer, call.tensor("kernel"), call.tensor("inputs")
    transposed = type(op).__name__ == "ConvTranspose"
    channels = x.shape[1 if op.data_format == "channels_first" else -1]
    groups = 1 if transposed else channels // kernel.shape[-2]
    return convolve(p, call, kernel, op.data_format, groups=groups, transposed=transposed)


@register_rule("ops.DepthwiseConv")
def depthwise_convolution(p: Primitives, call: Call) -> Tensor:
    """Convolve every channel by itself."""
    return convolve_depthwise(p, call, call.tensor("kernel"), call.layer.data_format)


@register_rule("ops.MaxPool", "ops.AveragePool", "ops.AdaptiveMaxPool", "ops.AdaptiveAveragePool")
def pool(p: Primitives, call: Call) -> Tensor:
    """Combine neighboring places."""
    return pooled(p, call, call.layer.data_format)


@register_rule("ops.Resize")
def resize(p: Primitives, call: Call) -> Tensor:
    """Interpolate between the places of an image or of a batch of them."""
    if call.tensor().ndim != 4:
        raise NotImplementedError("an image without a batch axis")
    return resized(p, call, call.layer.data_format)


@register_rule("ops.BatchNorm")
def batch_norm(p: Primitives, call: Call) -> Tensor:
    """Scale and shift along one axis by given statistics."""
    x = call.tensor("x")
    vectors = [call.optional(name) for name in ("mean", "variance", "offset", "scale")]
    return composites.channel_affine(p, x, *vectors, axis=call.layer.axis % x.ndim)


@register_rule("ops.LayerNorm", "ops.RMSNorm")
def layer_norm(p: Primitives, call: Call) -> Tensor:
    """Normalize along axes, then scale and shift along the same ones."""
    x = call.tensor("x")
    axes = axes_of(call.layer.axis, x.ndim)
    return along(p, p.normalize(x, axes), axes, *(call.optional(name) for name in ("gamma", "beta", "scale")))


@register_rule("ops.DotProductAttention")
def dot_product_attention(p: Primitives, call: Call) -> Tensor:
    """Attention on ``(batch, places, heads, channels)``; a head of keys and values may serve several of the queries."""
    query, key, value = (call.tensor(name) for name in ("query", "key", "value"))
    times = query.shape[2] // key.shape[2]
    key, value = (x if times == 1 else p.repeat(x, 2, times, inner=True) for x in (key, value))
    masks = [m for m in (call.optional("bias"), call.optional("mask")) if m is not None]
    return attend(p, query, key, value, [1], masks=masks, ordered=bool(call.layer.is_causal))[0]
