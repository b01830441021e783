"""Rules for attention."""

from collections.abc import Sequence

from rebasin_core.inference import Primitives, Tensor
from rebasin_keras.tracing.call import Call
from rebasin_keras.tracing.registry import register_rule

__all__ = ["attend"]


@register_rule("layers.MultiHeadAttention")
def multi_head_attention(p: Primitives, call: Call) -> Tensor | list[Tensor]:
    """Attend with several heads, along any axes between batch and features."""
    layer = call.layer
    query, key, value = _projected(call, layer._query_dense, layer._key_dense, layer._value_dense)
    axes: Sequence[int] = layer._attention_axes
    out, scores = attend(p, query, key, value, axes, masks=_masks(call), ordered=_is_ordered(call, "_sliding_window"))
    return _finish(p, call, out, scores, gated=bool(getattr(layer, "_use_gate", False)))


@register_rule("layers.GroupQueryAttention", "layers.GroupedQueryAttention")
def grouped_query_attention(p: Primitives, call: Call) -> Tensor | list[Tensor]:
    """Attend with several query heads per head of keys and values."""
    layer = call.layer
    query, key, value = _projected(call, layer._query_dense, layer._key_dense, layer._value_dense)
    key, value = (p.repeat(x, 2, layer.num_repeats, inner=True) for x in (key, value))
    out, scores = attend(p, query, key, value, [1], masks=_masks(call), ordered=_is_ordered(call, "sliding_window"))
    return _finish(p, call, out, scores, gated=bool(getattr(layer, "use_gate", False)))


def _projected(call: Call, *projections: object) -> list[Tensor]:
    query, value = call.tensor("query"), call.tensor("value")
    key = value if call.get("key") is None else call.tensor("key")
    return [call.run(dense, x) for dense, x in zip(projections, (query, key, value), strict=True)]


def _is_ordered(call: Call, window: str) -> bool:
    """Whether the order of the places matters: a causal mask, or one that lets only neighbors attend."""
    return bool(call.get("use_causal_mask")) or getattr(call.layer, window, None) is not None


def _masks(call: Call) -> list[Tensor]:
    """Masks of shape ``(batch, queries, keys)``, or ones that broadcast to it."""
    p = call.p
    masks = [call.optional("attention_mask")]
    for name, axis in (("query_mask", 2), ("key_mask", 1), ("value_mask", 1)):
        mask = call.optional(name)
        masks.append(None if mask is None else p.insert(mask, axis))
    return [mask for mask in masks if mask is not None]


def _finish(p: Primitives, call: Call, out: Tensor, scores: Tensor, *, gated: bool) -> Tensor | list[Tensor]:
    if gated:
        out = p.elementwise(out, call.run(call.layer._gate_dense, call.tensor("query")))
    result: Tensor = call.run(call.layer._output_dense, out)
    return [result, scores] if call.get("return_attention_scores") else result


def attend(
    p: Primitives,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    axes: Sequence[int],
    *,
    masks: Sequence[Tensor] = (),
    ordered: bool = False,
) -> tuple[Tensor, Tensor]:
    """Dot-product attention on ``(batch, *places, heads, channels)`` along some of the places.

    Returns
    -------
    out, scores : Tensor
        ``(batch, *places, heads, channels)``, and ``(batch, *other places, heads, *query places, *key places)``.
    """
    if ordered:
        reason = "order of an attention with a causal mask or a sliding window"
        query, key, value = (p.pin_axes(x, axes, reason) for x in (query, key, value))
    chosen = sorted(axis % (query.ndim - 1) for axis in axes)

    def labels(kind: str, features: str) -> list[object]:
        return [*((kind, i) if i in chosen else i for i in range(query.ndim - 2)), "head", features]

    others: list[object] = [i for i in range(query.ndim - 2) if i not in chosen]
    layout = [*others, "head", *(("q", i) for i in chosen), *(("k", i) for i in chosen)]
    scores = p.ein([query, key], [labels("q", "d"), labels("k", "d")], layout)
    for mask in masks:
        # A mask without heads: axes of length 1 go before those of the queries.
        while mask.ndim < scores.ndim:
            mask = p.insert(mask, mask.ndim - 2 * len(chosen))
        scores = p.elementwise(scores, mask)
    scores = p.normalize(scores, range(-len(chosen), 0))
    out = p.ein([scores, value], [layout, labels("k", "e")], labels("q", "e"))
    p.hint_axis(out, out.ndim - 2, "heads")
    return out, scores


@register_rule("layers.Attention", "layers.AdditiveAttention")
def attention(p: Primitives, call: Call) -> Tensor | list[Tensor]:
    """Attend with one head and without projections: by dot products, or by a weighted sum of tanh(query + key)."""
    query, value, *rest = (call.symbolic(x) for x in call["inputs"])
    key = rest[0] if rest else value
    if call.get("use_causal_mask"):
        reason = "order of an attention with a causal mask"
        query, key, value = (p.pin_axes(x, [-2], reason) for x in (query, key, value))
    weights = [call.optional_weight(name) for name in ("scale", "concat_score_weight")]
    given = [w for w in weights if w is not None]
    # A weight per feature (additive attention) or one number.
    features = [["d"] if w.ndim else [] for w in given]
    scores = p.ein([query, key, *given], ["bqd", "bkd", *features], "bqk")
    masks = [None if m is None else call.symbolic(m) for m in call.get("mask") or ()]
    query_mask, value_mask = (*masks[:2], None, None)[:2]
    if value_mask is not None:
        scores = p.ein([scores, value_mask], ["bqk", "bk"], "bqk")
    scores = p.normalize(scores, [-1])
    out = p.ein([scores, value], ["bqk", "bkd"], "bqd")
    if query_mask is not None:
        out = p.ein([out, query_mask], ["bqd", "bq"], "bqd")
    return [out, scores] if call.get("return_attention_scores") else out
