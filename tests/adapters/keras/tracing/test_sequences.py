"""Attention and recurrent layers: random plans keep the outputs; the groups are those of a hand count."""

import pytest

keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras import layers as L  # noqa: E402, N812

from ..zoo.harness import check  # noqa: E402
from .networks import chain, data, graph, groups  # noqa: E402


def attention(x, layer, **settings):
    return L.Dense(3)(L.LayerNormalization()(x + layer(x, x, **settings)))


def scores(x):
    """The probabilities of both heads are an output: the heads stay, and so does what would be local to them."""
    attended = L.MultiHeadAttention(2, 3)(x, x, return_attention_scores=True)[1]
    return L.Concatenate()([L.Dense(3)(x), L.Reshape((6, 12))(L.Permute((2, 1, 3))(attended))])


RECURRENT = {
    # name: (model, sizes of the groups)
    "lstm": (lambda: chain((4, 5), L.LSTM(6, return_sequences=True), L.LSTM(7)), [6, 7]),
    "gru": (lambda: chain((4, 5), L.GRU(6, return_sequences=True), L.GRU(7, reset_after=False)), [6, 7]),
    "simple rnn": (
        lambda: chain((4, 5), L.SimpleRNN(6, return_sequences=True), L.SimpleRNN(7, use_bias=False)),
        [6, 7],
    ),
    "stacked cells": (
        lambda: chain((4, 5), L.RNN([L.LSTMCell(6), L.GRUCell(7)], return_sequences=True), L.Flatten()),
        [6, 7],
    ),
    "bidirectional": (
        lambda: chain((4, 5), L.Bidirectional(L.LSTM(6, return_sequences=True)), L.Bidirectional(L.GRU(7))),
        [6, 6, 7, 7],
    ),
    "bidirectional sum": (lambda: chain((4, 5), L.Bidirectional(L.SimpleRNN(6), merge_mode="sum")), [6]),
    "time distributed": (
        lambda: chain((4, 8, 8, 2), L.TimeDistributed(L.Conv2D(5, 3)), L.TimeDistributed(L.Flatten()), L.GRU(6)),
        [5, 6],
    ),
    "masking": (lambda: chain((4, 5), L.Masking(), L.LSTM(6)), [6]),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name):
    make, sizes = RECURRENT[name]
    model = make()
    assert groups(check(model, *data(model))) == (sizes, 0)


ATTENTION = {
    "self": (lambda x: attention(x, L.MultiHeadAttention(2, 3)), [2, 3, 3, 8], 2),
    "value size, no bias": (
        lambda x: attention(x, L.MultiHeadAttention(2, 3, 5, 0.1, use_bias=False)),
        [2, 3, 5, 8],
        2,
    ),
    "causal": (lambda x: attention(x, L.MultiHeadAttention(2, 3), use_causal_mask=True), [2, 3, 3, 8], 2),
    "scores": (scores, [3, 3, 8, 8], 0),
    "grouped query": (lambda x: attention(x, L.GroupQueryAttention(3, 4, 2)), [2, 2, 3, 3, 8], 1),
    "dot product": (lambda x: L.Dense(3)(L.Attention()([x, L.Dense(8)(x), L.Dense(8)(x)])), [8, 8], 0),
    "concat scores": (
        lambda x: L.Dense(3)(L.Attention(use_scale=True, score_mode="concat")([x, L.Dense(8)(x)])),
        [8],
        0,
    ),
    "additive": (lambda x: L.Dense(3)(L.AdditiveAttention()([x, L.Dense(8)(x)])), [8], 0),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    function, sizes, local = ATTENTION[name]
    model = graph((6, 5), lambda x: function(L.Dense(8)(x)))
    assert groups(check(model, *data(model))) == (sizes, local)


def test_attention_over_two_axes():
    model = graph((3, 4, 5), lambda x: attention(L.Dense(8)(x), L.MultiHeadAttention(2, 3, attention_axes=(1, 2))))
    assert groups(check(model, *data(model))) == ([2, 3, 3, 8], 2)
    model = graph((3, 4, 5), lambda x: attention(L.Dense(8)(x), L.MultiHeadAttention(2, 3, attention_axes=2)))
    assert groups(check(model, *data(model))) == ([2, 3, 3, 8], 2)


def test_attention_masks():
    def function(tokens, mask):
        x = L.Embedding(9, 8, mask_zero=True)(tokens)
        x = x + L.MultiHeadAttention(2, 3)(x, x, attention_mask=mask)
        return L.Dense(3)(L.GlobalAveragePooling1D()(x))

    model = graph((6,), function, (6, 6))
    rng = np.random.default_rng(0)
    tokens, mask = rng.integers(0, 9, (4, 6)), (rng.random((4, 6, 6)) > 0.3).astype("float32")
    assert groups(check(model, tokens, mask)) == ([2, 3, 3, 8], 2)


def test_states_pass_from_an_encoder_to_a_decoder():
    def function(x, y):
        _, *states = L.LSTM(6, return_state=True)(x)
        out = L.LSTM(6, return_sequences=True)(y, initial_state=states)
        return L.Dense(3)(out)

    model = graph((4, 5), function, (3, 2))
    assert groups(check(model, *data(model)))[0] == [6]


def test_the_state_of_a_stateful_layer_stays():
    model = keras.Sequential([keras.Input((4, 5), batch_size=3), L.LSTM(6, stateful=True), L.Dense(3)])
    graph = check(model, np.ones((3, 4, 5), "float32") * np.arange(3.0, dtype="float32")[:, None, None], moved=0).graph
    assert not graph.groups
