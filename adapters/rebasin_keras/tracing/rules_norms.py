"""Rules for normalizations."""

from collections.abc import Sequence

from rebasin_core.inference import Primitives, Tensor, composites
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.registry import register_rule

__all__ = ["along"]


def along(p: Primitives, x: Tensor, axes: Sequence[int], *weights: Tensor | None) -> Tensor:
    """Scale and shift by weights over these axes of `x`, in ascending order."""
    axes = sorted(axis % x.ndim for axis in axes)
    given = [w for w in weights if w is not None]
    return p.ein([x, *given], [range(x.ndim), *(axes for _ in given)], range(x.ndim))


@register_rule("layers.BatchNormalization")
def batch_norm(p: Primitives, call: Call) -> Tensor:
    """Scale and shift every channel by the moving statistics."""
    x, layer = call.tensor(), call.layer
    if call.get("training"):
        # Called so in the graph itself, whatever the mode of the model.
        x = p.normalize(x, [axis for axis in range(x.ndim) if axis != layer.axis % x.ndim])
    names = ["gamma", "beta", "moving_mean", "moving_variance"]
    if getattr(layer, "renorm", False):
        # Read in training only, but they belong to the same channels.
        names += ["moving_stddev", "renorm_mean", "renorm_stddev"]
    return composites.channel_affine(p, x, *(call.optional_weight(name) for name in names), axis=layer.axis % x.ndim)


@register_rule("layers.LayerNormalization")
def layer_norm(p: Primitives, call: Call) -> Tensor:
    """Normalize along axes, then scale and shift along the same ones."""
    x, axis = call.tensor(), call.layer.axis
    axes = [axis] if isinstance(axis, int) else list(axis)
    return along(p, p.normalize(x, axes), axes, call.optional_weight("gamma"), call.optional_weight("beta"))


@register_rule("layers.RMSNormalization")
def rms_norm(p: Primitives, call: Call) -> Tensor:
    """Divide by the root of the mean square along axes, then scale."""
    x, axis = call.tensor(), call.layer.axis
    axes = [axis] if isinstance(axis, int) else list(axis)
    return along(p, p.normalize(x, axes), axes, call.optional_weight("scale"))


@register_rule("layers.GroupNormalization")
def group_norm(p: Primitives, call: Call) -> Tensor:
    """Normalize every group of channels of every sample, over channels and places."""
    x, layer = call.tensor(), call.layer
    axis = layer.axis % x.ndim
    # -1 stands for a group per channel, until the layer is built.
    groups = x.shape[axis] if layer.groups == -1 else layer.groups
    order = [0, axis, *(i for i in range(1, x.ndim) if i != axis)]
    second = p.permute(x, order)
    second = composites.group_norm(p, second, groups, call.optional_weight("gamma"), call.optional_weight("beta"))
    return p.permute(second, [order.index(i) for i in range(x.ndim)])


@register_rule("layers.UnitNormalization")
def unit_norm(p: Primitives, call: Call) -> Tensor:
    """Divide by the norm along axes."""
    axis = call.layer.axis
    return p.normalize(call.tensor(), [axis] if isinstance(axis, int) else axis)


@register_rule("layers.SpectralNormalization")
def spectral_norm(p: Primitives, call: Call) -> Tensor:
    """Call the wrapped layer. The vector of the power iteration is read in training only, but moves with the kernel."""
    kernel, vector = call.weight(call.layer.kernel), call.weight(call.layer.vector_u)
    p.elementwise(vector, p.reduce(kernel, range(kernel.ndim - 1)))
    result: Tensor = call.run(call.layer.layer, call.tensor())
    return result
