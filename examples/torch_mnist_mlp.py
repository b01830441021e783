"""The paper's MNIST experiment: two perceptrons of different seeds, re-based, and the loss on the line between them.

Two networks 784-512-512-10 are trained on MNIST. Each method re-bases the second onto the first with hard permutations;
the table and the plot show the loss and the accuracy on the straight line between the two. Weight matching and L2 see
no data, the midpoint and the random-point loss see the training set (Eq. 7 to 9 of the paper).

The data come from ``mnist.npz`` in the folder named by the environment variable REBASIN_DATA (arrays x_train, y_train,
x_test, y_test), else from torchvision, which downloads them. Run it with

    python torch_mnist_mlp.py            # a few minutes on two cores
    python torch_mnist_mlp.py --quick    # below a minute: two epochs, few steps
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import rebasin_core as rb
from rebasin_core.line.plotting import plot_curves, save_figure


def load_mnist(device):
    """Pixels from 0 to 1 as rows of 784, and labels: (x_train, y_train), (x_test, y_test)."""
    folder = os.environ.get("REBASIN_DATA")
    if folder:
        with np.load(Path(folder) / "mnist.npz") as file:
            arrays = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    else:
        try:
            from torchvision.datasets import MNIST
        except ImportError:
            raise SystemExit(
                "MNIST was not found. Set REBASIN_DATA to a folder that holds mnist.npz, with the arrays x_train, "
                "y_train, x_test and y_test, or install torchvision, which downloads it"
            ) from None
        arrays = []
        for part in (True, False):
            mnist = MNIST("data", train=part, download=True)
            arrays += [mnist.data.numpy(), mnist.targets.numpy()]
    x_train, y_train, x_test, y_test = (torch.tensor(a) for a in arrays)
    return tuple(
        (x.flatten(1).to(device, torch.float32) / 255, y.to(device, torch.int64))
        for x, y in ((x_train, y_train), (x_test, y_test))
    )


def train(data, seed, epochs, width, device):
    """Adam with a falling step, 0.98 accuracy after five epochs."""
    torch.manual_seed(seed)
    layers = nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = data
    size = min(256, len(x))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * (len(x) // size))
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), device=device)[: len(x) // size * size].split(size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"  seed {seed}, epoch {epoch + 1} of {epochs}: loss {loss.item():.4f}", flush=True)
    return model


def batches(data, size, count=None):
    x, y = data
    return list(zip(x.split(size), y.split(size), strict=True))[:count]


def methods(data, quick):
    """Name, objective and solver; the losses are followed on batches of 512 training images."""
    steps = {"max_steps": 15, "num_rounds": 1} if quick else {"max_steps": 120, "patience": 60, "num_rounds": 1}
    sinkhorn = rb.solvers.Sinkhorn(**steps)
    images = {"loss": nn.CrossEntropyLoss(), "data": batches(data, 512), "evaluation_batches": 4}
    return [
        ("naive", None, None),
        ("weight matching", rb.objectives.L2(), rb.solvers.WeightMatching()),
        ("Sinkhorn, L2", rb.objectives.L2(), sinkhorn),
        ("Sinkhorn, midpoint", rb.objectives.Midpoint(**images), sinkhorn),
        ("Sinkhorn, random point", rb.objectives.RandomPoint(**images), sinkhorn),
    ]


def distance(a, b):
    return torch.cat([(p - q).flatten() for p, q in zip(a.parameters(), b.parameters(), strict=True)]).norm().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two epochs, few steps, fewer points on the line")
    parser.add_argument("--seed", type=int, default=0, help="the networks are trained with seeds 2 s + 1 and 2 s + 2")
    parser.add_argument("--epochs", type=int, default=None, help="default: 5, with --quick 2")
    parser.add_argument("--width", type=int, default=512, help="units per hidden layer")
    parser.add_argument("--plot", type=Path, default=Path("torch_mnist_mlp.png"), help="where the figure goes")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    epochs = options.epochs or (2 if options.quick else 5)

    print(f"training two networks on {device}")
    training, test = load_mnist(device)
    model_a, model_b = (train(training, 2 * options.seed + k, epochs, options.width, device) for k in (1, 2))
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
        curves[name] = rb.connectivity(model_a, rebased, "cross_entropy", held["train"], places)
        accuracies[name] = rb.connectivity(model_a, rebased, "cross_entropy", held["test"], 11, metrics=["accuracy"])
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
