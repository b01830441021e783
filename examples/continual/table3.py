"""Table 3 of the paper: accuracy and forgetting after a sequence of tasks.

Rotated MNIST (20 domains, a perceptron), Split CIFAR-10 (5 tasks of 2 classes) and Split CIFAR-100 (20 tasks of 5
classes), both with a ResNet-18 that has a head per task. Every method starts from the same weights, has the same
batches' size and as many steps; mean ± deviation over the seeds.

    python table3.py --seeds 0 1 2                     # Rotated MNIST, all rows
    python table3.py --experiment split-cifar10 --images 2000
    python table3.py --methods replay tuned --tasks 5
    python table3.py --quick

MNIST and CIFAR-10 come from the folder in the environment variable REBASIN_DATA. A run that is finished is kept in the
folder `runs` under --out, and not computed again.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from avalanche_rows import HINT, is_installed
from methods import Method, methods
from metrics import average_accuracy, forgetting, spread
from paper import running
from runs import EXPERIMENTS, Runs

from rebasin_core.line.plotting import save_figure

# In the order of the table; the last are of experiments with a head per task, or of those with one for all.
KEYS = list(dict.fromkeys(m.key for heads in (False, True) for m in methods(1.0, heads)))


def main() -> None:
    """Run what is missing, print the table, draw the picture."""
    parser = options()
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.quick:
        chosen.seeds, chosen.tasks, chosen.images = chosen.seeds[:1], 2, 1000
    experiment = EXPERIMENTS[chosen.experiment]
    everything = methods(experiment.rate, heads=experiment.groups is not None)
    if unknown := set(chosen.methods or ()) - {m.key for m in everything}:
        parser.error(f"{chosen.experiment} has no row {', '.join(sorted(unknown))}")
    rows = [m for m in everything if not chosen.methods or m.key in chosen.methods]
    if not is_installed():
        left = [m.name for m in rows if m.needs_avalanche]
        rows = [m for m in rows if not m.needs_avalanche]
        if left:
            print(f"left out: {', '.join(left)}. {HINT}")
    count = min(chosen.tasks or experiment.count, experiment.count)
    epochs = 1 if chosen.quick else chosen.epochs or experiment.epochs
    runs = Runs(chosen.experiment, chosen.out / "runs", count, epochs, chosen.images, chosen.width)
    runs.complete(rows, chosen.seeds)
    report(chosen, rows, runs)


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--experiment", choices=EXPERIMENTS, default="rotated-mnist")
    parser.add_argument("--methods", nargs="+", choices=KEYS, help="rows (default: all that the experiment has)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tasks", type=int, help="the first so many (default: all)")
    parser.add_argument("--epochs", type=int, help="passes over the data of a task (default: 5, Split CIFAR-10 1)")
    parser.add_argument("--images", type=int, help="training images of a task (default: all)")
    parser.add_argument("--width", type=int, default=20, help="channels of ResNet-18; 64 is the whole one (default 20)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--quick", action="store_true", help="two tasks, a thousand images: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for runs, tables and pictures")
    return parser


def report(chosen: argparse.Namespace, rows: list[Method], runs: Runs) -> None:
    """Print and write the table, and draw the accuracy on every task after every task."""
    cells, pictures = [], {}
    for method in rows:
        matrices = runs.matrices(method, chosen.seeds)
        seconds = [run["seconds"] for seed in chosen.seeds if (run := runs.read(method, seed))]
        cells.append(
            [
                method.name,
                spread(map(average_accuracy, matrices), 2, 100.0),
                spread(map(forgetting, matrices), 3),
                f"{np.mean(seconds):.0f}",
            ]
        )
        pictures[method.name] = np.mean(matrices, axis=0)
    note = f"{runs.tasks} tasks, epochs per task: {runs.epochs}, training images of a task: {runs.images or 'all'}, "
    note += f"seeds: {' '.join(map(str, chosen.seeds))}"
    header = ["method", "accuracy in %", "forgetting", "seconds a run"]
    running.save_table(f"{running.table(header, cells)}\n\n{note}", chosen.out / f"table3-{runs.name}.md")
    draw(pictures, chosen.out / f"table3-{runs.name}.png")


def draw(pictures: dict[str, np.ndarray], file: Path) -> None:
    """Draw a square per method: from top to bottom what was learned last, from left to right what is measured."""
    from matplotlib.figure import Figure

    measured = {name: matrix for name, matrix in pictures.items() if not np.isnan(matrix[0, 0])}
    if not measured:
        return
    columns = min(4, len(measured))
    lines = -(-len(measured) // columns)
    figure = Figure(figsize=(2.3 * columns + 0.8, 2.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for place in axes.flat[len(measured) :]:
        place.set_visible(False)
    for i, (place, (name, matrix)) in enumerate(zip(axes.flat, measured.items(), strict=False)):
        image = place.imshow(100 * matrix, vmin=20, vmax=100, cmap="viridis")
        place.set_title(name, fontsize=7)
        place.tick_params(labelsize=7)
        for axis in (place.xaxis, place.yaxis):
            axis.get_major_locator().set_params(integer=True)
        if i % columns == 0:
            place.set_ylabel("after task", fontsize=8)
        if i + columns >= len(measured):
            place.set_xlabel("accuracy on task", fontsize=8)
    figure.colorbar(image, ax=axes, label="accuracy in %", shrink=0.8)
    save_figure(axes.flat[0], file)


if __name__ == "__main__":
    main()
