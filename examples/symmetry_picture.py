"""What a permutation symmetry is, as a picture: one small network twice, its hidden units in two orders.

The weights into and out of each hidden unit travel with it, so that both compute the same; their average does not.
Writes ``symmetry.png``. Run it with ``python symmetry_picture.py``, or with ``--quick`` for a coarser picture.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

import rebasin_core as rb
from rebasin_core.line.plotting import COLORS

INPUTS, HIDDEN, OUTPUTS = 3, 4, 2


def forward(params, x):
    return np.maximum(x @ params["w1"].T + params["b1"], 0) @ params["w2"].T


def heights(count):
    return np.linspace(1, -1, count + 2)[1:-1] * 1.3


def draw(ax: Axes, params: dict[str, np.ndarray], units: np.ndarray, title: str) -> None:
    """Draw a network: a line per weight, as wide as it is large, dashed where it is negative."""
    left, middle, right = (heights(n) for n in (INPUTS, HIDDEN, OUTPUTS))
    for weights, starts, ends, x in ((params["w1"], left, middle, 0), (params["w2"], middle, right, 1)):
        for i, j in np.ndindex(weights.shape):
            unit = units[i] if x == 0 else units[j]
            w = weights[i, j]
            ax.plot(
                [x, x + 1],
                [starts[j], ends[i]],
                color=COLORS[1 + unit],
                linewidth=2 * abs(w),
                linestyle="-" if w > 0 else (0, (2, 1)),
                zorder=1,
            )
    for x, places, names in ((0, left, None), (1, middle, units), (2, right, None)):
        for place, y in enumerate(places):
            unit = None if names is None else names[place]
            color = "lightgray" if unit is None else COLORS[1 + unit]
            ax.add_patch(Circle((x, y), 0.12, facecolor=color, edgecolor="black", zorder=2))
            if unit is not None:
                ax.annotate(str(unit + 1), (x, y), ha="center", va="center", color="white", zorder=3)
    ax.set(title=title, xlim=(-0.25, 2.25), ylim=(-1.0, 1.0), aspect="equal")
    ax.axis("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("symmetry.png"), help="where to save the picture")
    parser.add_argument("--quick", action="store_true", help="a coarser picture")
    arguments = parser.parse_args()

    rng = np.random.default_rng(2)
    a = {
        "w1": rng.normal(size=(HIDDEN, INPUTS)),
        "b1": rng.normal(size=HIDDEN),
        "w2": rng.normal(size=(OUTPUTS, HIDDEN)),
    }
    graph = rb.PermutationGraph.from_axes({"w1": "h .", "b1": "h", "w2": ". h"}, a)
    plan = rb.Plan({"h": [2, 0, 3, 1]})
    b = rb.permute(a, plan, graph)
    average = rb.interpolate(a, b)
    x = rng.normal(size=(1000, INPUTS))
    wanted = forward(a, x)
    differences = [float(np.abs(forward(params, x) - wanted).max()) for params in (b, average)]
    print(f"B, the units of A in another order: outputs differ by at most {differences[0]:.1e}")
    print(f"the average of A and B: by up to {differences[1]:.2f}, where outputs reach {np.abs(wanted).max():.2f}")

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, a, np.arange(HIDDEN), "A")
    draw(right, b, plan["h"], "B: the same function")
    figure.savefig(arguments.out, dpi=50 if arguments.quick else 150)


if __name__ == "__main__":
    main()
