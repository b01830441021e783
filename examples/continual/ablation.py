"""What alpha and beta do: accuracy and forgetting of re-basin incremental learning on Rotated MNIST.

Alpha is the place of the next model on the line of Eq. 12. As the paper has it, the residual is added whole at any
place; scaled by 4 alpha (1 - alpha), it is added whole in the middle and not at all at the ends, where the next model
is then the old one. Beta is the weight of the residual's squared norm in Eq. 10. Replay alone has no alpha; how much of
the model before stays in the next one (keep) draws a curve of its own. The last picture has both: accuracy against
forgetting.

    python ablation.py --tasks 10 --images 10000
    python ablation.py --quick
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods import Method, methods
from metrics import average_accuracy, forgetting, spread
from paper import running
from runs import EXPERIMENTS, Runs

from rebasin_core.plotting import save_figure

ALPHAS = (0.0, 0.25, 0.5, 0.75, 0.85, 0.95, 1.0)
BETAS = (0.0001, 0.001, 0.01, 0.1, 1.0)
KEEPS = (0.0, 0.25, 0.5, 0.75, 0.9)
SCALED, REPLAY = "alpha, residual scaled", "keep, replay alone"


def main() -> None:
    """Run what is missing, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--images", type=int, help="training images of a task (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--quick", action="store_true", help="two tasks, a thousand images, two values")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for runs, table and picture")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.quick:
        chosen.seeds, chosen.tasks, chosen.images = chosen.seeds[:1], 2, 1000
    experiment = EXPERIMENTS["rotated-mnist"]
    rebased, replayed = ({m.key: m for m in methods(experiment.rate)}[key] for key in ("distilled", "replay-distilled"))
    alphas, betas, keeps = ((x[:1] + x[-1:]) if chosen.quick else x for x in (ALPHAS, BETAS, KEEPS))
    swept = {
        SCALED: {x: variant(rebased, alpha=x) for x in alphas},
        "alpha, residual whole": {x: variant(rebased, alpha=x, scale_residual=False) for x in alphas},
        "beta": {x: variant(rebased, beta=x) for x in betas},
        REPLAY: {x: variant(replayed, keep=x) for x in keeps},
    }
    epochs = 1 if chosen.quick else experiment.epochs
    runs = Runs("rotated-mnist", chosen.out / "runs", chosen.tasks, epochs, chosen.images, 20)
    runs.complete([method for sweep in swept.values() for method in sweep.values()], chosen.seeds)
    report(swept, runs, chosen.seeds, chosen.out)


def variant(base: Method, **changes: Any) -> Method:
    """Return a method with other settings."""
    key = "-".join(f"{name}-{value}" for name, value in changes.items())
    return Method(key, f"{base.name}, {key}", base.function, {**base.settings, **changes})


def report(swept: dict[str, dict[float, Method]], runs: Runs, seeds: list[int], out: Path) -> None:
    """Write the table, and draw accuracy and forgetting against each setting."""
    from matplotlib.figure import Figure

    rows, curves = [], {}
    figure = Figure(figsize=(9, 6), layout="constrained")
    *axes, last, hidden = figure.subplots(2, 3).flat
    hidden.set_visible(False)
    for place, (title, sweep) in zip(axes, swept.items(), strict=True):
        found = [runs.matrices(method, seeds) for method in sweep.values()]
        right = [[average_accuracy(matrix) for matrix in matrices] for matrices in found]
        lost = [[forgetting(matrix) for matrix in matrices] for matrices in found]
        for x, accuracy, forgotten in zip(sweep, right, lost, strict=True):
            rows.append([title, x, spread(accuracy, 2, 100.0), spread(forgotten, 3)])
        curves[title] = [100 * np.mean(values, axis=1) for values in (lost, right)]
        place.plot(list(sweep), curves[title][1], "o-", label="accuracy")
        place.plot(list(sweep), curves[title][0], "s--", label="forgetting")
        place.set(title=title, xlabel=title.split(",")[0], xscale="log" if title == "beta" else "linear")
        place.xaxis.set_major_formatter("{x:g}")
        place.axhline(0.0, color="grey", linewidth=0.5)
        place.set(ylabel="%", ylim=(-20, 100))
    axes[0].legend(fontsize="small")
    for title, label in ((SCALED, "re-basin, alpha from 0 to 1"), (REPLAY, "replay alone, keep from 0 to 0.9")):
        last.plot(*curves[title], "o-", label=label)
    last.set(title="accuracy against forgetting", xlabel="forgetting in %", ylabel="accuracy in %")
    last.legend(fontsize="small")
    header = ["swept", "value", "accuracy in %", "forgetting"]
    note = f"{runs.tasks} tasks, training images of a task: {runs.images or 'all'}, seeds: {' '.join(map(str, seeds))}"
    running.save_table(f"{running.table(header, rows)}\n\n{note}", out / "ablation.md")
    save_figure(axes[0], out / "ablation.png")


if __name__ == "__main__":
    main()
