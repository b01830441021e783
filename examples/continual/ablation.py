"""What alpha and beta do: accuracy and forgetting of re-basin incremental learning.

Alpha is the place of the next model on the line of Eq. 12. As the paper has it, the residual is added whole at any
place; scaled by 4 alpha (1 - alpha), it is added whole in the middle and not at all at the ends, where the next model
is then the old one. Beta is the weight of the residual's squared norm in Eq. 10. Replay alone has no alpha; how much of
the model before stays in the next one (keep) draws a curve of its own. The last picture has both: accuracy against
forgetting. Swept are rows of `table3.py`, a re-basin and the replay with the same settings; of the first, beta and the
whole residual too, where there is no head per task.

    python ablation.py --tasks 10 --images 6000
    python ablation.py --rows fast --seeds 0 1 2
    python ablation.py --experiment split-cifar10 --images 2000 --seeds 0 1 2
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
from runs import EXPERIMENTS, Experiment, Runs

from rebasin_core.line.plotting import save_figure

VALUES = {
    "alpha": (0.0, 0.25, 0.5, 0.75, 0.85, 0.95, 1.0),
    "whole": (0.0, 0.25, 0.5, 0.75, 0.85, 0.95, 1.0),
    "beta": (0.0001, 0.001, 0.01, 0.1, 1.0),
    "keep": (0.0, 0.25, 0.5, 0.6, 0.75, 0.9),
}
# Around the values of the rows themselves.
FAST_VALUES = {"alpha": (0.85, 0.88, 0.9, 0.92), "keep": (0.49, 0.58, 0.64, 0.71)}
HEADED_VALUES = {"alpha": (0.5, 0.7, 0.8), "keep": (0.0, 0.25, 0.5)}
TITLES = {
    "alpha": "alpha, residual scaled",
    "whole": "alpha, residual whole",
    "beta": "beta",
    "keep": "keep, replay alone",
}


def main() -> None:
    """Run what is missing, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--experiment", choices=("rotated-mnist", "split-cifar10"), default="rotated-mnist")
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=("distilled", "fast", "heads", "lighter"),
        help="rows of table3.py whose settings are swept (default: distilled; Split CIFAR-10: heads and lighter)",
    )
    parser.add_argument("--only", choices=TITLES, help="sweep this one alone (default: all)")
    parser.add_argument("--values", nargs="+", type=float, help="with --only: these values (default: those above)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--images", type=int, help="training images of a task (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--quick", action="store_true", help="two tasks, a thousand images, two values")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for runs, table and picture")
    chosen = parser.parse_args()
    if chosen.values and not chosen.only:
        parser.error("--values are those of one sweep: say which with --only")
    torch.set_num_threads(chosen.threads)
    if chosen.quick:
        chosen.seeds, chosen.tasks, chosen.images = chosen.seeds[:1], 2, 1000
    experiment = EXPERIMENTS[chosen.experiment]
    known = {m.key: m for m in methods(experiment.rate, heads=experiment.groups is not None)}
    bases = chosen.rows or (["heads", "lighter"] if "heads" in known else ["distilled"])
    if unknown := [key for key in bases if key not in known]:
        parser.error(f"{chosen.experiment} has no row {', '.join(unknown)}")
    swept = {}
    for key in bases:
        for what, values in usual(key, experiment).items():
            if chosen.only in (None, what):
                values = tuple(chosen.values or values)
                title = TITLES[what] + (f", {key}" if len(bases) > 1 else "")
                swept[title] = sweep(known, key, what, values[:1] + values[-1:] if chosen.quick else values)
    if not swept:
        parser.error(f"{' and '.join(bases)} of {chosen.experiment}: there is no sweep {chosen.only!r}")
    epochs, tasks = 1 if chosen.quick else experiment.epochs, min(chosen.tasks, experiment.count)
    runs = Runs(chosen.experiment, chosen.out / "runs", tasks, epochs, chosen.images, 20)
    runs.complete([method for found in swept.values() for method in found.values()], chosen.seeds)
    report(swept, runs, chosen.seeds, chosen.out)


def usual(key: str, experiment: Experiment) -> dict[str, tuple[float, ...]]:
    """What is swept of a row, and over which values."""
    if experiment.groups is not None:
        return HEADED_VALUES
    return FAST_VALUES if key == "fast" else VALUES


def sweep(known: dict[str, Method], key: str, what: str, values: tuple[float, ...]) -> dict[float, Method]:
    """Methods by the value that is swept: of a row that is a re-basin, or of the replay that has its settings."""
    if what == "keep":
        return {x: variant(known[f"replay-{key}"], keep=x) for x in values}
    if what == "whole":
        return {x: variant(known[key], alpha=x, scale_residual=False) for x in values}
    return {x: variant(known[key], **{what: x}) for x in values}


def variant(base: Method, **changes: Any) -> Method:
    """Return a method with other settings; the method itself where it has them already."""
    if {**base.settings, **changes} == base.settings:
        return base
    key = "-".join(f"{name}-{value}" for name, value in changes.items())
    return Method(key, f"{base.name}, {key}", base.function, {**base.settings, **changes})


def report(swept: dict[str, dict[float, Method]], runs: Runs, seeds: list[int], out: Path) -> None:
    """Write the table, and draw accuracy and forgetting against each setting."""
    from matplotlib.figure import Figure

    rows, curves = [], {}
    lines = 1 + len(swept) // 3
    figure = Figure(figsize=(9, 3 * lines), layout="constrained")
    places = list(figure.subplots(lines, 3).flat)
    axes, last = places[: len(swept)], places[len(swept)]
    for hidden in places[len(swept) + 1 :]:
        hidden.set_visible(False)
    for place, (title, variants) in zip(axes, swept.items(), strict=True):
        found = [runs.matrices(method, seeds) for method in variants.values()]
        right = [[average_accuracy(matrix) for matrix in matrices] for matrices in found]
        lost = [[forgetting(matrix) for matrix in matrices] for matrices in found]
        for x, accuracy, forgotten in zip(variants, right, lost, strict=True):
            rows.append([title, x, spread(accuracy, 2, 100.0), spread(forgotten, 3)])
        curves[title] = [100 * np.mean(values, axis=1) for values in (lost, right)]
        place.plot(list(variants), curves[title][1], "o-", label="accuracy")
        place.plot(list(variants), curves[title][0], "s--", label="forgetting")
        place.set(title=title, xlabel=title.split(",")[0], xscale="log" if title == "beta" else "linear")
        place.xaxis.set_major_formatter("{x:g}")
        place.axhline(0.0, color="gray", linewidth=0.5)
        place.set(ylabel="%", ylim=(-20, 100))
    axes[0].legend(fontsize="small")
    for title, curve in curves.items():
        if title.startswith((TITLES["alpha"], TITLES["keep"])):
            last.plot(*curve, "o-" if title.startswith("alpha") else "s--", label=title)
    last.set(title="accuracy against forgetting", xlabel="forgetting in %", ylabel="accuracy in %")
    if last.lines:
        last.legend(fontsize="small")
    header = ["swept", "value", "accuracy in %", "forgetting"]
    note = f"{runs.tasks} tasks, training images of a task: {runs.images or 'all'}, seeds: {' '.join(map(str, seeds))}"
    running.save_table(f"{running.table(header, rows)}\n\n{note}", out / "ablation.md")
    save_figure(axes[0], out / "ablation.png")


if __name__ == "__main__":
    main()
