"""Rules for element-wise operations, reductions and products."""

import torch

from rebasin_core.inference import Primitives, Tensor, composites
from rebasin_torch.tracing.registry import Call, register_rule

__all__: list[str] = []

# Element-wise functions of one tensor, in eval mode: the result has the axes of the argument.
UNARY = """
abs acos acosh alias asin asinh atan atanh bitwise_not ceil celu clamp clamp_max clamp_min clip clone contiguous cos
cosh deg2rad detach detach_ digamma dropout elu elu_ erf erfc erfinv exp exp2 expm1 feature_dropout alpha_dropout fix
floor frac gelu hardshrink hardsigmoid hardswish hardtanh hardtanh_ hardswish_ hardsigmoid_ isfinite isinf isnan
leaky_relu lgamma lift lift_fresh lift_fresh_copy log log10 log1p log2 log_sigmoid logical_not logit mish nan_to_num
native_dropout neg negative positive rad2deg reciprocal relu relu6 relu_ round rsqrt selu sgn sigmoid sign silu sin
sinc sinh softplus softshrink softsign sqrt square tan tanh tanhshrink threshold to trunc type_as _to_copy _conj real
view_of
"""

# Element-wise functions of several tensors, broadcast against each other.
NARY = """
add addcdiv addcmul atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign copy div
divide eq floor_divide fmax fmin fmod ge greater greater_equal gt heaviside hypot le lerp less less_equal logaddexp
logaddexp2 logical_and logical_or logical_xor lt masked_fill max_binary maximum minimum mul multiply ne nextafter
not_equal pow remainder rsub sub subtract true_divide where xlogy __and__ __or__ __xor__
"""

# Symmetric functions over axes: argument `dim`, one axis, several, or none for all.
REDUCTIONS = """
all amax amin any count_nonzero linalg_vector_norm logsumexp mean nanmean nansum norm prod std sum var
"""

CONSTANTS = """
arange empty empty_like empty_permuted empty_strided eye fill full full_like linspace new_empty new_full new_ones
new_zeros ones ones_like scalar_tensor zero zeros zeros_like
"""


@register_rule(*(f"aten.{name}" for name in UNARY.split()))
def unary(p: Primitives, call: Call) -> Tensor | list[Tensor | None]:
    """Keep the axes of the argument."""
    x = call.tensors()[0]
    if "dropout" in call.name and call["train"]:
        raise NotImplementedError("dropout in training mode")
    if len(call.tensors()) > 1 and call.name != "aten.type_as":
        # clamp(x, min, max) with tensors for bounds.
        return p.elementwise(*call.tensors())
    return [x, None] if call.name == "aten.native_dropout" else x


@register_rule(*(f"aten.{name}" for name in NARY.split()))
def nary(p: Primitives, call: Call) -> Tensor:
    """Broadcast the arguments."""
    if call.name == "aten.copy":
        return p.expand(call.tensor("src"), call.shape)
    tensors = call.tensors()
    out = p.elementwise(*tensors)
    return p.expand(out, call.shape)


@register_rule(*(f"aten.{name}" for name in REDUCTIONS.split()))
def reduction(p: Primitives, call: Call) -> Tensor:
    """Reduce by a symmetric function."""
    return _reduce(p, call)


