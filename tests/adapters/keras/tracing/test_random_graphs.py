"""Random Functional models: whatever the layers and their wiring, a random plan over all groups keeps the outputs."""

import pytest

keras = pytest.importorskip("keras")

import numpy as np  # noqa: E402
from keras import layers as L  # noqa: E402, N812
from keras import ops  # noqa: E402

from ..zoo.harness import check  # noqa: E402

STEPS = {
    "dense": lambda rng, pool: L.Dense(int(rng.choice([4, 6, 8])), "tanh")(pick(rng, pool)),
    "batch norm": lambda rng, pool: L.BatchNormalization()(pick(rng, pool)),
    "layer norm": lambda rng, pool: L.LayerNormalization()(pick(rng, pool)),
    "group norm": lambda rng, pool: L.GroupNormalization(2)(pick(rng, pool)),
    "prelu": lambda rng, pool: L.PReLU()(pick(rng, pool)),
    "softmax": lambda rng, pool: L.Softmax()(pick(rng, pool)),
    "sum": lambda rng, pool: L.Add()(pair(rng, pool)),
    "maximum": lambda rng, pool: L.Maximum()(pair(rng, pool)),
    "concatenation": lambda rng, pool: L.Concatenate()([pick(rng, pool), pick(rng, pool)]),
    "gate": lambda rng, pool: gate(pick(rng, pool)),
    "halves": lambda rng, pool: ops.multiply(*ops.split(pick(rng, pool), 2, axis=-1)),
    "flip": lambda rng, pool: ops.flip(pick(rng, pool), axis=-1),
    "shuffle": lambda rng, pool: shuffle(pick(rng, pool)),
    "pad": lambda rng, pool: ops.pad(pick(rng, pool), ((0, 0), (0, 2))),
    "grouped": lambda rng, pool: grouped(pick(rng, pool)),
    "shared": lambda rng, pool: shared(*pair(rng, pool)),
    "mean": lambda rng, pool: centered(pick(rng, pool)),
}


def pick(rng, pool):
    return pool[rng.integers(len(pool))]


def pair(rng, pool):
    """Two tensors of one width; one of them twice if there is no other."""
    x = pick(rng, pool)
    return x, pick(rng, [y for y in pool if y.shape == x.shape])


def gate(x):
    return L.Multiply()([x, L.Dense(x.shape[-1], "sigmoid")(x)])


def shuffle(x):
    n = x.shape[-1]
    return L.Flatten()(L.Permute((2, 1))(L.Reshape((2, n // 2))(x)))


def grouped(x):
    return L.Flatten()(L.Dense(3)(L.Reshape((2, x.shape[-1] // 2))(x)))


def shared(x, y):
    dense = L.Dense(4)
    return L.Subtract()([dense(x), dense(y)])


def centered(x):
    return x - ops.mean(x, axis=-1, keepdims=True)


def random_model(seed):
    rng = np.random.default_rng(seed)
    x = keras.Input((5,))
    pool = [L.Dense(6)(x), L.Dense(8)(x)]
    for _ in range(8):
        made = STEPS[str(rng.choice(list(STEPS)))](rng, pool)
        if made.shape[-1] % 2 == 0 and 2 < made.shape[-1] < 40:
            pool.append(made)
    return keras.Model(x, [L.Dense(3)(pool[-1]), L.Dense(2)(L.Concatenate()(pool[-3:]))])


@pytest.mark.parametrize("seed", [*range(12), *(pytest.param(s, marks=pytest.mark.slow) for s in range(12, 150))])
def test_random_graph(seed):
    model = random_model(seed)
    x = np.random.default_rng(seed).standard_normal((4, 5)).astype("float32")
    check(model, x, seed=seed, moved=0.0, clone=False)
