"""Table 1 of the paper: planted permutations, found again from the weights alone.

Fifty perceptrons with 2, 4 and 8 hidden layers of ten units, with random weights or trained on a polynomial of the
first or the third degree; each is permuted at random, and the permutation is to be found from the weights alone. The
table shows the mean absolute difference between the weights after the re-basin and the expected ones, times 1000, and
how many are exact.

    python table1.py --workers 2
    python table1.py --quick

With ``--peer FOLDER`` the authors' own code runs on the same networks; install it with
``pip install --target FOLDER --no-deps sinkhorn-rebasin==0.0.2 torchviz graphviz``.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import perceptron
from running import deviation, options, parallel, save_table, table
from tasks import polynomial
from torch import nn
from training import train_polynomial

import rebasin_core as rb

KINDS = {"Rnd": None, "Pol3": "third", "Pol1": "first"}
DEPTHS = (2, 4, 8)
METHODS = {
    "WM": rb.solvers.WeightMatching(),
    "FrankWolfe, L2": rb.solvers.FrankWolfe(),
    "Sinkhorn, L2": rb.solvers.Sinkhorn(),
}


@dataclass(frozen=True)
class Job:
    """One network."""

    kind: str
    depth: int
    seed: int
    steps: int
    peer: str | None = None


def network(job: Job) -> nn.Module:
    """Return the network: random weights, or trained."""
    torch.manual_seed(job.seed)
    model = perceptron(1, 10, job.depth, 1, nn.Tanh)
    degree = KINDS[job.kind]
    if degree is not None:
        return train_polynomial(model, polynomial(degree), job.seed, job.steps)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def recover(job: Job) -> dict[str, tuple[float, float]]:
    """Error and seconds of every method."""
    model = network(job)
    graph = rb.permutation_graph(model, torch.zeros(1, 1))
    plan = rb.Plan.random(graph, job.seed)
    target = rb.permute(model, plan, graph)
    found = {}
    for name, solver in METHODS.items():
        started = time.perf_counter()
        result = rb.align(target, model, torch.zeros(1, 1), graph=graph, solver=solver, seed=job.seed, progress=False)
        found[name] = (difference(result.model, target), time.perf_counter() - started)
    if job.peer is not None:
        found["authors' code"] = theirs(model, target, job.peer)
    return found


@torch.no_grad()
def difference(model: nn.Module, target: nn.Module) -> float:
    """Mean absolute difference of the weights, times 1000."""
    pairs = zip(model.parameters(), target.parameters(), strict=True)
    return 1000 * float(torch.cat([(a - b).abs().flatten() for a, b in pairs]).mean())


def theirs(model: nn.Module, target: nn.Module, folder: str, steps: int = 50) -> tuple[float, float]:
    """Error and seconds of the authors' published example: fifty steps of AdamW at 0.1, from the identity."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    rebasin: Any = __import__("rebasin")
    losses: Any = __import__("rebasin.loss", fromlist=["DistL2Loss"])
    started = time.perf_counter()
    moved = rebasin.RebasinNet(model, input_shape=(1, 1))
    moved.identity_init()
    criterion = losses.DistL2Loss(target)
    optimizer = torch.optim.AdamW(moved.p.parameters(), lr=0.1)
    for _ in range(steps):
        moved.train()
        loss = criterion(moved())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moved.eval()
        if criterion(moved()) == 0:
            break
    moved.eval()
    return difference(moved(), target), time.perf_counter() - started


def main() -> None:
    """Run the experiment, print the table, draw the picture."""
    parser = options(__doc__, pairs=50)
    parser.add_argument("--peer", type=str, default=None, help="folder that holds the authors' package")
    chosen = parser.parse_args()
    count, steps = (1, 50) if chosen.quick else (chosen.pairs, 2000)
    jobs = [
        Job(kind, depth, seed, steps, chosen.peer)
        for kind in KINDS
        for depth in DEPTHS
        for seed in range(chosen.seed, chosen.seed + count)
    ]
    results = parallel(recover, jobs, chosen.workers)
    rows, totals = [], {}
    for name in results[0]:
        for kind in KINDS:
            cells = []
            for depth in DEPTHS:
                errors = [r[name][0] for r, j in zip(results, jobs, strict=True) if (j.kind, j.depth) == (kind, depth)]
                exact = sum(error == 0 for error in errors)
                cells.append(f"{deviation(errors, 2)} ({exact} of {len(errors)})")
                totals[name] = totals.get(name, 0) + exact
            seconds = [r[name][1] for r, j in zip(results, jobs, strict=True) if j.kind == kind]
            rows.append([name, kind, *cells, f"{np.mean(seconds):.2f}"])
    header = ["method", "weights", *(f"{depth} hidden" for depth in DEPTHS), "seconds a model"]
    summary = "; ".join(f"{name} exact in {exact} of {len(jobs)}" for name, exact in totals.items())
    save_table(table(header, rows) + f"\n\n{summary}", chosen.out / "table1.md")
    draw(totals, len(jobs), chosen.out / "table1.png")


def draw(totals: dict[str, int], count: int, file: Path) -> None:
    """Draw the share of permutations found exactly."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 2.5), layout="constrained").subplots()
    bars = axes.barh(list(totals), list(totals.values()), color="#2a7f62")
    axes.bar_label(bars, padding=3)
    axes.set(xlim=(0, count * 1.1), xlabel=f"permutations found exactly, of {count}")
    axes.invert_yaxis()
    axes.figure.savefig(file, dpi=150)
    print(f"picture: {file}")


if __name__ == "__main__":
    main()
