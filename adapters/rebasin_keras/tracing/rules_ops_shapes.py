"""Rules for ``keras.ops`` in a functional graph that move, cut and join axes."""

import math
import re
from typing import Any

import keras
import numpy as np

from rebasin_core.inference import Primitives, Tensor, composites
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.registry import register_rule
from rebasin_keras.tracing.rules_convolution import pad_axis

__all__: list[str] = []


@register_rule("ops.Reshape", "ops.Ravel", "ops.Squeeze", "ops.ExpandDims")
def reshape(p: Primitives, call: Call) -> Tensor:
    """Reshape to what Keras reports."""
    return p.reshape(call.tensor(), call.shape)


@register_rule("ops.Transpose")
def transpose(p: Primitives, call: Call) -> Tensor:
    """Reorder the axes, or reverse them."""
    x, axes = call.tensor(), call.layer.axes
    return p.permute(x, range(x.ndim)[::-1] if axes is None else [a % x.ndim for a in axes])


@register_rule("ops.Swapaxes")
def swapaxes(p: Primitives, call: Call) -> Tensor:
    """Exchange two axes."""
    x, op = call.tensor(), call.layer
    order = list(range(x.ndim))
    order[op.axis1], order[op.axis2] = order[op.axis2], order[op.axis1]
    return p.permute(x, order)


@register_rule("ops.Moveaxis")
def moveaxis(p: Primitives, call: Call) -> Tensor:
    """Move axes to other places."""
    x, op = call.tensor(), call.layer
    source, target = ([a % x.ndim for a in _listed(axes)] for axes in (op.source, op.destination))
    moved = dict(zip(target, source, strict=True))
    rest = iter(axis for axis in range(x.ndim) if axis not in source)
    return p.permute(x, [moved[axis] if axis in moved else next(rest) for axis in range(x.ndim)])


@register_rule("ops.Rearrange")
def rearrange(p: Primitives, call: Call) -> Tensor:
    """Split, reorder and join axes by a pattern such as ``"b (h w) c -> b h w c"``."""
    x, lengths = call.tensor("tensor"), dict(call.get("axes_lengths", {}))
    left, right = (
        [(group or name).split() for group, name in re.findall(r"\(([^)]*)\)|([^\s()]+)", side)]
        for side in call["pattern"].split("->")
    )
    for names, n in zip(left, x.shape, strict=True):
        unknown = [name for name in names if name not in lengths]
        if len(unknown) == 1:
            lengths[unknown[0]] = n // math.prod(lengths.get(name, 1) for name in names)
    flat = [name for names in left for name in names]
    split = p.reshape(x, [lengths[name] for name in flat])
    return p.reshape(p.permute(split, [flat.index(name) for names in right for name in names]), call.shape)


@register_rule("ops.BroadcastTo")
def broadcast_to(p: Primitives, call: Call) -> Tensor:
    """Broadcast."""
    return p.expand(call.tensor(), call.shape)


@register_rule("ops.Tile")
def tile(p: Primitives, call: Call) -> Tensor:
    """Tile axes."""
    x, times = call.tensor(), _listed(call.layer.repeats)
    times = [1] * (x.ndim - len(times)) + times
    x = p.reshape(x, (*(1,) * (len(times) - x.ndim), *x.shape))
    for axis, count in enumerate(times):
        x = p.repeat(x, axis, count)
    return x


@register_rule("ops.Repeat")
def repeat(p: Primitives, call: Call) -> Tensor:
    """Repeat every entry of an axis in place."""
    x, op = call.tensor(), call.layer
    counts = _listed(op.repeats)
    if len(counts) > 1:
        raise NotImplementedError("a number of repetitions per entry")
    if op.axis is None:
        x = p.reshape(x, (math.prod(x.shape),))
    return p.repeat(x, op.axis or 0, counts[0], inner=True)


@register_rule("ops.GetItem")
def get_item(p: Primitives, call: Call) -> Tensor:
    """Index with integers, slices, new axes and an ellipsis."""
    x, key = call.tensor("x"), call["key"]
    keys: list[Any] = list(key) if isinstance(key, (list, tuple)) else [key]
    at = [k for k, item in enumerate(keys) if item is Ellipsis]
    position = at[0] if at else len(keys)
    after = keys[position + 1 :]
    missing = x.ndim - sum(item is not None and item is not Ellipsis for item in keys)
    axis = 0
    for item in [*keys[:position], *[slice(None)] * missing, *after]:
        if item is None:
            x = p.insert(x, axis)
        elif isinstance(item, slice):
            x = p.gather(x, axis, range(x.shape[axis])[item])
        elif isinstance(item, (int, np.integer)):
            x = p.select(x, axis, int(item))
            continue
        else:
            raise NotImplementedError(f"an index of type {type(item).__name__}")
        axis += 1
    return x