def _reduce(p: Primitives, call: Call) -> Tensor:
    x = call.tensors()[0]
    dims = call.get("dim", call.get("dims"))
    axes = list(range(x.ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    return p.reduce(x, axes, keepdims=bool(call.get("keepdim", False)))


@register_rule("aten.var_mean", "aten.std_mean")
def two_statistics(p: Primitives, call: Call) -> list[Tensor]:
    """Reduce by two symmetric functions."""
    reduced = _reduce(p, call)
    return [reduced, reduced]


@register_rule("aten.max", "aten.min", "aten.median", "aten.mode")
def extremum(p: Primitives, call: Call) -> Tensor | list[Tensor | None]:
    """Reduce; where the index is read, it tells the order, so that the axis stays."""
    x = call.tensor("self")
    if call.get("other") is not None:
        return p.elementwise(x, call.tensor("other"))
    if "dim" not in call.arguments:
        return p.reduce(x, range(x.ndim))
    values = p.reduce(x, [call["dim"]], keepdims=call["keepdim"])
    if not call.used[1]:
        return [values, None]
    kept = p.pin_axes(x, [call["dim"]], f"{call.name} returns an index along it")
    reduced = p.reduce(kept, [call["dim"]], keepdims=call["keepdim"])
    return [reduced, reduced]


@register_rule("aten.argmax", "aten.argmin")
def index_of_extremum(p: Primitives, call: Call) -> Tensor:
    """Reduce an axis that stays, because its index is the result."""
    x = call.tensor("self")
    axes = range(x.ndim) if call["dim"] is None else [call["dim"]]
    kept = p.pin_axes(x, axes, f"{call.name} returns an index along it")
    return p.reduce(kept, axes, keepdims=call["keepdim"])


@register_rule(
    "aten._softmax",
    "aten.softmax",
    "aten._log_softmax",
    "aten.log_softmax",
    "aten._safe_softmax",
    "aten.special_softmax",
)
def softmax(p: Primitives, call: Call) -> Tensor:
    """Normalize along one axis."""
    return p.normalize(call.tensor("self"), [call["dim"]])


@register_rule(
    "aten.cumsum", "aten.cumprod", "aten.logcumsumexp", "aten.sort", "aten.cummax", "aten.cummin", "aten.topk"
)
def ordered(p: Primitives, call: Call) -> Tensor | list[Tensor]:
    """Operate along an axis whose order matters; the others are batches."""
    x = call.tensor("self")
    dim = call["dim"] % max(x.ndim, 1)
    x = p.window(x, [dim], [call.shape[dim]], f"{call.name} depends on the order along it")
    return x if len(call.shapes) == 1 else [x] * len(call.shapes)


@register_rule("aten.tril", "aten.triu")
def triangle(p: Primitives, call: Call) -> Tensor:
    """Depend on the order of the last two axes."""
    return p.pin_axes(call.tensor("self"), [-2, -1], f"{call.name} depends on the order along it")


@register_rule("aten.glu")
def glu(p: Primitives, call: Call) -> Tensor:
    """Multiply one half of an axis with a function of the other."""
    x, dim = call.tensor("self"), call["dim"]
    half = x.shape[dim] // 2
    return p.elementwise(p.gather(x, dim, range(half)), p.gather(x, dim, range(half, 2 * half)))


@register_rule("aten.prelu", "aten._prelu_kernel")
def prelu(p: Primitives, call: Call) -> Tensor:
    """A slope for all channels, or one per channel."""
    x, slope = call.tensor("self"), call.tensor("weight")
    if slope.ndim == x.ndim:
        return p.elementwise(x, slope)
    return composites.channel_affine(p, x, slope, axis=min(1, x.ndim - 1))


@register_rule("aten.linear")
def linear(p: Primitives, call: Call) -> Tensor:
    """``input @ weight.T + bias``."""
    return composites.linear(p, call.tensor("input"), call.tensor("weight"), call.optional("bias"))


@register_rule("aten.mm", "aten.bmm", "aten.matmul", "aten.mv", "aten.dot", "aten.inner_product")
def matmul(p: Primitives, call: Call) -> Tensor:
    """``a @ b``."""
    a, b = call.tensors()
    return composites.matmul(p, a, b)


@register_rule("aten.addmm", "aten.baddbmm", "aten.addmv", "aten.addbmm")
def addmm(p: Primitives, call: Call) -> Tensor:
    """``c + a @ b``."""
    if call.name == "aten.addbmm":
        raise NotImplementedError("a sum over the batch")
    c, a, b = call.tensors()
    return p.elementwise(composites.matmul(p, a, b), c)


@register_rule("aten.outer", "aten.ger")
def outer(p: Primitives, call: Call) -> Tensor:
    """All products of two vectors."""
    return p.ein(call.tensors(), ["i", "j"], "ij")


@register_rule("aten.einsum")
def einsum(p: Primitives, call: Call) -> Tensor:
    """Einstein's summation, with ellipses."""
    equation: str = call["equation"].replace(" ", "")
    operands = [call.symbolic(x) for x in call["tensors"]]
    left, arrow, right = equation.partition("->")
    inputs = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        right = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    widths = [
        x.ndim - len(term.replace("...", "")) if "..." in term else 0 for x, term in zip(operands, inputs, strict=True)
    ]
    widest = max(widths)

    def labels(term: str, width: int) -> list[object]:
        before, dots, after = term.partition("...")
        return [*before, *(range(widest - width, widest) if dots else ()), *after]

    names = [labels(term, width) for term, width in zip(inputs, widths, strict=True)]
    return p.ein(operands, names, labels(right, widest))


@register_rule(*(f"aten.{name}" for name in CONSTANTS.split()))
def constant(p: Primitives, call: Call) -> Tensor:
    """Make a tensor of one value, or of values that are not known."""
    varies = call.name in ("aten.arange", "aten.eye", "aten.linspace")
    return p.constant(call.shape, free_axes=() if varies else range(len(call.shape)), reason="a table of numbers")


@register_rule("aten.embedding")
def embedding(p: Primitives, call: Call) -> Tensor:
    """Look up rows of a table."""
    indices = call["indices"]
    shape = tuple(indices.shape)
    if isinstance(indices, Tensor):
        p.pin([indices], "an index into an embedding")
    return composites.embedding(p, call.tensor("weight"), shape)


@register_rule("aten.cosine_similarity")
def cosine_similarity(p: Primitives, call: Call) -> Tensor:
    """Compare two tensors along one axis."""
    both = p.elementwise(call.tensor("x1"), call.tensor("x2"))
    return p.reduce(both, [call["dim"]])


def known_list(value: object) -> list[int]:
    """Indices of a constant tensor as a flat list."""
    if not isinstance(value, torch.Tensor):
        raise NotImplementedError("indices that are not constant")
    if value.dtype == torch.bool:
        return [int(i) for i in value.reshape(-1).nonzero().reshape(-1).tolist()]
    return [int(i) for i in value.reshape(-1).tolist()]
