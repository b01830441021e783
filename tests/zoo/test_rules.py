"""Every kind of rule, in a small network around it: random plans keep the outputs.

A function stands between dense layers on ``(3, 7, 8)``; where it says so, the eight features must move through it.
"""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from .harness import check_family  # noqa: E402
from .test_small_models import sequences  # noqa: E402


class Around(nn.Module):
    """Dense, a function of its result and of a vector and a matrix, dense."""

    def __init__(self, function, features):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(features, 4)
        self.vector, self.matrix = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(5, 8))
        self.function = function

    def forward(self, x):
        y = self.function(self.first(x), self.vector, self.matrix)
        return self.last(y), (self.vector**2).sum(), (self.matrix**2).sum()


# name: (function of (y, v, m), features behind it, whether the features move)
MOVING = {
    "unary": (lambda y, v, m: F.softplus(F.elu(y.abs().sqrt().clamp(max=3.0)).sin()), 8),
    "broadcast": (lambda y, v, m: torch.lerp(y * v, y.pow(2) - v, 0.3), 8),
    "comparison": (lambda y, v, m: torch.where(y > v, y, 0.1 * y), 8),
    "masked_fill": (lambda y, v, m: y.masked_fill(y > 0.3, 0.0), 8),
    "maximum": (lambda y, v, m: torch.maximum(y, v).atan2(v), 8),
    "clamp_by_tensors": (lambda y, v, m: torch.clamp(y, -v.abs(), v.abs()), 8),
    "softmax": (lambda y, v, m: y.softmax(-1) + y.log_softmax(1), 8),
    "statistics": (lambda y, v, m: y - y.mean(-1, keepdim=True) / y.std(-1, keepdim=True), 8),
    "var_mean": (lambda y, v, m: y * torch.var_mean(y, dim=-1, keepdim=True)[0], 8),
    "norms": (lambda y, v, m: F.normalize(y, dim=-1) * torch.linalg.vector_norm(y, dim=1, keepdim=True), 8),
    "logsumexp": (lambda y, v, m: y - y.logsumexp(-1, keepdim=True), 8),
    "extremum": (lambda y, v, m: y - y.max(-1, keepdim=True)[0] + y.amin(1, keepdim=True), 8),
    "max_of_two": (lambda y, v, m: torch.max(y, v), 8),
    "reduction_of_all": (lambda y, v, m: y / y.abs().max() + y.sum(), 8),
    "layer_norm": (lambda y, v, m: F.layer_norm(y, (8,), v, v), 8),
    "rms_norm": (lambda y, v, m: F.rms_norm(y, (8,), v), 8),
    "group_norm": (lambda y, v, m: F.group_norm(y.transpose(1, 2), 2, v, v).transpose(1, 2), 8),
    "instance_norm": (lambda y, v, m: F.instance_norm(y.transpose(1, 2), weight=v, bias=v).transpose(1, 2), 8),
    "batch_norm": (lambda y, v, m: F.batch_norm(y.transpose(1, 2), v, v.abs() + 1, v, v).transpose(1, 2), 8),
    "prelu": (lambda y, v, m: F.prelu(y.transpose(1, 2), v).transpose(1, 2), 8),
    "linear": (lambda y, v, m: F.linear(y, m), 5),
    "matmul": (lambda y, v, m: y @ m.T @ m, 8),
    "matrix_vector": (lambda y, v, m: (y @ v)[..., None] * v, 8),
    "addmm": (lambda y, v, m: torch.addmm(m[0], y.reshape(21, 8), m.T @ m).view(3, 7, 8), 8),
    "baddbmm": (lambda y, v, m: torch.baddbmm(y, y, (m.T @ m).expand(3, 8, 8)), 8),
    "einsum": (lambda y, v, m: torch.einsum("b...i,oi,oj->b...j", y, m, m), 8),
    "einsum_implicit": (lambda y, v, m: torch.einsum("ati,zi", y, m), 5),
    "outer": (lambda y, v, m: y @ torch.outer(v, v), 8),
    "bilinear_form": (lambda y, v, m: torch.einsum("bti,bsi->bts", y, y) @ y, 8),
    "attention": (lambda y, v, m: F.scaled_dot_product_attention(y, y * v, y), 8),
    "causal_attention": (lambda y, v, m: F.scaled_dot_product_attention(y, y, y, is_causal=True), 8),
    "masked_attention": (
        lambda y, v, m: F.scaled_dot_product_attention(y, y, y, attn_mask=torch.ones(7, 7).tril().bool()), 8),
    "grouped_queries": (lambda y, v, m: _grouped_queries(y, F.linear(y, m[:4])), 8),
    "glu": (lambda y, v, m: F.glu(y, -1), 4),
    "chunks": (lambda y, v, m: torch.cat([c.tanh() if k else c for k, c in enumerate(y.chunk(2, -1))], -1), 8),
    "split_sizes": (lambda y, v, m: torch.cat(y.split([3, 5], -1)[::-1], -1), 8),
    "unbind": (lambda y, v, m: torch.stack(y.unflatten(-1, (2, 4)).unbind(2), -1).sum(-1), 4),
    "slices": (lambda y, v, m: y[..., 2:] * y[..., 2:3], 6),
    "every_second": (lambda y, v, m: y[..., ::2] + y[..., 1::2], 4),
    "narrow": (lambda y, v, m: y.narrow(-1, 1, 6), 6),
    "flip": (lambda y, v, m: y.flip(-1), 8),
    "roll": (lambda y, v, m: y.roll(3, -1), 8),
    "constant_index": (lambda y, v, m: y[..., torch.tensor([7, 0, 3, 3])], 4),
    "index_select": (lambda y, v, m: y.index_select(-1, torch.arange(7, -1, -1)), 8),
    "index_of_a_batch": (lambda y, v, m: y[torch.arange(3), torch.tensor([1, 0, 2])][:, None] + y, 8),
    "stack": (lambda y, v, m: torch.stack([y, y.tanh()], -1).flatten(2), 16),
    "expand": (lambda y, v, m: v.expand(3, 7, 8) * y, 8),
    "repeat": (lambda y, v, m: y.repeat(1, 1, 2), 16),
    "tile": (lambda y, v, m: y.tile(2), 16),
    "repeat_interleave": (lambda y, v, m: y.repeat_interleave(2, -1), 16),
    "movedim": (lambda y, v, m: y.movedim(-1, 0).tanh().permute(1, 2, 0), 8),
    "transposes": (lambda y, v, m: y.mT.swapaxes(0, 1).transpose(0, 1).mT, 8),
    "squeeze": (lambda y, v, m: y.unsqueeze(1).squeeze(1).view(3, 7, 8), 8),
    "flatten": (lambda y, v, m: y.flatten(1)[:, None].expand(3, 2, 56), 56),
    "unflatten": (lambda y, v, m: y.unflatten(-1, (2, 4)).softmax(-1).flatten(-2), 8),
    "pad_features": (lambda y, v, m: F.pad(y, (2, 1)), 11),
    "crop": (lambda y, v, m: F.pad(y, (-2, 1)), 7),
    "pad_steps": (lambda y, v, m: F.pad(y, (0, 0, 1, 1)), 8),
    "reflect_steps": (lambda y, v, m: F.pad(y.mT, (1, 1), mode="reflect").mT, 8),
    "replicate_steps": (lambda y, v, m: F.pad(y.mT, (1, 1), mode="replicate").mT, 8),
    "sums_over_steps": (lambda y, v, m: y.cumsum(1), 8),
    "sorted_steps": (lambda y, v, m: y.sort(1)[0] + y.topk(1, 1)[0], 8),
    "triangles": (lambda y, v, m: torch.tril(y @ y.mT) @ y, 8),
    "pooling": (lambda y, v, m: F.max_pool1d(y.mT, 2).mT, 8),
    "average_pooling": (lambda y, v, m: F.avg_pool1d(y.mT, 2).mT, 8),
    "adaptive_pooling": (lambda y, v, m: F.adaptive_max_pool1d(y.mT, 3).mT, 8),
    "interpolation": (lambda y, v, m: F.interpolate(y.mT, scale_factor=2, mode="linear").mT, 8),
    "nearest": (lambda y, v, m: F.interpolate(y.mT, size=5).mT, 8),
    "convolution": (lambda y, v, m: F.conv1d(y.mT, m[..., None]).mT, 5),
    "depthwise": (lambda y, v, m: F.conv1d(y.mT, v[:, None, None].expand(8, 1, 3), groups=8).mT, 8),
    "transposed_convolution": (lambda y, v, m: F.conv_transpose1d(y.mT, m.T[..., None]).mT, 5),
    "convolution_without_batch": (lambda y, v, m: F.conv1d(y[0].mT, m[..., None]).mT[None], 5),
    "windows": (lambda y, v, m: y.unfold(1, 3, 2).mean(-1), 8),
    "assignment_in_place": (lambda y, v, m: _assigned(y, v), 8),
    "addition_in_place": (lambda y, v, m: y.clone().add_(v).mul_(2), 8),
    "assigned_steps": (lambda y, v, m: _assigned_steps(y, v), 8),
    "constants": (lambda y, v, m: y + torch.zeros_like(y) + torch.full((8,), 2.0), 8),
    "cosine_similarity": (lambda y, v, m: F.cosine_similarity(y, v, dim=-1)[..., None] * y, 8),
    "grid_sample": (lambda y, v, m: F.grid_sample(
        y.mT[..., None], torch.zeros(3, 5, 1, 2, dtype=y.dtype), align_corners=False)[..., 0].mT, 8),
    "dropout": (lambda y, v, m: F.dropout(y, training=False), 8),
}  # fmt: skip

