"""A network of your own: a dict of arrays, its axes, a forward function, and an objective that you wrote.

Two small networks learn the same curve from different seeds. The objective is none of the library's: it asks the
network in the middle of the line to compute what the two networks compute on average. Run it with
``python numpy_two_layer.py``, or with ``--quick`` for less training.
"""

import argparse

import autograd.numpy as np
from autograd import grad
from autograd.misc.optimizers import adam

import rebasin_core as rb

x = np.linspace(-3.0, 3.0, 128)[:, None]
y = np.sin(2.0 * x)


def loss(outputs, targets):
    return np.mean((outputs - targets) ** 2)


def train(seed, steps):
    rng = np.random.default_rng(seed)
    params = {"w1": rng.normal(size=(1, 32)), "b1": rng.normal(size=32), "w2": rng.normal(size=(32, 1)) / 6}
    return adam(grad(lambda p, i: loss(forward(p, x), y)), params, num_iters=steps, step_size=0.01)


# --- from here on, this is all that the library needs to know ---------------------------------------------------------
def forward(params, inputs):
    return np.tanh(inputs @ params["w1"] + params["b1"]) @ params["w2"]


def middle_is_average(a, b):
    middle = {name: (a[name] + b[name]) / 2 for name in a}
    return np.mean((forward(middle, x) - (forward(a, x) + forward(b, x)) / 2) ** 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the training steps")
    steps = 500 if parser.parse_args().quick else 2000
    a, b = train(1, steps), train(2, steps)
    graph = rb.PermutationGraph.from_axes({"w1": ". h", "b1": "h", "w2": "h ."}, a)
    result = rb.align(a, b, x, graph=graph, objective=middle_is_average, forward=forward)
    print(result)
    print("naive:   ", rb.connectivity(a, b, loss, (x, y), forward=forward))
    print("re-based:", rb.connectivity(a, result.model, loss, (x, y), forward=forward))


if __name__ == "__main__":
    main()
