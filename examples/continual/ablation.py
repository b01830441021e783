"""What alpha and beta do: accuracy and forgetting of re-basin incremental learning.

Alpha is the place of the next model on the line of Eq. 12. As the paper has it, the residual is added whole at any
place; scaled by 4 alpha (1 - alpha), it is added whole in the middle and not at all at the ends, where the next model
is then the old one. Beta is the weight of the residual's squared norm in Eq. 10. Replay alone has no alpha; how much of
the model before stays in the next one (keep) draws a curve of its own. The last picture has both: accuracy against
forgetting. With a head per task (Split CIFAR-10), only these two curves are drawn.

    python ablation.py --tasks 10 --images 6000
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

from rebasin_core.plotting import save_figure

ALPHAS = (0.0, 0.25, 0.5, 0.75, 0.85, 0.95, 1.0)
BETAS = (0.0001, 0.001, 0.01, 0.1, 1.0)
KEEPS = (0.0, 0.25, 0.5, 0.6, 0.75, 0.9)
HEADED_ALPHAS, HEADED_KEEPS = (0.5, 0.7, 0.8, 0.85, 0.9), (0.0, 0.25, 0.5, 0.75)
SCALED, WHOLE, REPLAY = "alpha, residual scaled", "alpha, residual whole", "keep, replay alone"
LIGHTER = "keep, replay alone, heads distilled by half"
TITLES = {"alpha": SCALED, "whole": WHOLE, "beta": "beta", "keep": REPLAY, "lighter": LIGHTER}


def main() -> None:
    """Run what is missing, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--experiment", choices=("rotated-mnist", "split-cifar10"), default="rotated-mnist")
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
    swept = sweeps(experiment, chosen.quick, chosen.values)
    swept = {title: sweep for title, sweep in swept.items() if chosen.only is None or title == TITLES[chosen.only]}
    if not swept:
        parser.error(f"{chosen.experiment} has no sweep {chosen.only!r}")
    epochs, tasks = 1 if chosen.quick else experiment.epochs, min(chosen.tasks, experiment.count)
    runs = Runs(chosen.experiment, chosen.out / "runs", tasks, epochs, chosen.images, 20)
    runs.complete([method for sweep in swept.values() for method in sweep.values()], chosen.seeds)
    report(swept, runs, chosen.seeds, chosen.out)


def sweeps(experiment: Experiment, quick: bool, values: list[float] | None = None) -> dict[str, dict[float, Method]]:
    """Methods by what is swept and its value."""

    def few(usual: tuple[float, ...]) -> tuple[float, ...]:
        chosen = tuple(values or usual)
        return chosen[:1] + chosen[-1:] if quick else chosen

    heads = experiment.groups is not None
    known = {m.key: m for m in methods(experiment.rate, heads)}
    rebased, replayed = (
        known[key] for key in (("heads", "replay-heads") if heads else ("distilled", "replay-distilled"))
    )
    alphas, keeps = few(HEADED_ALPHAS if heads else ALPHAS), few(HEADED_KEEPS if heads else KEEPS)
    found = {SCALED: {x: variant(rebased, alpha=x) for x in alphas}}
    if not heads:
        found[WHOLE] = {x: variant(rebased, alpha=x, scale_residual=False) for x in alphas}
        found[TITLES["beta"]] = {x: variant(rebased, beta=x) for x in few(BETAS)}
    else:
        found[LIGHTER] = {x: variant(known["replay-lighter"], keep=x) for x in keeps}
    return found | {REPLAY: {x: variant(replayed, keep=x) for x in keeps}}


def variant(base: Method, **changes: Any) -> Method:
    """Return a method with other settings."""
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
    for title, label in (
        (SCALED, "re-basin, along alpha"),
        (REPLAY, "replay alone, along keep"),
        (LIGHTER, "replay, lighter"),
    ):
        if title in curves:
            last.plot(*curves[title], "o-", label=label)
    last.set(title="accuracy against forgetting", xlabel="forgetting in %", ylabel="accuracy in %")
    if last.lines:
        last.legend(fontsize="small")
    header = ["swept", "value", "accuracy in %", "forgetting"]
    note = f"{runs.tasks} tasks, training images of a task: {runs.images or 'all'}, seeds: {' '.join(map(str, seeds))}"
    running.save_table(f"{running.table(header, rows)}\n\n{note}", out / "ablation.md")
    save_figure(axes[0], out / "ablation.png")


if __name__ == "__main__":
    main()