STAYING = {
    "sort": (lambda y, v, m: y.sort(-1)[0], 8),
    "cumsum": (lambda y, v, m: y.cumsum(-1), 8),
    "pooled_features": (lambda y, v, m: F.max_pool1d(y, 2), 4),
    "diagonal": (lambda y, v, m: torch.diagonal(m.T @ m) * y, 8),
    "scatter": (lambda y, v, m: torch.zeros_like(y).scatter(-1, torch.zeros(3, 7, 8, dtype=torch.int64), y), 8),
    "position_table": (lambda y, v, m: y * torch.arange(1.0, 9.0, dtype=y.dtype), 8),
    "roll_onto_itself": (lambda y, v, m: y + y.roll(1, -1), 8),
    "distances": (lambda y, v, m: torch.cdist(y, y) @ y, 8),
}


def _grouped_queries(y, z):
    q, k = y.unflatten(-1, (4, 2)).transpose(1, 2), z.unflatten(-1, (2, 2)).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, k, enable_gqa=True).transpose(1, 2).flatten(2)


def _assigned(y, v):
    """Write into a part of a new tensor, as reference code likes to do."""
    z = torch.empty_like(y)
    z[..., :4] = y[..., 4:]
    z[..., 4:] = y[..., :4] * v[:4]
    return z


def _assigned_steps(y, v):
    z = torch.zeros_like(y)
    z[:, 2] = v
    z[:, 3:5] = y[:, :2]
    return z


def check(function, features):
    torch.manual_seed(0)
    return check_family(Around(function, features), sequences(), moved=0.0).graph


@pytest.mark.parametrize("name", MOVING)
def test_features_move_through_the_operation(name):
    graph = check(*MOVING[name])
    assert graph.axes["first.weight"].groups, str(graph)
    assert graph.axes["last.weight"].groups, str(graph)
    assert not any("rule" in reason for reason in graph.pinned.values()), str(graph)


@pytest.mark.parametrize("name", STAYING)
def test_features_stay_where_their_order_matters(name):
    graph = check(*STAYING[name])
    assert not graph.axes["first.weight"].groups, str(graph)
    assert graph.pinned["first.weight", 0]
