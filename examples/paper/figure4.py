"""Figure 4 of the paper: loss and accuracy along the path, for every method.

    python figure4.py --tasks first third
    python figure4.py --tasks mnist cifar10 --width 64 --cache networks

MNIST and CIFAR-10 come from the folder in the environment variable REBASIN_DATA.
"""

from pathlib import Path

from methods import METHODS
from running import options
from table2 import TASKS, Job, run

from rebasin_core.line.plotting import save_figure


def main() -> None:
    """Run one pair of every task, draw a column each."""
    parser = options(__doc__, pairs=1)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["first", "third"])
    parser.add_argument("--width", type=int, default=512, help="hidden units for MNIST and CIFAR-10")
    parser.add_argument("--cache", type=Path, default=None, help="folder to keep trained networks in")
    chosen = parser.parse_args()

    from matplotlib.figure import Figure

    width = 32 if chosen.quick else chosen.width
    size = 3.5 * len(chosen.tasks)
    axes = Figure(figsize=(size, 6), layout="constrained").subplots(2, len(chosen.tasks), squeeze=False)
    for (top, bottom), name in zip(axes.T, chosen.tasks, strict=True):
        results = run(Job(name, chosen.seed, width, chosen.quick, chosen.cache))
        for method in METHODS:
            curve = results[method.name]["curve"]
            top.plot(curve.lambdas, curve.losses, label=method.name, color=method.color)
            for values in curve.metrics.values():
                bottom.plot(curve.lambdas, values, color=method.color)
        top.set(title=name, ylabel="test loss")
        bottom.set(xlabel="place on the line", ylabel="test accuracy")
        bottom.set_visible(bool(curve.metrics))
    axes[0, 0].legend(fontsize="small")
    save_figure(axes[0, 0], chosen.out / "figure4.png")
    print(f"picture: {chosen.out / 'figure4.png'} (both ends of every path are hard permutations)")


if __name__ == "__main__":
    main()
