"""How one learning rate of the Sinkhorn solver serves every width.

A perceptron of two hidden layers, and a permuted copy of it to which 30 % of Gaussian noise was added. The search sets
out from the identity, as if nothing were known, and follows the distance of weights or the loss at the midpoint.
Printed is the best hard plan of the descent, as a share of the way from the identity (0) to the best plan known (1).

    OMP_NUM_THREADS=1 python examples/benchmarks/learning_rate.py 10 64 512
    OMP_NUM_THREADS=1 python examples/benchmarks/learning_rate.py 4096 --steps 100 --objective L2
    python examples/benchmarks/learning_rate.py --quick
"""

import argparse
from typing import Any

import torch
from torch import nn

import rebasin_core as rb

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
INPUTS, NOISE, SAMPLES = 32, 0.3, 2048


def pair(width: int, seed: int) -> tuple[nn.Module, nn.Module]:
    """Return a network and a permuted noisy copy."""
    torch.manual_seed(seed)
    a = nn.Sequential(nn.Linear(INPUTS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    graph = rb.permutation_graph(a, torch.zeros(1, INPUTS))
    b = rb.permute(a, rb.Plan.random(graph, seed=seed), graph)
    with torch.no_grad():
        for x in b.parameters():
            x += NOISE * x.std(correction=0) * torch.randn_like(x)
    return a, b


def objective(kind: str, a: nn.Module) -> Any:
    """Return the distance of weights, or the loss at the midpoint against what the first network says."""
    if kind == "L2":
        return rb.objectives.L2()
    x = torch.randn(SAMPLES, INPUTS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = a(x)
    data = list(zip(x.split(256), y.split(256), strict=True))
    return rb.objectives.Midpoint(nn.MSELoss(), data, evaluation_batches=len(data))


def share(kind: str, width: int, rate: float, steps: int, seed: int) -> float:
    """How far the descent came; the best plan known is the better one of weight matching's and its own."""
    a, b = pair(width, seed)
    solver = rb.solvers.Sinkhorn(
        init="identity", learning_rate=rate, max_steps=steps, patience=steps, num_rounds=1, num_starts=1, max_swaps=0
    )
    result = rb.align(a, b, torch.zeros(1, INPUTS), objective=objective(kind, a), solver=solver, seed=seed)
    start = result.history[0].hard
    return (start - min(entry.hard for entry in result.history)) / (start - result.objective)


def main() -> None:
    """Print a row per objective and width."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("widths", type=int, nargs="*", help="default: 10 64, with --quick 10")
    parser.add_argument("--quick", action="store_true", help="ten steps at one width: to see that it runs")
    parser.add_argument("--steps", type=int, default=None, help="default: 300, with --quick 10")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--objective", choices=("L2", "midpoint"), nargs="*", default=["L2", "midpoint"])
    chosen = parser.parse_args()
    steps = chosen.steps or (10 if chosen.quick else 300)
    print(f"{'objective':10} {'width':>6}" + "".join(f"{rate:8g}" for rate in RATES))
    for kind in chosen.objective:
        for width in chosen.widths or ([10] if chosen.quick else [10, 64]):
            row = [
                sum(share(kind, width, rate, steps, seed) for seed in range(chosen.seeds)) / chosen.seeds
                for rate in RATES
            ]
            print(f"{kind:10} {width:6}" + "".join(f"{value:8.2f}" for value in row), flush=True)


if __name__ == "__main__":
    main()
