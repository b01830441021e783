"""Rules for operations that move, cut and join axes."""

from collections.abc import Sequence
from typing import Any

import torch

from rebasin_core.inference import Primitives, Tensor, composites
from rebasin_torch.tracing.registry import Call, register_rule
from rebasin_torch.tracing.rules_math import known_list

__all__: list[str] = []


@register_rule(
    "aten.view",
    "aten.reshape",
    "aten._unsafe_view",
    "aten.flatten",
    "aten.unflatten",
    "aten.squeeze",
    "aten.unsqueeze",
    "aten.view_as",
    "aten.reshape_as",
    "aten._reshape_alias",
    "aten.view_copy",
    "aten.squeeze_copy",
    "aten.unsqueeze_copy",
    "aten._reshape_copy",
    "aten.atleast_1d",
    "aten.atleast_2d",
    "aten.atleast_3d",
    "aten.ravel",
)
def reshape(p: Primitives, call: Call) -> Tensor:
    """Reshape to what torch reports."""
    if call.get("dtype") is not None:
        raise NotImplementedError("a view as another dtype")
    return p.reshape(call.tensor("self"), call.shape)


@register_rule("aten.permute", "aten.permute_copy")
def permute(p: Primitives, call: Call) -> Tensor:
    """Reorder the axes."""
    x = call.tensor("self")
    return p.permute(x, [d % x.ndim for d in call["dims"]])


@register_rule("aten.transpose", "aten.transpose_copy", "aten.swapaxes", "aten.swapdims")
def transpose(p: Primitives, call: Call) -> Tensor:
    """Exchange two axes."""
    x = call.tensor("self")
    order = list(range(x.ndim))
    names = [name for name in ("dim0", "dim1", "axis0", "axis1") if name in call.arguments]
    a, b = (call[name] for name in names)
    order[a], order[b] = order[b], order[a]
    return p.permute(x, order)


@register_rule("aten.t", "aten.numpy_T", "aten.mT", "aten.adjoint", "aten.t_copy")
def matrix_transpose(p: Primitives, call: Call) -> Tensor:
    """Exchange the last two axes; reverse all of them for ``.T``."""
    x = call.tensor("self")
    order = list(range(x.ndim))
    if call.name == "aten.numpy_T":
        return p.permute(x, order[::-1])
    return p.permute(x, [*order[:-2], *order[-2:][::-1]])


@register_rule("aten.movedim", "aten.moveaxis")
def movedim(p: Primitives, call: Call) -> Tensor:
    """Move axes to other places."""
    x = call.tensor("self")
    source, target = ([d % x.ndim for d in _as_list(call[name])] for name in ("source", "destination"))
    order: list[int | None] = [None] * x.ndim
    for s, t in zip(source, target, strict=True):
        order[t] = s
    rest = iter(d for d in range(x.ndim) if d not in source)
    return p.permute(x, [next(rest) if d is None else d for d in order])


@register_rule("aten.expand", "aten.expand_as", "aten.expand_copy", "aten.broadcast_to")
def expand(p: Primitives, call: Call) -> Tensor:
    """Broadcast."""
    return p.expand(call.tensor("self"), call.shape)


@register_rule("aten.repeat", "aten.tile")
def repeat(p: Primitives, call: Call) -> Tensor:
    """Tile."""
    x = call.tensor("self")
    times = list(call.get("repeats", call.get("dims")))
    times = [1] * (x.ndim - len(times)) + times
    x = p.reshape(x, (*(1,) * (len(times) - x.ndim), *x.shape))
    for axis, count in enumerate(times):
        x = p.repeat(x, axis, count)
    return x


@register_rule("aten.repeat_interleave")
def repeat_interleave(p: Primitives, call: Call) -> Tensor:
    """Repeat every entry of an axis in place."""
    x, count = call.tensor("self"), call["repeats"]
    if not isinstance(count, int):
        raise NotImplementedError("a number of repetitions per entry")
    if call["dim"] is None:
        x = p.reshape(x, (-1 if x.ndim == 0 else int(torch.Size(x.shape).numel()),))
    return p.repeat(x, call["dim"] or 0, count, inner=True)


@register_rule("aten.slice", "aten.slice_copy")
def slice_(p: Primitives, call: Call) -> Tensor:
    """Take a range of places."""
    x, dim = call.tensor("self"), call["dim"]
    places = range(x.shape[dim])[slice(call["start"], call["end"], call["step"])]
    return p.gather(x, dim, places)


