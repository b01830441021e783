"""Table 2 of the paper: the loss barrier between trained networks, before and after the re-basin.

Pairs of perceptrons with two hidden layers, trained from different seeds on a polynomial of the first or third degree
(ten units), MNIST or CIFAR-10 (512 units, or ``--width``). Every method re-bases the second network of the same pairs
onto the first, with hard permutations. The table shows the area under the loss curve and the loss barrier on the line
(Eq. 3) on the test data, mean ± deviation over the pairs; the barrier on training data stands beside it.

    python table2.py --workers 2                              # the polynomials, fifty pairs
    python table2.py --tasks mnist cifar10 --pairs 5 --workers 2
    python table2.py --tasks mnist --width 32 --pairs 10
    python table2.py --quick

MNIST and CIFAR-10 come from the folder in the environment variable REBASIN_DATA.
"""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import METHODS, batches, rebased
from networks import perceptron
from running import deviation, options, parallel, save_table, table
from tasks import Task, cifar10, mnist, polynomial
from torch import nn
from training import cached, train_images, train_polynomial

import rebasin_core as rb
from rebasin_core.line.plotting import save_figure

TASKS = ("first", "third", "mnist", "cifar10")
COLUMNS = {
    "auc": "AUC",
    "barrier": "barrier",
    "training barrier": "barrier, training data",
    "distance": "squared L2 distance",
    "accuracy": "midpoint accuracy",
}


@dataclass(frozen=True)
class Job:
    """One pair of networks of one task."""

    task: str
    seed: int
    width: int
    quick: bool
    cache: Path | None


@functools.cache
def load(name: str) -> Task:
    """Return the data of a task, read once per process."""
    if name in ("first", "third"):
        return polynomial(name)
    return mnist() if name == "mnist" else cifar10(flat=True)


def trained(job: Job, index: int) -> nn.Module:
    """Return one network of the pair, trained now or read from the cache."""
    task, seed = load(job.task), 1000 * job.seed + index
    torch.manual_seed(seed)
    if job.task in ("first", "third"):
        return train_polynomial(perceptron(1, 10, 2, 1, nn.Tanh), task, seed, 100 if job.quick else 2000)
    epochs = 1 if job.quick else 5
    file = job.cache and job.cache / f"{job.task}-{job.width}-{epochs}-{seed}.pt"
    model = perceptron(task.train[0].shape[1], job.width, 2, 10, nn.ReLU)
    rate, batch_size = (5e-3, 256) if job.task == "mnist" else (3e-3, 512)
    return cached(file, model, lambda m: train_images(m, task, seed, epochs, rate, batch_size))


def run(job: Job) -> dict[str, dict[str, Any]]:
    """Measure every method on one pair."""
    task = load(job.task)
    a, b = (trained(job, index) for index in (0, 1))
    classes = job.task not in ("first", "third")
    held = batches(task.test, 1000)
    results = {}
    for method in METHODS:
        started = time.perf_counter()
        model, alignment = rebased(method, task, a, b, job.seed, job.quick)
        seconds = time.perf_counter() - started
        curve = rb.connectivity(a, model, task.loss, held, metrics=["accuracy"] if classes else ())
        training = rb.connectivity(a, model, task.loss, batches(task.train, 1000)[-10:], 11)
        results[method.name] = {
            "barrier": curve.barrier,
            "auc": curve.auc,
            "training barrier": training.barrier,
            "distance": squared_distance(a, model),
            "seconds": seconds,
            "curve": curve,
            **({"accuracy": curve.at(0.5)["accuracy"]} if classes else {}),
            "summary": str(alignment),
        }
    return results


@torch.no_grad()
def squared_distance(a: nn.Module, b: nn.Module) -> float:
    """Squared Euclidean distance of the weights."""
    return sum(float(((p - q) ** 2).sum()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def main() -> None:
    """Run the experiment, print the table, draw the picture."""
    parser = options(__doc__, pairs=50)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["first", "third"])
    parser.add_argument("--width", type=int, default=512, help="hidden units for MNIST and CIFAR-10")
    parser.add_argument("--cache", type=Path, default=None, help="folder to keep trained networks in")
    chosen = parser.parse_args()
    count = 1 if chosen.quick else chosen.pairs
    width = 32 if chosen.quick else chosen.width
    for name in chosen.tasks:
        seeds = range(chosen.seed, chosen.seed + count)
        jobs = [Job(name, seed, width, chosen.quick, chosen.cache) for seed in seeds]
        results = parallel(run, jobs, chosen.workers)
        report(name if name in ("first", "third") else f"{name}-{width}", results, chosen.out)


def report(title: str, results: list[dict[str, dict[str, Any]]], out: Path) -> None:
    """Write the table of one task, and draw the mean excess loss along the path."""
    rows = []
    columns = {key: text for key, text in COLUMNS.items() if key in results[0]["naive"]}
    for method in METHODS:
        mine = [result[method.name] for result in results]
        cells = [deviation(r[key] for r in mine) for key in columns]
        rows.append([method.name, *cells, f"{mean(mine, 'seconds'):.1f}"])
    header = ["method", *columns.values(), "seconds a pair"]
    closer = sum(r["C_L2"]["distance"] <= r["WM"]["distance"] for r in results)
    note = f"{len(results)} pairs; C_L2 is at most as far as WM on {closer} of them"
    save_table(f"{table(header, rows)}\n\n{note}", out / f"table2-{title}.md")

    from matplotlib.figure import Figure

    axes = Figure(figsize=(5, 3.2), layout="constrained").subplots()
    for method in METHODS:
        curves = [result[method.name]["curve"] for result in results]
        excess = np.mean([curve.excess for curve in curves], axis=0)
        axes.plot(curves[0].lambdas, excess, label=method.name, color=method.color)
    axes.set(xlabel="place on the line (0: network A, 1: re-based B)", ylabel="loss above the ends", title=title)
    axes.legend(fontsize="small")
    save_figure(axes, out / f"table2-{title}.png")


def mean(results: list[dict[str, Any]], key: str) -> float:
    """Mean of one figure over the pairs."""
    return float(np.mean([result[key] for result in results]))


if __name__ == "__main__":
    main()
