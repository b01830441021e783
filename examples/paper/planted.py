"""Two harder planted permutations: a deep residual network, and networks that noise has moved apart.

*Deep*: a stream of 30 units through blocks ``x + C act(A x + b)`` of 30 hidden units each, all weights standard
normal; one permutation for the stream, one per block. *Noisy*: a perceptron of three hidden layers and a permuted copy
of it, to which Gaussian noise of 10 % and 30 % of each tensor's deviation was added. Every solver sees the weights
alone. NumPy is enough: the networks are dictionaries of arrays.

    python planted.py --workers 2
    python planted.py --quick
"""

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from running import options, parallel, save_table, table

import rebasin_core as rb

SOLVERS = {
    "WeightMatching": rb.solvers.WeightMatching(),
    "WeightMatching, one start": rb.solvers.WeightMatching(num_starts=1),
    "FrankWolfe": rb.solvers.FrankWolfe(),
    "StraightThrough": rb.solvers.StraightThrough(),
    "Sinkhorn": rb.solvers.Sinkhorn(),
}


@dataclass(frozen=True)
class Job:
    """One planted permutation, for one solver."""

    kind: str
    size: int
    noise: float
    solver: str
    seed: int


def deep(blocks: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return parameters and axes of the residual network."""
    params = {"in": rng.normal(size=(30, 10)), "out": rng.normal(size=(10, 30))}
    axes = {"in": "stream .", "out": ". stream"}
    for i in range(blocks):
        params |= {f"A{i}": rng.normal(size=(30, 30)), f"b{i}": rng.normal(size=30), f"C{i}": rng.normal(size=(30, 30))}
        axes |= {f"A{i}": f"h{i} stream", f"b{i}": f"h{i}", f"C{i}": f"stream h{i}"}
    return params, axes


def perceptron(width: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return parameters and axes of a perceptron with three hidden layers, 32 inputs and 10 outputs."""
    sizes = [32, width, width, width, 10]
    names = [".", "h1", "h2", "h3", "."]
    params, axes = {}, {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        params |= {f"w{i}": rng.normal(size=(outputs, inputs)) / np.sqrt(inputs), f"b{i}": rng.normal(size=outputs)}
        axes |= {f"w{i}": f"{names[i + 1]} {names[i]}", f"b{i}": names[i + 1]}
    return params, axes


def recover(job: Job) -> dict[str, Any]:
    """Return the share of units matched right, whether all were, and the seconds."""
    rng = np.random.default_rng(job.seed)
    make = deep if job.kind == "deep" else perceptron
    params, axes = make(job.size, rng)
    a = {name: x.astype(np.float32) for name, x in params.items()}
    graph = rb.PermutationGraph.from_axes(axes, a)
    plan = rb.Plan.random(graph, rng)
    moved = rb.permute(a, plan, graph)
    b = {n: x + np.float32(job.noise * x.std()) * rng.standard_normal(x.shape, np.float32) for n, x in moved.items()}
    started = time.perf_counter()
    found = rb.align(a, b, graph=graph, solver=SOLVERS[job.solver], seed=job.seed, progress=False).plan
    seconds = time.perf_counter() - started
    right = [found[group] == perm for group, perm in plan.inverse().items()]
    return {"right": np.concatenate(right).mean(), "exact": all(r.all() for r in right), "seconds": seconds}


def main() -> None:
    """Run the experiment and print the tables."""
    parser = options(__doc__, pairs=100)
    parser.add_argument("--noisy-pairs", type=int, default=5, help="pairs per width and noise (default 5)")
    parser.add_argument("--solvers", nargs="+", choices=list(SOLVERS), default=list(SOLVERS))
    chosen = parser.parse_args()
    count, noisy = (1, 1) if chosen.quick else (chosen.pairs, chosen.noisy_pairs)
    cases = [("deep", 10, 0.0, count), ("deep", 50, 0.0, count)]
    cases += [("noisy", width, noise, noisy) for width in (64, 512) for noise in (0.1, 0.3)]
    if chosen.quick:
        cases = [("deep", 10, 0.0, 1), ("noisy", 64, 0.3, 1)]
    rows = []
    for kind, size, noise, pairs in cases:
        for solver in chosen.solvers:
            # Coordinate descent and Frank-Wolfe are the ones to watch on deep networks; the others take minutes there.
            here = pairs if kind == "noisy" or solver in ("WeightMatching", "FrankWolfe") else min(pairs, 5)
            jobs = [Job(kind, size, noise, solver, seed) for seed in range(chosen.seed, chosen.seed + here)]
            results = parallel(recover, jobs, chosen.workers)
            exact = sum(r["exact"] for r in results)
            right = np.mean([r["right"] for r in results])
            seconds = [r["seconds"] for r in results]
            what = f"{size} blocks" if kind == "deep" else f"width {size}, noise {noise:.0%}"
            figures = f"{right:.4f}", f"{np.median(seconds):.2f}", f"{max(seconds):.2f}"
            rows.append([what, solver, f"{exact} of {here}", *figures])
    header = ["network", "solver", "exact", "units right", "median seconds", "longest"]
    save_table(table(header, rows), chosen.out / "planted.md")


if __name__ == "__main__":
    main()