@register_rule("aten.narrow", "aten.narrow_copy")
def narrow(p: Primitives, call: Call) -> Tensor:
    """Take a range of places."""
    start = call["start"]
    return p.gather(call.tensor("self"), call["dim"], range(start, start + call["length"]))


@register_rule("aten.select", "aten.select_copy")
def select(p: Primitives, call: Call) -> Tensor:
    """Take one place and drop the axis."""
    return p.select(call.tensor("self"), call["dim"], call["index"])


@register_rule("aten.unbind", "aten.unbind_copy")
def unbind(p: Primitives, call: Call) -> list[Tensor | None]:
    """Take every place of an axis."""
    x, dim = call.tensor("self"), call["dim"]
    return [p.select(x, dim, k) if used else None for k, used in enumerate(call.used)]


@register_rule(
    "aten.split",
    "aten.split_with_sizes",
    "aten.chunk",
    "aten.tensor_split",
    "aten.split_copy",
    "aten.split_with_sizes_copy",
    "aten.unsafe_split",
    "aten.unsafe_chunk",
)
def split(p: Primitives, call: Call) -> list[Tensor | None]:
    """Cut an axis into ranges, as long as torch reports."""
    x = call.tensor("self")
    dim = call["dim"] % x.ndim
    parts: list[Tensor | None] = []
    start = 0
    for shape, used in zip(call.shapes, call.used, strict=True):
        if shape is None:
            raise NotImplementedError("a part that is no tensor")
        parts.append(p.gather(x, dim, range(start, start + shape[dim])) if used and shape[dim] else None)
        start += shape[dim]
    return parts


@register_rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(p: Primitives, call: Call) -> Tensor:
    """Concatenate; the legacy empty vectors among the arguments are left out."""
    tensors = [call.symbolic(x) for x in call["tensors"]]
    return p.cat([x for x in tensors if x.shape != (0,)], call["dim"])


@register_rule("aten.stack")
def stack(p: Primitives, call: Call) -> Tensor:
    """Stack along a new axis."""
    return p.stack([call.symbolic(x) for x in call["tensors"]], call["dim"])


@register_rule("aten.flip")
def flip(p: Primitives, call: Call) -> Tensor:
    """Reverse axes."""
    x = call.tensor("self")
    for dim in call["dims"]:
        x = p.gather(x, dim, range(x.shape[dim] - 1, -1, -1))
    return x


@register_rule("aten.roll")
def roll(p: Primitives, call: Call) -> Tensor:
    """Roll axes."""
    x = call.tensor("self")
    if not call["dims"]:
        raise NotImplementedError("a roll of the flattened tensor")
    for shift, dim in zip(_as_list(call["shifts"]), _as_list(call["dims"]), strict=True):
        n = x.shape[dim]
        x = p.gather(x, dim, [(i - shift) % n for i in range(n)])
    return x


@register_rule("aten.index_select")
def index_select(p: Primitives, call: Call) -> Tensor:
    """Take constant places."""
    return p.gather(call.tensor("self"), call["dim"], known_list(call["index"]))


@register_rule("aten.index", "aten._unsafe_index")
def index(p: Primitives, call: Call) -> Tensor:
    """Index with tensors: exactly for one constant index; else the indexed axes stay."""
    x = call.tensor("self")
    indices: list[Any] = list(call["indices"])
    axes = [axis for axis, given in enumerate(indices) if given is not None]
    if len(axes) == 1 and isinstance(indices[axes[0]], torch.Tensor):
        (axis,), given = axes, indices[axes[0]]
        if given.dtype == torch.bool and given.ndim != 1:
            raise NotImplementedError("a mask over several axes")
        taken = p.gather(x, axis, known_list(given))
        shape = (taken.shape[axis],) if given.dtype == torch.bool else tuple(given.shape)
        return p.reshape(taken, (*x.shape[:axis], *shape, *x.shape[axis + 1 :]))
    reason = "indexed by tensors"
    for axis in axes:
        given = call.symbolic(indices[axis])
        p.pin([given], "an index")
    x = p.pin_axes(x, axes, reason)
    rest = x.ndim - len(axes)
    joined = axes == list(range(axes[0], axes[-1] + 1))
    before = axes[0] if joined else 0
    kept = [dim for axis, dim in enumerate(x.dims) if axis not in axes]
    places = call.shape[before : len(call.shape) - (rest - before)]
    middle = p.constant(places, reason=reason)
    return Tensor((*kept[:before], *middle.dims, *kept[before:]))