@register_rule("ops.Take")
def take(p: Primitives, call: Call) -> Tensor:
    """Take constant places along an axis, or look rows of a table up."""
    x, axis, indices = call.tensor("x"), call.layer.axis, call["indices"]
    if isinstance(indices, Tensor):
        if axis != 0:
            raise NotImplementedError("indices that are not constant")
        p.pin([indices], "an index into a table")
        return composites.embedding(p, x, indices.shape)
    if axis is None:
        x, axis = p.reshape(x, (math.prod(x.shape),)), 0
    axis %= x.ndim
    places = np.asarray(keras.ops.convert_to_numpy(indices))
    return p.reshape(p.gather(x, axis, places), (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


@register_rule("ops.Split", "ops.ArraySplit", "ops.Hsplit", "ops.Vsplit", "ops.Dsplit")
def split(p: Primitives, call: Call) -> list[Tensor]:
    """Cut an axis into ranges, as long as Keras reports."""
    x = call.tensor()
    name = type(call.layer).__name__
    fixed = {"Hsplit": 1 if x.ndim > 1 else 0, "Vsplit": 0, "Dsplit": 2}
    axis = fixed.get(name, getattr(call.layer, "axis", 0)) % x.ndim
    parts, start = [], 0
    for k in range(len(call.shapes)):
        length = call.whole(k)[axis]
        parts.append(p.gather(x, axis, range(start, start + length)))
        start += length
    return parts


@register_rule("ops.Unstack")
def unstack(p: Primitives, call: Call) -> list[Tensor]:
    """Take every place of an axis."""
    x, axis = call.tensor(), call.layer.axis
    return [p.select(x, axis, k) for k in range(x.shape[axis])]


@register_rule("ops.Concatenate", "ops.Append")
def concatenate(p: Primitives, call: Call) -> Tensor:
    """Concatenate along an axis."""
    if call.layer.axis is None:
        raise NotImplementedError("a concatenation of flattened tensors")
    return p.cat(call.tensors(), call.layer.axis)


@register_rule("ops.Stack")
def stack(p: Primitives, call: Call) -> Tensor:
    """Stack along a new axis."""
    return p.stack(call.tensors(), call.layer.axis)


@register_rule("ops.Flip")
def flip(p: Primitives, call: Call) -> Tensor:
    """Reverse axes."""
    x, axis = call.tensor(), call.layer.axis
    for a in range(x.ndim) if axis is None else _listed(axis):
        x = p.gather(x, a, range(x.shape[a] - 1, -1, -1))
    return x


@register_rule("ops.Roll")
def roll(p: Primitives, call: Call) -> Tensor:
    """Roll axes."""
    x, op = call.tensor(), call.layer
    if op.axis is None:
        raise NotImplementedError("a roll of the flattened tensor")
    for shift, axis in zip(_listed(op.shift), _listed(op.axis), strict=True):
        n = x.shape[axis]
        x = p.gather(x, axis, [(i - shift) % n for i in range(n)])
    return x


@register_rule("ops.Pad")
def pad(p: Primitives, call: Call) -> Tensor:
    """Pad by a constant, which is a concatenation; or by what is at the border, so that the axis stays."""
    x, op = call.tensor("x"), call.layer
    widths = [(int(before), int(after)) for before, after in np.broadcast_to(op.pad_width, (x.ndim, 2))]
    for axis, (before, after) in enumerate(widths):
        if op.mode == "constant":
            x = pad_axis(p, x, axis, before, after)
        elif before or after:
            x = p.window(x, [axis], [x.shape[axis] + before + after], "places of a padded axis")
    return x


@register_rule("ops.OnesLike", "ops.ZerosLike", "ops.FullLike", "ops.EmptyLike")
def filled(p: Primitives, call: Call) -> Tensor:
    """Make a tensor of one value."""
    value = call.get("fill_value")
    if value is not None and np.ndim(value):
        raise NotImplementedError("several values")
    return p.constant(call.shape, free_axes=range(len(call.shape)))


@register_rule("ops.Tril", "ops.Triu")
def triangle(p: Primitives, call: Call) -> Tensor:
    """Depend on the order of the last two axes."""
    return p.pin_axes(call.tensor(), [-2, -1], "the order along it matters")


@register_rule("ops.OneHot")
def one_hot(p: Primitives, call: Call) -> Tensor:
    """Turn indices into vectors."""
    p.pin([call.tensor()], "an index")
    return p.constant(call.shape, reason="an index")


def _listed(value: Any) -> list[int]:
    return [int(v) for v in value] if isinstance(value, (list, tuple, np.ndarray)) else [int(value)]
