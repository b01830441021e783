"""What alpha and beta do: accuracy and forgetting of re-basin incremental learning on Rotated MNIST.

Alpha is the place of the next model on the line of Eq. 12. As the paper has it, the residual is added whole at any
place; scaled by 4 alpha (1 - alpha), it is added whole in the middle and not at all at the ends, where the next model
is then the old one. Beta is the weight of the residual's squared norm in Eq. 10.

    python ablation.py --tasks 10 --images 10000
    python ablation.py --quick
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import Method, methods, rebasin
from metrics import average_accuracy, forgetting, spread
from paper import running
from runs import EXPERIMENTS, Runs

from rebasin_core.plotting import save_figure

ALPHAS = (0.0, 0.25, 0.5, 0.75, 0.85, 0.95, 1.0)
BETAS = (0.0001, 0.001, 0.01, 0.1, 1.0)


def main() -> None:
    """Run what is missing, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--images", type=int, help="training images of a task (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--quick", action="store_true", help="two tasks, a thousand images: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for runs, table and picture")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.quick:
        chosen.seeds, chosen.tasks, chosen.images = chosen.seeds[:1], 2, 1000
    experiment = EXPERIMENTS["rotated-mnist"]
    base = next(m.settings for m in methods(experiment.rate) if m.key == "distilled")
    swept = {
        "alpha, residual scaled": [variant(base, alpha=x) for x in ALPHAS],
        "alpha, residual whole": [variant(base, alpha=x, scale_residual=False) for x in ALPHAS],
        "beta": [variant(base, beta=x) for x in BETAS],
    }
    epochs = 1 if chosen.quick else experiment.epochs
    runs = Runs("rotated-mnist", chosen.out / "runs", chosen.tasks, epochs, chosen.images, 20)
    runs.complete([method for sweep in swept.values() for method in sweep], chosen.seeds)
    report(swept, runs, chosen.seeds, chosen.out)


def variant(base: dict[str, Any], **changes: Any) -> Method:
    """Return the tuned and distilled re-basin with other settings."""
    key = "-".join(f"{name}-{value}" for name, value in changes.items())
    return Method(key, key, rebasin, {**base, **changes})


def report(swept: dict[str, list[Method]], runs: Runs, seeds: list[int], out: Path) -> None:
    """Write the table, and draw accuracy and forgetting against each setting."""
    from matplotlib.figure import Figure

    places = dict(zip(swept, (ALPHAS, ALPHAS, BETAS), strict=True))
    rows = []
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for place, (title, sweep) in zip(axes, swept.items(), strict=True):
        found = [runs.matrices(method, seeds) for method in sweep]
        right = [[average_accuracy(matrix) for matrix in matrices] for matrices in found]
        lost = [[forgetting(matrix) for matrix in matrices] for matrices in found]
        for x, accuracy, forgotten in zip(places[title], right, lost, strict=True):
            rows.append([title, x, spread(accuracy, 2, 100.0), spread(forgotten, 3)])
        place.plot(places[title], 100 * np.mean(right, axis=1), "o-", label="accuracy")
        place.plot(places[title], 100 * np.mean(lost, axis=1), "s--", label="forgetting")
        place.set(title=title, xlabel=title.split(",")[0], xscale="log" if title == "beta" else "linear")
        place.xaxis.set_major_formatter("{x:g}")
        place.axhline(0.0, color="grey", linewidth=0.5)
    axes[0].set_ylabel("%")
    axes[0].legend(fontsize="small")
    header = ["swept", "value", "accuracy in %", "forgetting"]
    note = f"{runs.tasks} tasks, training images of a task: {runs.images or 'all'}, seeds: {' '.join(map(str, seeds))}"
    running.save_table(f"{running.table(header, rows)}\n\n{note}", out / "ablation.md")
    save_figure(axes[0], out / "ablation.png")


if __name__ == "__main__":
    main()
