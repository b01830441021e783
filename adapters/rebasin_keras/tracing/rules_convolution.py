"""Rules for convolutions and whatever else knows neighboring places: pooling, padding, cropping, up-sampling."""

from collections.abc import Sequence

from rebasin_core.inference import Primitives, Tensor, composites
from rebasin_keras.tracing.activations import activate
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.layouts import from_channels_second, places, to_channels_second
from rebasin_keras.tracing.registry import register_rule
from rebasin_keras.tracing.rules_layers import effective_weight

__all__ = ["convolve", "convolve_depthwise", "pad_axis", "pooled", "resized"]

RANKS = (1, 2, 3)


@register_rule(*(f"layers.Conv{n}D" for n in RANKS), *(f"layers.Conv{n}DTranspose" for n in RANKS))
def convolution(p: Primitives, call: Call) -> Tensor:
    """Convolve, plain, grouped or transposed."""
    layer = call.layer
    transposed = type(layer).__name__.endswith("Transpose")
    kernel = call.weight(layer.kernel) if transposed else effective_weight(p, call, "kernel")
    groups = 1 if transposed else layer.groups
    out = convolve(p, call, kernel, layer.data_format, groups=groups, transposed=transposed)
    return _finish(p, call, out)


@register_rule("layers.DepthwiseConv1D", "layers.DepthwiseConv2D")
def depthwise_convolution(p: Primitives, call: Call) -> Tensor:
    """Convolve every channel by itself."""
    return _finish(p, call, convolve_depthwise(p, call, call.weight(call.layer.kernel), call.layer.data_format))


@register_rule("layers.SeparableConv1D", "layers.SeparableConv2D")
def separable_convolution(p: Primitives, call: Call) -> Tensor:
    """Convolve every channel by itself, then mix the channels of every place."""
    layer = call.layer
    out = convolve_depthwise(p, call, call.weight(layer.depthwise_kernel), layer.data_format)
    pointwise = p.reduce(call.weight(layer.pointwise_kernel), range(layer.rank))
    labels = range(out.ndim)
    channels = 1 if layer.data_format == "channels_first" else out.ndim - 1
    mixed = ["out" if axis == channels else axis for axis in labels]
    return _finish(p, call, p.ein([out, pointwise], [labels, [channels, "out"]], mixed))


def _finish(p: Primitives, call: Call, out: Tensor) -> Tensor:
    """Add the bias and apply the activation of a layer."""
    channels = 1 if call.layer.data_format == "channels_first" else out.ndim - 1
    out = composites.channel_affine(p, out, call.optional_weight("bias"), axis=channels)
    return activate(p, call, out, call.layer.activation)


def convolve(
    p: Primitives, call: Call, kernel: Tensor, data_format: str, *, groups: int = 1, transposed: bool = False
) -> Tensor:
    """Convolve the input with a kernel ``(*places, in / groups, out)``, or ``(*places, out, in)`` where transposed."""
    x = to_channels_second(p, call.tensor(), data_format)
    rank = kernel.ndim - 2
    # Both the core's layouts, (out, in, *places) and (in, out, *places) where transposed, have Keras's last axis first.
    weight = p.permute(kernel, [rank + 1, rank, *range(rank)])
    sizes = [call.shape[axis] for axis in places(x.ndim, data_format)]
    return from_channels_second(p, p.conv(x, weight, sizes, groups=groups, transposed=transposed), data_format)


def convolve_depthwise(p: Primitives, call: Call, kernel: Tensor, data_format: str) -> Tensor:
    """Convolve with a kernel ``(*places, channels, multiplier)``; every channel gives neighboring ones."""
    x = to_channels_second(p, call.tensor(), data_format)
    reason = "places of a convolution"
    spatial = range(2, x.ndim)
    x = p.reduce(p.pin_axes(x, spatial, reason), spatial)
    rank = kernel.ndim - 2
    kernel = p.reduce(p.pin_axes(kernel, range(rank), "kernel of a convolution"), range(rank))
    out = p.ein([x, kernel], ["nc", "cm"], "ncm")
    out = p.reshape(out, (out.shape[0], out.shape[1] * out.shape[2]))
    sizes = [call.shape[axis] for axis in places(2 + rank, data_format)]
    out = Tensor((*out.dims, *p.constant(sizes, reason=reason).dims))
    return from_channels_second(p, out, data_format)


