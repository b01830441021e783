"""Rules for whole layers: convolutions, norms, pooling, attention, recurrent networks."""

from collections.abc import Sequence

from rebasin_core.inference import Primitives, Tensor, composites
from rebasin_torch.tracing.registry import Call, register_rule

__all__: list[str] = []


@register_rule(
    "aten.convolution",
    "aten._convolution",
    "aten.conv1d",
    "aten.conv2d",
    "aten.conv3d",
    "aten.conv_transpose1d",
    "aten.conv_transpose2d",
    "aten.conv_transpose3d",
)
def convolution(p: Primitives, call: Call) -> Tensor:
    """Convolve in any number of dimensions, with or without a batch axis."""
    x, weight, bias = call.tensor("input"), call.tensor("weight"), call.optional("bias")
    transposed = bool(call.get("transposed", "transpose" in call.name))
    batched = x.ndim == weight.ndim
    if not batched:
        x = p.insert(x, 0)
    sizes = call.shape[-(weight.ndim - 2) :]
    out = p.conv(x, weight, sizes, groups=call["groups"], transposed=transposed)
    if bias is not None:
        out = composites.channel_affine(p, out, bias)
    return out if batched else p.select(out, 0, 0)


@register_rule("aten._native_batch_norm_legit_no_training", "aten.batch_norm", "aten.native_batch_norm")
def batch_norm(p: Primitives, call: Call) -> Tensor | list[Tensor | None]:
    """Scale and shift every channel by the running statistics; by those of the batch where there are none."""
    x = call.tensor("input")
    names = ("running_mean", "running_var")
    statistics = [call.optional(name) for name in names]
    if call.get("training", call.get("train", False)) or statistics[0] is None:
        x = p.normalize(x, [axis for axis in range(x.ndim) if axis != 1])
    out = composites.channel_affine(p, x, *statistics, call.optional("weight"), call.optional("bias"))
    return out if len(call.shapes) == 1 else [out, *(None for _ in call.shapes[1:])]


@register_rule("aten._native_batch_norm_legit")
def batch_norm_of_the_batch(p: Primitives, call: Call) -> list[Tensor | None]:
    """Normalize every channel by the statistics of the batch (instance norm is written so, on a reshaped tensor)."""
    x = call.tensor("input")
    x = p.normalize(x, [axis for axis in range(x.ndim) if axis != 1])
    out = composites.channel_affine(p, x, call.optional("weight"), call.optional("bias"))
    return [out, *(None for _ in call.shapes[1:])]


@register_rule("aten.instance_norm")
def instance_norm(p: Primitives, call: Call) -> Tensor:
    """Normalize every channel of every sample, or use running statistics."""
    x = call.tensor("input")
    affine = [call.optional("weight"), call.optional("bias")]
    if not call["use_input_stats"]:
        return composites.channel_affine(p, x, call.optional("running_mean"), call.optional("running_var"), *affine)
    return composites.channel_affine(p, p.normalize(x, range(2, x.ndim)), *affine)


@register_rule("aten.group_norm", "aten.native_group_norm")
def group_norm(p: Primitives, call: Call) -> Tensor | list[Tensor | None]:
    """Normalize groups of channels."""
    groups = call.get("num_groups", call.get("group"))
    x = call.tensor("input")
    out = composites.group_norm(p, x, groups, call.optional("weight"), call.optional("bias"))
    return out if len(call.shapes) == 1 else [out, None, None]


@register_rule("aten.layer_norm", "aten.native_layer_norm", "aten.rms_norm", "aten._fused_rms_norm")
def layer_norm(p: Primitives, call: Call) -> Tensor | list[Tensor | None]:
    """Normalize the last axes."""
    axes = len(call["normalized_shape"])
    out = composites.layer_norm(p, call.tensor("input"), axes, call.optional("weight"), call.optional("bias"))
    return out if len(call.shapes) == 1 else [out, *(None for _ in call.shapes[1:])]


