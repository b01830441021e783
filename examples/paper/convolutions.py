"""The supplement's convolutional and residual case: VGG-11 and ResNet-20 on CIFAR-10.

Two networks of one architecture are trained from different seeds; each method re-bases the second onto the first, and
the loss on the line is measured twice: with the BatchNorm statistics interpolated like the weights, and with statistics
re-estimated at every place (``reestimate``), without which no merged network of this kind works.

    python convolutions.py --cache networks                 # ResNet-20: half an hour of training a pair on two cores
    python convolutions.py --network vgg11 --cache networks
    python convolutions.py --quick

CIFAR-10 comes from the folder in the environment variable REBASIN_DATA.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import batches
from networks import ResNet20, vgg11
from running import deviation, options, parallel, save_table, table
from tasks import Task, cifar10
from torch import nn
from training import accuracy, cached, train_images

import rebasin_core as rb
from rebasin_core.line.plotting import save_figure

METHODS = ("naive", "WM", "activation matching", "C_L2", "C_Rnd")
COLORS = ("black", "#1f77b4", "#9467bd", "#17becf", "#2ca02c")


@dataclass(frozen=True)
class Job:
    """One pair of networks."""

    network: str
    width: float
    seed: int
    epochs: int
    quick: bool
    cache: Path | None


def cache_file(job: Job, index: int) -> Path | None:
    """Where a network is kept."""
    return job.cache and job.cache / f"{job.network}-{job.width:g}-{job.epochs}-{1000 * job.seed + index}.pt"


def trained(job: Job, task: Task, index: int) -> nn.Module:
    """Return one network of the pair, trained now or read from the cache."""
    seed = 1000 * job.seed + index
    torch.manual_seed(seed)
    model = ResNet20(int(job.width)) if job.network == "resnet20" else vgg11(job.width)
    return cached(cache_file(job, index), model, lambda m: train_images(m, task, seed, job.epochs, rate=0.2))


def rebase(name: str, job: Job, task: Task, a: nn.Module, b: nn.Module) -> tuple[nn.Module, str]:
    """Return the second network re-based onto the first, and what the solver says of it."""
    if name == "naive":
        return b, ""
    data = batches(task.train, 64 if job.quick else 256)
    few = 1 if job.quick else 8
    # From the matching, not too sharply, and slowly to hard plans: it starts well, and no swap is affordable.
    settings = {"init_scale": 4.0, "final_tau": 0.25, "num_rounds": 1}
    settings |= {"max_steps": 3, "max_swaps": 0} if job.quick else {"max_steps": 1000, "patience": 1000}
    objective, solver = {
        "WM": (rb.objectives.L2(), rb.solvers.WeightMatching()),
        "activation matching": (rb.objectives.Activations(data[:few]), rb.solvers.ActivationMatching()),
        "C_L2": (rb.objectives.L2(), rb.solvers.Sinkhorn()),
        "C_Rnd": (
            rb.objectives.RandomPoint(task.loss, data, evaluation_batches=few),
            rb.solvers.Sinkhorn(**settings),
        ),
    }[name]
    result = rb.align(a, b, data[0][0][:8], objective=objective, solver=solver, seed=job.seed, progress=True)
    return result.model, str(result)


def run(job: Job) -> dict[str, dict[str, Any]]:
    """Measure every method on one pair."""
    task = cifar10(training_images=2000 if job.quick else 50_000)
    a, b = (trained(job, task, index) for index in (0, 1))
    held = batches(task.test, 100, 1) if job.quick else batches(task.test, 500, 10)
    fresh = batches(task.train, 100)[-1:] if job.quick else batches(task.train, 500)[-4:]
    results: dict[str, dict[str, Any]] = {"ends": {"accuracy": [accuracy(model, task.test) for model in (a, b)]}}
    for name in METHODS:
        started = time.perf_counter()
        model, summary = rebase(name, job, task, a, b)
        seconds = time.perf_counter() - started
        settings: dict[str, Any] = {"lambdas": 3 if job.quick else 11, "metrics": ["accuracy"]}
        results[name] = {
            "as it is": rb.connectivity(a, model, task.loss, held, **settings),
            "re-estimated": rb.connectivity(a, model, task.loss, held, reestimate=fresh, **settings),
            "seconds": seconds,
        }
        print(f"{name}: barrier {results[name]['re-estimated'].barrier:.3f} re-estimated\n{summary}", flush=True)
    return results


def main() -> None:
    """Run the experiment, print the table, draw the picture."""
    parser = options(__doc__, pairs=1)
    parser.add_argument("--network", choices=("resnet20", "vgg11"), default="resnet20")
    parser.add_argument("--width", type=float, default=1.0, help="channels, as a multiple of the usual")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=None, help="folder to keep trained networks in")
    chosen = parser.parse_args()
    epochs, count = (1, 1) if chosen.quick else (chosen.epochs, chosen.pairs)
    seeds = range(chosen.seed, chosen.seed + count)
    jobs = [Job(chosen.network, chosen.width, seed, epochs, chosen.quick, chosen.cache) for seed in seeds]
    report(f"{chosen.network}-{chosen.width:g}", parallel(run, jobs, chosen.workers), chosen.out)


def report(title: str, results: list[dict[str, dict[str, Any]]], out: Path) -> None:
    """Write the table, and draw the excess loss along the re-estimated path."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(5, 3.2), layout="constrained").subplots()
    rows = []
    for name, color in zip(METHODS, COLORS, strict=True):
        mine = [result[name] for result in results]
        kinds = ("as it is", "re-estimated")
        barriers = [deviation(m[kind].barrier for m in mine) for kind in kinds]
        middle = [deviation(m[kind].at(0.5)["accuracy"] for m in mine) for kind in kinds]
        rows.append([name, *barriers, *middle, f"{np.mean([m['seconds'] for m in mine]):.0f}"])
        curves = [m["re-estimated"] for m in mine]
        axes.plot(curves[0].lambdas, np.mean([c.excess for c in curves], 0), label=name, color=color)
    header = ["method", "barrier", "barrier, re-estimated", "accuracy", "accuracy, re-estimated", "seconds a pair"]
    ends = deviation(a for result in results for a in result["ends"]["accuracy"])
    save_table(f"{table(header, rows)}\n\ntest accuracy of the networks {ends}", out / f"convolutions-{title}.md")
    axes.set(xlabel="place on the line (0: network A, 1: re-based B)", ylabel="test loss above the ends", title=title)
    axes.legend(fontsize="small")
    save_figure(axes, out / f"convolutions-{title}.png")


if __name__ == "__main__":
    main()