@register_rule("aten.slice_scatter")
def slice_scatter(p: Primitives, call: Call) -> Tensor:
    """Overwrite a range of places: the places before, the new ones, those after."""
    if call["step"] != 1:
        raise NotImplementedError("a step")
    x, source, dim = call.tensor("self"), call.tensor("src"), call["dim"]
    n = x.shape[dim]
    places = range(n)[slice(call["start"], call["end"])]
    parts = [source]
    if places.start > 0:
        parts.insert(0, p.gather(x, dim, range(places.start)))
    if places.stop < n:
        parts.append(p.gather(x, dim, range(places.stop, n)))
    return p.cat(parts, dim)


@register_rule("aten.select_scatter")
def select_scatter(p: Primitives, call: Call) -> Tensor:
    """Overwrite one place."""
    x, dim = call.tensor("self"), call["dim"]
    dim %= x.ndim
    place = call["index"] % x.shape[dim]
    parts = [p.insert(call.tensor("src"), dim)]
    if place > 0:
        parts.insert(0, p.gather(x, dim, range(place)))
    if place + 1 < x.shape[dim]:
        parts.append(p.gather(x, dim, range(place + 1, x.shape[dim])))
    return p.cat(parts, dim)


@register_rule("aten.constant_pad_nd", "aten.pad")
def constant_pad(p: Primitives, call: Call) -> Tensor:
    """Pad by a constant: concatenate it on both sides, or take places away."""
    if call.get("mode", "constant") != "constant":
        return _border_pad(p, call)
    x = call.tensor("self")
    pad: Sequence[int] = call["pad"]
    for k in range(len(pad) // 2):
        dim, (before, after) = x.ndim - 1 - k, pad[2 * k : 2 * k + 2]
        n = x.shape[dim]
        x = p.gather(x, dim, range(max(-before, 0), n - max(-after, 0)))
        parts = [x]
        for count, at in ((before, 0), (after, len(parts) + (before > 0))):
            if count > 0:
                shape = (*x.shape[:dim], count, *x.shape[dim + 1 :])
                parts.insert(at, p.constant(shape, free_axes=range(x.ndim), reason="padding"))
        x = p.cat(parts, dim)
    return x


@register_rule(*(f"aten.{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)))
def border_pad(p: Primitives, call: Call) -> Tensor:
    """Pad by what is at the border."""
    return _border_pad(p, call)


def _border_pad(p: Primitives, call: Call) -> Tensor:
    x = call.tensor("self")
    count = len(call.get("padding", call.get("pad"))) // 2
    axes = range(x.ndim - count, x.ndim)
    return p.window(x, axes, call.shape[x.ndim - count :], "places of a padded axis")


@register_rule("aten.unfold", "aten.diagonal", "aten.diagonal_copy")
def unfold(p: Primitives, call: Call) -> Tensor:
    """Cut overlapping windows out of an axis, which therefore stays; the windows are a last axis."""
    if call.name != "aten.unfold":
        raise NotImplementedError("a diagonal")
    x = call.tensor("self")
    dim = call["dimension"] % x.ndim
    x = p.window(x, [dim], [call.shape[dim]], "overlapping windows")
    return Tensor((*x.dims, *p.constant((call["size"],), reason="overlapping windows").dims))


@register_rule("aten.pixel_shuffle")
def pixel_shuffle(p: Primitives, call: Call) -> Tensor:
    """Move channels to places."""
    return composites.pixel_shuffle(p, call.tensor("self"), call["upscale_factor"])


@register_rule("aten.pixel_unshuffle")
def pixel_unshuffle(p: Primitives, call: Call) -> Tensor:
    """Move places to channels."""
    x, factor = call.tensor("self"), call["downscale_factor"]
    *lead, channels, height, width = x.shape
    n = len(lead)
    x = p.reshape(x, (*lead, channels, height // factor, factor, width // factor, factor))
    x = p.permute(x, [*range(n), n, n + 2, n + 4, n + 1, n + 3])
    return p.reshape(x, call.shape)


@register_rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(p: Primitives, call: Call) -> Tensor:
    """Interleave groups of channels."""
    x, groups = call.tensor("self"), call["groups"]
    batch, channels, *places = x.shape
    x = p.reshape(x, (batch, groups, channels // groups, *places))
    x = p.permute(x, [0, 2, 1, *range(3, x.ndim)])
    return p.reshape(x, call.shape)


def _as_list(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
