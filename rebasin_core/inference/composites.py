"""Operations of neural networks, spelled in the primitives, so that every front end shares them.

Each function takes the `Primitives` it records to, and symbolic tensors in the layout of PyTorch (channels second); a
channels-last front end permutes before and after.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rebasin_core.inference.primitives import Primitives
from rebasin_core.inference.tensors import Tensor, fixed

__all__ = [
    "Cell",
    "attention",
    "channel_affine",
    "embedding",
    "group_norm",
    "layer_norm",
    "linear",
    "matmul",
    "pixel_shuffle",
    "recurrent",
    "weight_norm",
]


def linear(p: Primitives, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` over the last axis."""
    lead = list(range(x.ndim - 1))
    out = p.ein([x, weight], [[*lead, "in"], ["out", "in"]], [*lead, "out"])
    return out if bias is None else p.elementwise(out, bias)


def matmul(p: Primitives, a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` with the conventions of NumPy: vectors are rows on the left and columns on the right."""
    rows, columns = ["row"] if a.ndim > 1 else [], ["column"] if b.ndim > 1 else []
    batch = max(a.ndim, b.ndim, 2) - 2
    lead_a, lead_b = range(batch - max(a.ndim - 2, 0), batch), range(batch - max(b.ndim - 2, 0), batch)
    out = [*range(batch), *rows, *columns]
    return p.ein([a, b], [[*lead_a, *rows, "in"], [*lead_b, "in", *columns]], out)


def channel_affine(p: Primitives, x: Tensor, *per_channel: Tensor | None, axis: int = 1) -> Tensor:
    """Apply an element-wise function of `x` and of vectors over one axis: a bias, batch norm in eval mode, PReLU."""
    vectors = [v for v in per_channel if v is not None]
    return p.ein([x, *vectors], [range(x.ndim), *([axis] for _ in vectors)], range(x.ndim))


def layer_norm(p: Primitives, x: Tensor, axes: int, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Normalize over the last `axes` axes (layer norm, RMS norm), then scale and shift."""
    x = p.normalize(x, range(x.ndim - axes, x.ndim))
    return p.elementwise(x, *(t for t in (weight, bias) if t is not None))


def group_norm(
    p: Primitives, x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Normalize every group of channels, over channels and places; instance norm has a group per channel."""
    batch, channels, *places = x.shape
    grouped = p.reshape(x, (batch, groups, channels // groups, *places))
    grouped = p.normalize(grouped, range(2, grouped.ndim))
    return channel_affine(p, p.reshape(grouped, x.shape), weight, bias)


def attention(
    p: Primitives, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Scaled dot-product attention on ``(..., heads, length, channels)``.

    Keys and values with fewer heads are shared by consecutive query heads.
    """
    if q.ndim > 2 and k.shape[-3] != q.shape[-3]:
        times = q.shape[-3] // k.shape[-3]
        k, v = p.repeat(k, -3, times, inner=True), p.repeat(v, -3, times, inner=True)
    if causal:
        q = p.pin_axes(q, [-2], "order of a causal attention")
        k = p.pin_axes(k, [-2], "order of a causal attention")
    lead = list(range(q.ndim - 2))
    scores = p.ein([q, k], [[*lead, "q", "d"], [*lead, "k", "d"]], [*lead, "q", "k"])
    if mask is not None:
        scores = p.elementwise(scores, mask)
    scores = p.normalize(scores, [-1])
    out = p.ein([scores, v], [[*lead, "q", "k"], [*lead, "k", "e"]], [*lead, "q", "e"])
    if out.ndim > 2:
        p.hint_axis(out, out.ndim - 3, "heads")
    return out


def embedding(p: Primitives, table: Tensor, shape: Sequence[int]) -> Tensor:
    """Look rows of a table up by indices of this shape; the rows stay."""
    reason = "rows of an embedding"
    table = p.pin_axes(table, [0], reason)
    return Tensor((*(fixed(n, "an input") for n in shape), *table.dims[1:]))


def pixel_shuffle(p: Primitives, x: Tensor, factor: int) -> Tensor:
    """Move blocks of ``factor ** 2`` channels to places."""
    *lead, channels, height, width = x.shape
    n = len(lead)
    x = p.reshape(x, (*lead, channels // factor**2, factor, factor, height, width))
    x = p.permute(x, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    return p.reshape(x, (*lead, channels // factor**2, height * factor, width * factor))


def weight_norm(p: Primitives, v: Tensor, g: Tensor, axis: int) -> Tensor:
    """``g * v / ||v||``, with the norm over every axis but one."""
    scaled = p.normalize(v, [i for i in range(v.ndim) if i != axis % v.ndim])
    return p.elementwise(scaled, g)


@dataclass(frozen=True)
class Cell:
    """Weights of one layer of a recurrent network in one direction."""

    w_in: Tensor
    w_state: Tensor
    b_in: Tensor | None = None
    b_state: Tensor | None = None
    projection: Tensor | None = None


def recurrent(
    p: Primitives,
    kind: str,
    x: Tensor,
    layers: Sequence[Sequence[Cell]],
    states: Sequence[Tensor],
    *,
    time_axis: int,
) -> tuple[Tensor, ...]:
    """A recurrent network over ``(time, batch, features)`` in any order of the first two.

    Parameters
    ----------
    p : Primitives
        Where to record.
    kind : {"lstm", "gru", "rnn"}
        The cell.
    x : Tensor
        The sequence, with features last.
    layers : sequence of sequence of Cell
        Per layer, a cell per direction.
    states : sequence of Tensor
        Initial states ``(layers * directions, batch, hidden)``: one, or two for an LSTM.
    time_axis : int
        Which axis of `x` is time.

    Returns
    -------
    tuple of Tensor
        The outputs, then the final states, as `states`.
    """
    length = x.shape[time_axis]
    reason = "steps of a recurrent network"
    x = p.reduce(p.pin_axes(x, [time_axis], reason), [time_axis])
    finals: list[list[Tensor]] = [[] for _ in states]
    number = 0
    for directions in layers:
        outputs = []
        for cell in directions:
            state = [p.select(s, 0, number) for s in states]
            # Two steps: the second one reads what the first one wrote, and so ties the state to itself.
            for _ in range(2):
                state = _step(p, kind, x, cell, state)
            outputs.append(state[0])
            for final, s in zip(finals, state, strict=True):
                final.append(s)
            number += 1
        x = p.cat(outputs, -1)
    out = p.insert(x, time_axis)
    out = Tensor((*out.dims[:time_axis], fixed(length, reason), *out.dims[time_axis + 1 :]))
    return (out, *(p.stack(final, 0) for final in finals))


def _step(p: Primitives, kind: str, x: Tensor, cell: Cell, state: Sequence[Tensor]) -> list[Tensor]:
    """One step of a recurrent cell."""
    h = state[0]
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    hidden = cell.w_in.shape[0] // gates
    split = (*x.shape[:-1], gates, hidden)
    from_input = p.reshape(linear(p, x, cell.w_in, cell.b_in), split)
    from_state = p.reshape(linear(p, h, cell.w_state, cell.b_state), split)
    a = [p.select(from_input, -2, k) for k in range(gates)]
    b = [p.select(from_state, -2, k) for k in range(gates)]
    if kind == "lstm":
        memory = p.elementwise(*a[:3], *b[:3], state[1])
        h = p.elementwise(a[3], b[3], memory)
        return [h if cell.projection is None else linear(p, h, cell.projection), memory]
    # A plain cell has no carry, but its state has the axis of its only gate all the same.
    return [p.elementwise(*a, *b, h)] if kind == "gru" else [p.elementwise(*a, *b)]
