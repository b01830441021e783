"""Rules for layers that merge several inputs."""

from rebasin_core.inference import Primitives, Tensor
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.registry import register_rule

__all__: list[str] = []


@register_rule(*(f"layers.{name}" for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")))
def elementwise(p: Primitives, call: Call) -> Tensor:
    """Combine entries; inputs of lower rank get axes of length 1 behind the batch."""
    tensors = call.tensors()
    ndim = max(x.ndim for x in tensors)
    return p.elementwise(*(_of_rank(p, x, ndim) for x in tensors))


def _of_rank(p: Primitives, x: Tensor, ndim: int) -> Tensor:
    while x.ndim < ndim:
        x = p.insert(x, 1)
    return x


@register_rule("layers.Concatenate")
def concatenate(p: Primitives, call: Call) -> Tensor:
    """Concatenate along an axis."""
    return p.cat(call.tensors(), call.layer.axis)


@register_rule("layers.Dot")
def dot(p: Primitives, call: Call) -> Tensor:
    """Sum over one axis of each of two inputs, per sample."""
    x, y = call.tensors()
    axes = call.layer.axes
    a, b = (axes, axes) if isinstance(axes, int) else axes
    a, b = a % x.ndim, b % y.ndim
    if call.layer.normalize:
        x, y = p.normalize(x, [a]), p.normalize(y, [b])
    in_x: list[object] = ["batch", *(("x", axis) for axis in range(1, x.ndim))]
    in_y: list[object] = ["batch", *(("y", axis) for axis in range(1, y.ndim))]
    in_x[a] = in_y[b] = "summed"
    out = p.ein([x, y], [in_x, in_y], [label for label in [*in_x, *in_y[1:]] if label != "summed"])
    return p.insert(out, 1) if out.ndim == 1 else out
