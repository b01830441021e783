"""Figure 1 of the paper: the loss in the plane through A, B and the re-based B, and the two straight paths.

python figure1.py
python figure1.py --task first --seed 3
"""

from pathlib import Path

import numpy as np
import torch
from methods import METHODS, rebased
from networks import perceptron
from running import options
from tasks import Task, polynomial
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from training import train_polynomial

import rebasin_core as rb


@torch.no_grad()
def landscape(
    model: nn.Module, task: Task, corners: list[torch.Tensor], points: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return coordinates and loss on a grid of the plane through three vectors of weights, and where they lie."""
    a, b, c = corners
    u = b - a
    v = (c - a) - torch.dot(c - a, u) / torch.dot(u, u) * u
    e1, e2 = u / u.norm(), v / v.norm()
    places = [np.array([float(torch.dot(x - a, e)) for e in (e1, e2)]) for x in corners]
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    margin = 0.3 * (high - low)
    xs, ys = (np.linspace(low[i] - margin[i], high[i] + margin[i], points) for i in (0, 1))
    values = np.empty((points, points))
    for j, y in enumerate(ys):
        for i, x in enumerate(xs):
            vector_to_parameters(a + float(x) * e1 + float(y) * e2, model.parameters())
            values[j, i] = float(task.loss(model(task.test[0]), task.test[1]))
    return xs, ys, values, places


def main() -> None:
    """Train a pair, re-base it, draw the plane and the paths."""
    parser = options(__doc__, pairs=1)
    parser.add_argument("--task", choices=("first", "third"), default="first")
    chosen = parser.parse_args()
    task, steps = polynomial(chosen.task), 100 if chosen.quick else 2000
    nets = []
    for index in (0, 1):
        torch.manual_seed(1000 * chosen.seed + index)
        net = perceptron(1, 10, 2, 1, nn.Tanh)
        nets.append(train_polynomial(net, task, 1000 * chosen.seed + index, steps))
    a, b = nets
    paths = {
        m: rebased(m, task, a, b, chosen.seed, chosen.quick)[0] for m in METHODS if m.name in ("naive", "WM", "C_Rnd")
    }
    draw(task, a, b, paths, 11 if chosen.quick else 61, chosen.out / f"figure1-{chosen.task}.png")


def draw(task: Task, a: nn.Module, b: nn.Module, paths: dict, points: int, file: Path) -> None:
    """Draw the plane on the left, the loss along the paths on the right."""
    from matplotlib.figure import Figure

    left, right = Figure(figsize=(9, 3.6), layout="constrained").subplots(1, 2)
    best = next(model for method, model in paths.items() if method.name == "C_Rnd")
    corners = [parameters_to_vector(net.parameters()).detach() for net in (a, b, best)]
    xs, ys, values, places = landscape(rb.interpolate(a, b), task, corners, points)
    drawn = left.contourf(xs, ys, np.log10(values + 1e-4), 30, cmap="viridis")
    left.figure.colorbar(drawn, label="log10 of the loss")
    for place, name in zip(places, ("A", "B", "re-based B"), strict=True):
        left.plot(*place, "o", color="white")
        left.annotate(name, place, xytext=(4, 4), textcoords="offset points", color="white")
    left.plot(*np.array(places[:2]).T, "--", color="white")
    left.plot(*np.array([places[0], places[2]]).T, "-", color="white")
    left.set(title="the plane through A, B and the re-based B", xlabel="distance", ylabel="distance")
    for method, model in paths.items():
        rb.connectivity(a, model, task.loss, task.test, 51).plot(ax=right, label=method.name)
        right.lines[-1].set_color(method.color)
    right.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    left.figure.savefig(file, dpi=150)
    print(f"picture: {file} (both ends of every path are hard permutations)")


if __name__ == "__main__":
    main()
