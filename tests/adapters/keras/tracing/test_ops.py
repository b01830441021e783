"""``keras.ops`` in a functional graph: random plans keep the outputs, and the groups are those of a hand count."""

import pytest

keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras import layers as L  # noqa: E402, N812
from keras import ops  # noqa: E402

from ..zoo.harness import check  # noqa: E402

N = 6
ROW = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "float32")


def attend(x):
    q, k, v = (ops.reshape(L.Dense(12)(x), (-1, 4, 3, 4)) for _ in range(3))
    return ops.reshape(ops.dot_product_attention(q, k, v, is_causal=True), (-1, 48))


def qkv(x):
    q, k, v = ops.unstack(ops.reshape(L.Dense(36)(x), (-1, 4, 3, 3, 4)), 3, axis=2)
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", q, k) * 0.5)
    return ops.reshape(ops.einsum("bhqk,bkhd->bqhd", scores, v), (-1, 48))


def shared_table(x):
    """Multiply with a kernel that another layer holds."""
    dense = L.Dense(N, use_bias=False)
    return ops.matmul(L.Dense(N)(dense(x)), dense.kernel)


# name: (function of a hidden layer of 6 units, sizes of the groups).
VECTORS = {
    "arithmetic": (lambda x: ops.tanh(x * 2.0 + x**2) / (1.0 + ops.abs(x)) - ops.maximum(x, 0.1), [6]),
    "where": (lambda x: ops.where(x > 0, x, ops.exp(-x)), [6]),
    "clip": (lambda x: ops.clip(x, -1.0, 1.0), [6]),
    "a constant row": (lambda x: x + ROW, []),
    "a constant that does not vary": (lambda x: x + np.full(6, 2.0, "float32"), [6]),
    "reductions": (lambda x: x + ops.mean(x, axis=-1, keepdims=True) + ops.logsumexp(x, axis=1, keepdims=True), [6]),
    "norm": (lambda x: ops.concatenate([x, ops.norm(x, axis=(1,), keepdims=True)], axis=-1), [6]),
    "moments": (lambda x: (x - ops.moments(x, [1], keepdims=True)[0]) / ops.std(x, axis=1, keepdims=True), [6]),
    "argmax": (lambda x: ops.cast(ops.expand_dims(ops.argmax(x, axis=-1), -1), "float32") + 1.0, []),
    "cumsum": (lambda x: ops.cumsum(x, axis=-1), []),
    "sort": (lambda x: ops.sort(x, axis=-1), []),
    "softmax": (lambda x: ops.softmax(x) + ops.log_softmax(x) + ops.normalize(x), [6]),
    "glu": (lambda x: ops.glu(x), [3]),
    "outer product": (lambda x: ops.reshape(ops.einsum("bi,bj->bij", x, x), (-1, 36)), [6]),
    "concatenate and split": (lambda x: ops.add(*ops.split(ops.concatenate([x, ops.relu(x)], -1), 2, axis=-1)), [6]),
    "halves": (lambda x: ops.multiply(*ops.split(x, 2, axis=-1)), [3]),
    "stack": (lambda x: ops.sum(ops.stack([x, ops.relu(x)], axis=1), axis=1), [6]),
    "slices": (lambda x: x[:, :3] * x[:, 3:] + x[..., -1:], [2]),
    "an index": (lambda x: x * x[:, 0][:, None], [5]),
    "take": (lambda x: ops.take(x, [0, 1, 2, 3], axis=1), [2, 4]),
    "flip": (lambda x: x + ops.flip(x, axis=-1), [3]),
    "roll": (lambda x: ops.concatenate([x, ops.roll(x, 2, axis=-1)], axis=-1), [6]),
    "pad": (lambda x: ops.pad(x, ((0, 0), (1, 0))), [6]),
    "reflected": (lambda x: ops.pad(x, ((0, 0), (1, 0)), mode="reflect"), []),
    "tile": (lambda x: ops.tile(x, (1, 2)), [2, 6]),
    "repeat": (lambda x: ops.repeat(x, 2, axis=-1), [2, 6]),
    "rearrange": (lambda x: ops.rearrange(x, "b (h w) -> b (w h)", h=2), [6]),
    "moves": (lambda x: ops.squeeze(ops.moveaxis(ops.swapaxes(ops.expand_dims(x, 1), 1, 2), 1, 2), 1), [6]),
    "broadcast": (lambda x: x + ops.broadcast_to(ops.sum(x, 1, keepdims=True), (3, 6)) if x.shape[0] else x, [6]),
    "ones like": (lambda x: x + ops.ones_like(x), [6]),
    "tensordot": (lambda x: ops.tensordot(x, np.ones((6, 2), "float32") * [[1.0, 2.0]], axes=1), [6]),
    "matmul": (lambda x: ops.matmul(x, np.arange(12.0, dtype="float32").reshape(6, 2)), []),
    "a variable of another layer": (shared_table, [6, 6]),
    "layer norm": (lambda x: ops.layer_normalization(x, axis=-1), [6]),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name):
    function, sizes = VECTORS[name]
    # `rearrange` takes no open axes.
    x = keras.Input((5,), batch_size=4 if name == "rearrange" else None)
    model = keras.Model(x, L.Dense(3)(function(L.Dense(N)(x))))
    report = check(model, np.random.default_rng(1).standard_normal((4, 5)).astype("float32"), moved=0.0, clone=False)
    assert sorted(report.graph.groups.values()) == sizes


SEQUENCES = {
    "attention": (attend, [3, 4, 4, 8]),
    "fused attention": (qkv, [3, 4, 4, 8]),
    "convolution": (lambda x: ops.reshape(ops.conv(x, np.ones((2, 8, 1), "float32"), padding="same"), (-1, 4)), [8]),
    "pooling": (lambda x: ops.reshape(ops.max_pool(x, (2,), (2,)) + ops.average_pool(x, (2,), (2,)), (-1, 16)), [8]),
    "image": (lambda x: ops.reshape(ops.image.resize(ops.reshape(x, (-1, 2, 2, 8)), (3, 3)), (-1, 72)), [8]),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences(name):
    function, sizes = SEQUENCES[name]
    x = keras.Input((4, 5))
    model = keras.Model(x, L.Dense(3)(function(L.Dense(8)(x))))
    report = check(model, np.random.default_rng(1).standard_normal((3, 4, 5)).astype("float32"), moved=0.0, clone=False)
    assert sorted(report.graph.groups.values()) == sizes
