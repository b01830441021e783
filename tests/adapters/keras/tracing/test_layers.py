"""Small networks around one kind of layer each: random plans keep the outputs; the groups are those of a hand count."""

import inspect

import pytest

keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras import layers as L  # noqa: E402, N812

from ..zoo.harness import check  # noqa: E402
from .networks import chain, data, graph, groups  # noqa: E402

CASES = {
    # name: (model, sizes of the groups, number of local groups)
    "dense": (lambda: chain((5,), L.Dense(6, "relu"), L.Dense(7, "softmax")), [6, 7], 0),
    "dense without bias": (lambda: chain((5,), L.Dense(6, use_bias=False)), [6], 0),
    "dense on sequences": (lambda: chain((4, 5), L.Dense(6, "gelu")), [6], 0),
    "softmax layer": (lambda: chain((5,), L.Dense(6), L.Softmax()), [6], 0),
    "prelu": (lambda: chain((5,), L.Dense(6), L.PReLU()), [6], 0),
    "prelu shared": (lambda: chain((6, 6, 2), L.Conv2D(4, 3), L.PReLU(shared_axes=[1, 2]), L.Flatten()), [4], 0),
    "leaky relu and elu": (lambda: chain((5,), L.Dense(6), L.LeakyReLU(), L.Dense(4), L.ELU()), [4, 6], 0),
    "einsum dense": (
        lambda: chain((4, 5), L.EinsumDense("abc,cde->abde", (4, 3, 4), bias_axes="de"), L.Flatten()),
        [3, 4],
        1,
    ),
    "einsum dense ellipsis": (lambda: chain((4, 5), L.EinsumDense("...x,xy->...y", 6, bias_axes="y")), [6], 0),
    "conv1d": (lambda: chain((9, 2), L.Conv1D(4, 3, padding="causal"), L.Conv1D(5, 2), L.Flatten()), [4, 5], 0),
    "conv2d": (lambda: chain((8, 9, 2), L.Conv2D(4, (3, 2), strides=2), L.Flatten()), [4], 0),
    "conv3d": (lambda: chain((4, 5, 6, 2), L.Conv3D(4, 2), L.GlobalAveragePooling3D()), [4], 0),
    "grouped": (lambda: chain((8, 8, 2), L.Conv2D(6, 3), L.Conv2D(4, 3, groups=2), L.Flatten()), [2, 2, 3], 1),
    "conv2d transpose": (
        lambda: chain((5, 6, 2), L.Conv2D(4, 3), L.Conv2DTranspose(5, 3, strides=2), L.Flatten()),
        [4, 5],
        0,
    ),
    "conv1d transpose": (lambda: chain((5, 2), L.Conv1D(4, 3), L.Conv1DTranspose(5, 3), L.Flatten()), [4, 5], 0),
    "conv3d transpose": (lambda: chain((3, 4, 5, 2), L.Conv3DTranspose(4, 2), L.GlobalMaxPooling3D()), [4], 0),
    "depthwise": (lambda: chain((8, 8, 2), L.Conv2D(4, 3), L.DepthwiseConv2D(3), L.Flatten()), [4], 0),
    "depthwise multiplied": (
        lambda: chain((8, 8, 2), L.Conv2D(4, 3), L.DepthwiseConv2D(3, depth_multiplier=3), L.Flatten()),
        [3, 4],
        1,
    ),
    "depthwise 1d": (
        lambda: chain((9, 2), L.Conv1D(4, 3), L.DepthwiseConv1D(3, depth_multiplier=2), L.Flatten()),
        [2, 4],
        1,
    ),
    "separable": (
        lambda: chain((8, 8, 2), L.Conv2D(4, 3), L.SeparableConv2D(5, 3, depth_multiplier=2), L.Flatten()),
        [2, 4, 5],
        1,
    ),
    "separable 1d": (lambda: chain((8, 2), L.Conv1D(4, 3), L.SeparableConv1D(5, 3), L.Flatten()), [4, 5], 0),
    "pooling": (
        lambda: chain((9, 9, 2), L.Conv2D(4, 2), L.MaxPooling2D(), L.Conv2D(5, 2), L.AveragePooling2D(2), L.Flatten()),
        [4, 5],
        0,
    ),
    "global pooling": (
        lambda: chain((9, 9, 2), L.Conv2D(4, 2), L.GlobalMaxPooling2D(keepdims=True), L.Flatten()),
        [4],
        0,
    ),
    "padding, cropping, up-sampling": (
        lambda: chain(
            (6, 6, 2),
            L.Conv2D(4, 3),
            L.ZeroPadding2D((1, 2)),
            L.Cropping2D(((1, 0), (0, 2))),
            L.UpSampling2D(2, interpolation="bilinear"),
            L.Conv2D(5, 2),
            L.Flatten(),
        ),
        [4, 5],
        0,
    ),
    "padding of features": (
        lambda: chain((5,), L.Dense(6), L.Reshape((6, 1)), L.ZeroPadding1D(2), L.Cropping1D((1, 0)), L.Flatten()),
        [2, 6],
        0,
    ),
    "one-dimensional places": (
        lambda: chain((6, 2), L.Conv1D(4, 3), L.ZeroPadding1D(1), L.UpSampling1D(2), L.Cropping1D(1), L.Flatten()),
        [4],
        0,
    ),
    "batch norm": (lambda: chain((5,), L.Dense(6), L.BatchNormalization()), [6], 0),
    "layer norm": (lambda: chain((5,), L.Dense(6), L.LayerNormalization()), [6], 0),
    "layer norm over axes": (
        lambda: chain((4, 4, 2), L.Conv2D(5, 2), L.LayerNormalization(axis=[1, 2, 3]), L.Flatten()),
        [5],
        0,
    ),
    "rms norm": (lambda: chain((5,), L.Dense(6), L.RMSNormalization()), [6], 0),
    "group norm": (lambda: chain((6, 6, 2), L.Conv2D(6, 3), L.GroupNormalization(2), L.Flatten()), [2, 3], 1),
    "instance norm": (lambda: chain((6, 6, 2), L.Conv2D(6, 3), L.GroupNormalization(-1), L.Flatten()), [6], 0),
    "unit norm": (lambda: chain((5,), L.Dense(6), L.UnitNormalization()), [6], 0),
    "spectral norm": (lambda: chain((5,), L.SpectralNormalization(L.Dense(6))), [6], 0),
    "rescaling": (lambda: chain((5,), L.Dense(6), L.Rescaling(0.5, 1.0), L.Dense(4)), [4, 6], 0),
    "dropout and noise": (
        lambda: chain((5,), L.Dense(6), L.Dropout(0.5), L.GaussianNoise(1.0), L.ActivityRegularization(), L.Identity()),
        [6],
        0,
    ),
    "flatten": (lambda: chain((4, 4, 2), L.Conv2D(5, 2), L.Flatten(), L.Dense(6)), [5, 6], 0),
    "reshape": (lambda: chain((5,), L.Dense(12), L.Reshape((4, 3)), L.Dense(6), L.Flatten()), [3, 4, 6], 0),
    "permute": (lambda: chain((6, 5), L.Dense(4), L.Permute((2, 1)), L.Dense(7), L.Flatten()), [4, 7], 0),
    "channel shuffle": (lambda: chain((5,), L.Dense(12), L.Reshape((3, 4)), L.Permute((2, 1)), L.Flatten()), [12], 0),
    "repeat vector": (lambda: chain((5,), L.Dense(6), L.RepeatVector(4), L.LSTM(7)), [6, 7], 0),
    "embedding": (lambda: graph((4,), lambda x: L.Dense(3)(L.Flatten()(L.Embedding(9, 6)(x)))), [6], 0),
    "tied embedding": (
        lambda: graph((4,), lambda x, e=None: (e := L.ReversibleEmbedding(9, 6))(L.Dense(6)(e(x)), reverse=True)),
        [6],
        0,
    ),
}
if "renorm" in inspect.signature(L.BatchNormalization).parameters:  # from Keras 3.14 on
    CASES["batch norm renorm"] = (lambda: chain((5,), L.Dense(6), L.BatchNormalization(renorm=True)), [6], 0)


