"""Figure 3 of the paper: the expected permutation matrices, and what weight matching and Sinkhorn find.

One random perceptron with hidden layers of ten units and a permuted copy of it. Weight matching as in Git Re-Basin is
one coordinate descent from the identity; the first seed from ``--seed`` on where it goes wrong is shown.

    python figure3.py
"""

import numpy as np
import torch
from networks import perceptron
from running import options
from torch import nn

import rebasin_core as rb
from rebasin_core.models.model import open_model
from rebasin_core.solvers.weight_matching import descend

SEEDS_TRIED = 50


def descended(target: nn.Module, model: nn.Module, graph: rb.PermutationGraph, seed: int) -> rb.Plan:
    """Return the plan of one coordinate descent from the identity, Algorithm 1 of Git Re-Basin."""
    a, b = open_model(target), open_model(model)
    plan = rb.Plan.identity(graph)
    for found, _ in descend(graph, a.params, b.params, plan, np.random.default_rng(seed), a.backend):
        plan = found
    return plan


def main() -> None:
    """Find a network, align it, draw the matrices."""
    parser = options(__doc__, pairs=1)
    parser.add_argument("--depth", type=int, default=2)
    chosen = parser.parse_args()
    for seed in range(chosen.seed, chosen.seed + SEEDS_TRIED):
        torch.manual_seed(seed)
        model = perceptron(1, 10, chosen.depth, 1, nn.Tanh)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        graph = rb.permutation_graph(model, torch.zeros(1, 1))
        expected = rb.Plan.random(graph, seed)
        target = rb.permute(model, expected, graph)
        greedy = descended(target, model, graph, seed)
        if greedy != expected:
            break
    found = rb.align(target, model, graph=graph, seed=seed, progress=False).plan

    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    rows = {"expected": expected, "coordinate descent": greedy, "Sinkhorn, L2": found}
    shape = len(rows), len(graph.groups)
    axes = Figure(figsize=(2 * shape[1] + 1, 6), layout="constrained").subplots(*shape, squeeze=False)
    colors = ListedColormap(["white", "#f2c744", "#1f77b4", "#d62728"])
    for line, (name, plan) in zip(axes, rows.items(), strict=True):
        for ax, group in zip(line, graph.groups, strict=True):
            n = graph.groups[group]
            wanted, got = (np.eye(n)[p[group]] for p in (expected, plan))
            # Found and expected: blue; expected, not found: yellow; found, not expected: red.
            ax.imshow(np.where(got * wanted > 0, 2, np.where(wanted > 0, 1, np.where(got > 0, 3, 0))), colors, vmax=3)
            wrong = int((plan[group] != expected[group]).sum())
            ax.set(xticks=[], yticks=[], title=f"{name}\n{wrong} of {n} wrong" if name != "expected" else group)
    chosen.out.mkdir(parents=True, exist_ok=True)
    file = chosen.out / "figure3.png"
    axes[0, 0].figure.savefig(file, dpi=150)
    wrong = {name: sum(int((plan[g] != expected[g]).sum()) for g in plan) for name, plan in rows.items()}
    print(f"seed {seed}; units out of place: {wrong}\npicture: {file}")


if __name__ == "__main__":
    main()