POOLS = [f"layers.{kind}Pooling{n}D" for kind in ("Max", "Average", "AdaptiveMax", "AdaptiveAverage") for n in RANKS]


@register_rule(*POOLS)
def pool(p: Primitives, call: Call) -> Tensor:
    """Combine neighboring places; the channels are a batch."""
    return pooled(p, call, call.layer.data_format)


def pooled(p: Primitives, call: Call, data_format: str) -> Tensor:
    """Give the places of an image their new sizes; they stay."""
    x = call.tensor()
    axes = places(x.ndim, data_format)
    return p.window(x, axes, [call.shape[axis] for axis in axes], "places of a pooling")


@register_rule(*(f"layers.Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in RANKS))
def global_pool(p: Primitives, call: Call) -> Tensor:
    """Combine all places."""
    x, mask, layer = call.tensor(), call.optional("mask"), call.layer
    if mask is not None:
        x = p.ein([x, mask], [range(x.ndim), range(mask.ndim)], range(x.ndim))
    return p.reduce(x, places(x.ndim, layer.data_format), keepdims=bool(layer.keepdims))


@register_rule(*(f"layers.UpSampling{n}D" for n in RANKS))
def up_sample(p: Primitives, call: Call) -> Tensor:
    """Repeat places, or interpolate between them."""
    return resized(p, call, getattr(call.layer, "data_format", "channels_last"))


def resized(p: Primitives, call: Call, data_format: str) -> Tensor:
    """Give the places of an image other sizes by interpolation."""
    x = call.tensor()
    axes = places(x.ndim, data_format)
    return p.window(x, axes, [call.shape[axis] for axis in axes], "places of an up-sampling")


@register_rule(*(f"layers.ZeroPadding{n}D" for n in RANKS))
def zero_pad(p: Primitives, call: Call) -> Tensor:
    """Concatenate zeros on both sides of the places."""
    x, layer = call.tensor(), call.layer
    axes = places(x.ndim, getattr(layer, "data_format", "channels_last"))
    for axis, (before, after) in zip(axes, _pairs(layer.padding), strict=True):
        x = pad_axis(p, x, axis, before, after)
    return x


def pad_axis(p: Primitives, x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Concatenate constants on both sides of an axis."""
    if not before and not after:
        return x
    if all(atom.pinned for atom in x.dims[axis]):
        # Nothing to find out: the axis stays with or without what is added to it.
        return p.window(x, [axis], [x.shape[axis] + before + after], "places of a padded axis")
    parts = [x]
    for count, at in ((before, 0), (after, 2)):
        if count:
            shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
            parts.insert(at, p.constant(shape, free_axes=range(x.ndim), reason="padding"))
    return p.cat(parts, axis)


@register_rule(*(f"layers.Cropping{n}D" for n in RANKS))
def crop(p: Primitives, call: Call) -> Tensor:
    """Take places away on both sides."""
    x, layer = call.tensor(), call.layer
    axes = places(x.ndim, getattr(layer, "data_format", "channels_last"))
    for axis, (before, after) in zip(axes, _pairs(layer.cropping), strict=True):
        x = p.gather(x, axis, range(before, x.shape[axis] - after))
    return x


def _pairs(amounts: Sequence[int | Sequence[int]]) -> list[tuple[int, int]]:
    """Amounts per axis; the one-dimensional layers have a single pair."""
    if all(isinstance(amount, int) for amount in amounts):
        amounts = [tuple(amounts)]  # type: ignore[arg-type]
    return [(int(pair[0]), int(pair[1])) for pair in amounts if not isinstance(pair, int)]