@pytest.mark.parametrize("name", CASES)
def test_sequential(name):
    make, sizes, local = CASES[name]
    model = make()
    inputs = data(model)
    if "embedding" in name:
        inputs = [np.arange(16).reshape(4, 4) % 9]
    report = check(model, *inputs)
    assert groups(report) == (sizes, local)


def two_branches(x):
    return L.Dense(6, "relu")(x), L.Dense(6, "tanh")(x)


MERGES = {
    "add": (lambda x: L.Add()([*two_branches(x), L.Dense(6)(x)]), [6]),
    "subtract": (lambda x: L.Subtract()(two_branches(x)), [6]),
    "multiply": (lambda x: L.Multiply()(two_branches(x)), [6]),
    "average": (lambda x: L.Average()(two_branches(x)), [6]),
    "maximum": (lambda x: L.Maximum()(two_branches(x)), [6]),
    "minimum": (lambda x: L.Minimum()(two_branches(x)), [6]),
    "concatenate": (lambda x: L.Concatenate()([*two_branches(x), x]), [6, 6]),
    "dot": (lambda x: L.Dot(1)(two_branches(x)), [6]),
    "cosine": (lambda x: L.Dot(-1, normalize=True)(two_branches(x)), [6]),
    "dot of matrices": (
        lambda x: L.Flatten()(L.Dot((2, 1))([L.Reshape((1, 6))(L.Dense(6)(x)), L.Reshape((6, 2))(L.Dense(12)(x))])),
        [2, 6],
    ),
    "ranks": (lambda x: L.Flatten()(L.Add()([L.Dense(6)(x), L.Dense(6)(L.Reshape((5, 1))(x))])), [6]),
}


