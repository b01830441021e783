"""The paper's MNIST experiment: two perceptrons of different seeds, re-based, and the loss on the line between them.

Two networks 784-512-512-10 are trained on MNIST. Each method re-bases the second onto the first with hard permutations;
the table and the plot show the loss and the accuracy on the straight line between the two. Weight matching and L2 see
no data, the midpoint and the random-point loss see the training set (Eq. 7 to 9 of the paper).

The data come from ``mnist.npz`` in the folder named by the environment variable REBASIN_DATA (arrays x_train, y_train,
x_test, y_test), else from keras.datasets, which downloads them. Run it on the backend that Keras is to compute with:

    KERAS_BACKEND=jax python keras_mnist.py            # a few minutes on two cores
    KERAS_BACKEND=jax python keras_mnist.py --quick    # a minute: two epochs, few steps
"""

import argparse
import os
import time
from pathlib import Path

import keras
import numpy as np

import rebasin_core as rb
from rebasin_core.line.plotting import plot_curves, save_figure

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def load_mnist():
    """Pixels from 0 to 1 as rows of 784, and labels: (x_train, y_train), (x_test, y_test)."""
    folder = os.environ.get("REBASIN_DATA")
    if folder:
        with np.load(Path(folder) / "mnist.npz") as file:
            parts = (file["x_train"], file["y_train"]), (file["x_test"], file["y_test"])
    else:
        parts = keras.datasets.mnist.load_data()
    return tuple((x.reshape(len(x), 784).astype("float32") / 255, y.astype("int64")) for x, y in parts)


def train(data, seed, epochs, width):
    """Adam with a falling step, 0.98 accuracy after five epochs."""
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(width, "relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])
    x, y = data
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, epochs * (len(x) // 256))
    model.compile(keras.optimizers.Adam(schedule), LOSS)
    history = model.fit(x, y, batch_size=256, epochs=epochs, verbose=0).history["loss"]
    for epoch, loss in enumerate(history):
        print(f"  seed {seed}, epoch {epoch + 1} of {epochs}: loss {loss:.4f}", flush=True)
    return model


def batches(data, size, count=None):
    x, y = data
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)][:count]


def methods(data, quick):
    """Name, objective and solver; the losses are followed on batches of 512 training images."""
    steps = {"max_steps": 15, "num_rounds": 1} if quick else {"max_steps": 120, "patience": 60, "num_rounds": 1}
    sinkhorn = rb.solvers.Sinkhorn(**steps)
    images = {"loss": LOSS, "data": batches(data, 512), "evaluation_batches": 4}
    return [
        ("naive", None, None),
        ("weight matching", rb.objectives.L2(), rb.solvers.WeightMatching()),
        ("Sinkhorn, L2", rb.objectives.L2(), sinkhorn),
        ("Sinkhorn, midpoint", rb.objectives.Midpoint(**images), sinkhorn),
        ("Sinkhorn, random point", rb.objectives.RandomPoint(**images), sinkhorn),
    ]


def distance(a, b):
    return np.linalg.norm([np.linalg.norm(p - q) for p, q in zip(a.get_weights(), b.get_weights(), strict=True)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two epochs, few steps, fewer points on the line")
    parser.add_argument("--seed", type=int, default=0, help="the networks are trained with seeds 2 s + 1 and 2 s + 2")
    parser.add_argument("--epochs", type=int, default=None, help="default: 5, with --quick 2")
    parser.add_argument("--width", type=int, default=512, help="units per hidden layer")
    parser.add_argument("--plot", type=Path, default=Path("keras_mnist.png"), help="where the figure goes")
    options = parser.parse_args()
    epochs = options.epochs or (2 if options.quick else 5)

    print(f"training two networks with Keras on {keras.backend.backend()}")
    training, test = load_mnist()
    model_a, model_b = (train(training, 2 * options.seed + k, epochs, options.width) for k in (1, 2))
    # The barrier is measured on a sixth of the training set, the accuracy on the test set.
    held = {"train": batches(training, 1000, 2 if options.quick else 10), "test": batches(test, 1000)}
    places = 11 if options.quick else 25

    curves, accuracies = {}, {}
    print(f"\n{'':24}{'barrier':>9}{'AUC':>9}{'midpoint accuracy':>19}{'distance':>10}{'seconds':>9}")
    for name, objective, solver in methods(training, options.quick):
        start = time.perf_counter()
        rebased = model_b
        if objective is not None:
            example = training[0][:64]
            rebased = rb.align(model_a, model_b, example, objective=objective, solver=solver, seed=options.seed).model
        seconds = time.perf_counter() - start
        curves[name] = rb.connectivity(model_a, rebased, LOSS, held["train"], places)
        accuracies[name] = rb.connectivity(model_a, rebased, LOSS, held["test"], 11, metrics=["accuracy"])
        row = curves[name]
        print(
            f"{name:24}{row.barrier:9.4f}{row.auc:9.4f}{accuracies[name].at(0.5)['accuracy']:19.4f}"
            f"{distance(model_a, rebased):10.2f}{seconds:9.1f}",
            flush=True,
        )
    ends = accuracies["naive"].metrics["accuracy"]
    print(f"\ntest accuracy of the two networks: {ends[0]:.4f} and {ends[-1]:.4f}")

    from matplotlib.figure import Figure

    axes = Figure(figsize=(9, 3.5), layout="constrained").subplots(1, 2)
    plot_curves(curves, ax=axes[0])
    plot_curves(accuracies, ax=axes[1], metric="accuracy").get_legend().remove()
    save_figure(axes[0], options.plot)
    print(f"figure: {options.plot}")


if __name__ == "__main__":
    main()