@register_rule("aten._weight_norm_interface", "aten._weight_norm")
def weight_norm(p: Primitives, call: Call) -> Tensor | list[Tensor | None]:
    """A direction times a length per place of one axis."""
    weight = composites.weight_norm(p, call.tensor("v"), call.tensor("g"), call["dim"])
    return weight if len(call.shapes) == 1 else [weight, None]


POOLS = [f"aten.{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)]
POOLS += [f"aten._adaptive_avg_pool{n}d" for n in (2, 3)]
POOLS += [f"aten.max_pool{n}d_with_indices" for n in (1, 2, 3)]


@register_rule(*POOLS)
def pool(p: Primitives, call: Call) -> Tensor | list[Tensor]:
    """Combine neighboring places; the channels are a batch."""
    x = call.tensors()[0]
    count = int(next(c for c in call.name.split("pool")[1] if c.isdigit()))
    out = p.window(x, range(x.ndim - count, x.ndim), call.shape[-count:], "places of a pooling")
    return out if len(call.shapes) == 1 else [out] * len(call.shapes)


UPSAMPLINGS = [
    f"aten.upsample_{kind}"
    for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d")
]
UPSAMPLINGS += ["aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa"]
UPSAMPLINGS += [f"aten._upsample_nearest_exact{n}d" for n in (1, 2, 3)]


@register_rule(*UPSAMPLINGS)
def upsample(p: Primitives, call: Call) -> Tensor:
    """Interpolate between places."""
    x = call.tensors()[0]
    return p.window(x, range(2, x.ndim), call.shape[2:], "places of an up-sampling")


@register_rule("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def grid_sample(p: Primitives, call: Call) -> Tensor:
    """Sample places by a grid."""
    x = call.tensor("input")
    p.pin([call.tensor("grid")], "a sampling grid")
    x = p.pin_axes(x, [0], "samples, each with a grid of its own")
    return p.window(x, range(2, x.ndim), call.shape[2:], "places of a sampling")


@register_rule(
    "aten.scaled_dot_product_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention",
)
def attention(p: Primitives, call: Call) -> Tensor | list[Tensor | None]:
    """Scaled dot-product attention."""
    q, k, v = (call.tensor(name) for name in ("query", "key", "value"))
    mask = call.optional("attn_mask" if "attn_mask" in call.arguments else "attn_bias")
    out = composites.attention(p, q, k, v, mask, causal=bool(call["is_causal"]))
    return out if len(call.shapes) == 1 else [out, *(None for _ in call.shapes[1:])]


@register_rule("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")
def recurrent(p: Primitives, call: Call) -> list[Tensor]:
    """A recurrent network in eval mode; packed sequences have no rule."""
    if "batch_first" not in call.arguments:
        raise NotImplementedError("packed sequences")
    kind = call.name.partition(".")[2].partition("_")[0]
    hx = call["hx"]
    states = [call.symbolic(s) for s in (hx if isinstance(hx, (list, tuple)) else [hx])]
    weights = [call.symbolic(w) for w in call["params"]]
    directions = 2 if call["bidirectional"] else 1
    per_cell = len(weights) // (call["num_layers"] * directions)
    cells = [_cell(weights[k : k + per_cell], call["has_biases"]) for k in range(0, len(weights), per_cell)]
    layers = [cells[k : k + directions] for k in range(0, len(cells), directions)]
    x = call.tensor("input")
    time_axis = 1 if call["batch_first"] and x.ndim == 3 else 0
    return list(composites.recurrent(p, kind, x, layers, states, time_axis=time_axis))


def _cell(weights: Sequence[Tensor], has_biases: bool) -> composites.Cell:
    b_in, b_state = (weights[2], weights[3]) if has_biases else (None, None)
    rest = weights[4:] if has_biases else weights[2:]
    return composites.Cell(weights[0], weights[1], b_in, b_state, rest[0] if rest else None)