@pytest.mark.parametrize("name", MERGES)
def test_merging(name):
    function, sizes = MERGES[name]
    model = graph((5,), lambda x: L.Dense(3)(function(x)))
    assert groups(check(model, *data(model)))[0] == sizes


def test_a_layer_as_an_activation():
    prelu = L.PReLU()
    prelu.build((None, 6))
    model = chain((5,), L.Dense(6, activation=prelu))
    assert groups(check(model, *data(model), clone=False))[0] == [6]


CHANNELS_FIRST = {
    "conv": (lambda f: [L.Conv2D(4, 3, **f), L.Conv2D(5, 2, groups=1, **f), L.Flatten(**f)], [4, 5]),
    "depthwise": (
        lambda f: [L.Conv2D(4, 3, **f), L.DepthwiseConv2D(2, depth_multiplier=2, **f), L.Flatten(**f)],
        [2, 4],
    ),
    "separable": (lambda f: [L.SeparableConv2D(4, 3, **f), L.Flatten(**f)], [4]),
    "transposed": (lambda f: [L.Conv2DTranspose(4, 3, **f), L.GlobalAveragePooling2D(**f)], [4]),
    "norms": (
        lambda f: [L.Conv2D(6, 3, **f), L.BatchNormalization(axis=1), L.GroupNormalization(2, axis=1), L.Flatten(**f)],
        [2, 3],
    ),
    "places": (
        lambda f: [
            L.Conv2D(4, 3, **f),
            L.MaxPooling2D(2, **f),
            L.ZeroPadding2D(1, **f),
            L.Cropping2D(1, **f),
            L.UpSampling2D(2, **f),
            L.Flatten(**f),
        ],
        [4],
    ),
}


@pytest.mark.parametrize("name", CHANNELS_FIRST)
def test_channels_first(name):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow cannot run channels first on a CPU")
    function, sizes = CHANNELS_FIRST[name]
    model = chain((2, 9, 8), *function({"data_format": "channels_first"}))
    assert groups(check(model, *data(model)))[0] == sizes
