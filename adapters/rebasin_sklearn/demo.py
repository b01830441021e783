"""The main job on real data: two classifiers, re-based, merged and measured; needs the extra ``[demo]``."""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from rebasin_core import Alignment, Curve, align, connectivity, objectives, solvers
from rebasin_core.errors import SettingError
from rebasin_core.line.plotting import plot_curves, save_figure

__all__ = ["Row", "compare", "run_demo"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Digits:
    """The 8 x 8 handwritten digits that ship with scikit-learn, a quarter of them held out."""

    train: tuple[Array, Array]
    test: tuple[Array, Array]

    @classmethod
    def load(cls) -> "Digits":
        """Read them, scaled to 0 to 1."""
        X, y = load_digits(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(X / 16.0, y, test_size=0.25, random_state=0, stratify=y)
        return cls((X_train, y_train), (X_test, y_test))


@dataclass(frozen=True)
class Row:
    """One way to place B before drawing the line to A."""

    name: str
    distance: float
    """Euclidean distance of the weights."""
    curve: Curve
    """Loss on the training set (Eq. 3 is about it)."""
    accuracy: float
    """Of the network at the midpoint, on the test set."""
    alignment: Alignment | None
    """None for the naive row."""


def train(hidden: tuple[int, ...], digits: Digits, seed: int) -> MLPClassifier:
    """Fit one classifier for 60 epochs, which is enough for a test accuracy of about 0.96."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 60 epochs are meant to be the end
        return MLPClassifier(hidden, max_iter=60, random_state=seed).fit(*digits.train)


def methods(digits: Digits, seed: int, quick: bool) -> list[tuple[str, Any, Any]]:
    """Name, objective and solver of every row but the naive one."""
    steps = {"max_steps": 30, "num_rounds": 1} if quick else {}
    sinkhorn = solvers.Sinkhorn(**steps)  # type: ignore[arg-type]
    return [
        ("weight matching", objectives.L2(), solvers.WeightMatching()),
        ("Sinkhorn, L2", objectives.L2(), sinkhorn),
        ("Sinkhorn, random point", objectives.RandomPoint(None, digits.train), sinkhorn),
    ]


def compare(
    model_a: MLPClassifier, model_b: MLPClassifier, digits: Digits, seed: int, quick: bool, progress: Any = None
) -> list[Row]:
    """Every row of the table for one pair of networks."""
    rows = [_row("naive", model_a, model_b, None, digits)]
    for name, objective, solver in methods(digits, seed, quick):
        if progress is not None:
            progress(name)
        result = align(model_a, model_b, objective=objective, solver=solver, seed=seed, progress=False)
        rows.append(_row(name, model_a, result.model, result, digits))
    return rows


def _row(name: str, a: MLPClassifier, b: MLPClassifier, alignment: Alignment | None, digits: Digits) -> Row:
    squared = sum(
        float(((x - y) ** 2).sum()) for x, y in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True)
    )
    curve = connectivity(a, b, data=digits.train)
    middle = connectivity(a, b, data=digits.test, lambdas=3, metrics=["accuracy"])
    return Row(name, math.sqrt(squared), curve, float(middle.metrics["accuracy"][1]), alignment)


def run_demo(layers: Sequence[tuple[int, ...]], out: Path, seed: int, quick: bool, console: Console) -> None:
    """Run the whole demo: train, align, print a table per architecture, save one picture."""
    if out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise SettingError(f"expected a picture file ending in .png, .pdf or .svg, got {str(out)!r}")
    if not out.parent.is_dir():
        raise SettingError(f"the folder {str(out.parent)!r} does not exist; make it, or choose another --out")
    started = time.perf_counter()
    digits = Digits.load()
    all_rows = {}
    # On matrices this small several threads gain nothing, and on a busy machine they wait for each other.
    with threadpool_limits(1), Progress(console=console, transient=True) as bar:
        task = bar.add_task("", total=5 * len(layers))

        def tell(what: str) -> None:
            bar.update(task, advance=1, description=what)

        for hidden in layers:
            name = "-".join(map(str, hidden))
            tell(f"{name}: training two networks")
            a, b = (train(hidden, digits, seed=2 * seed + k) for k in (1, 2))
            tell(f"{name}: naive")
            all_rows[name] = compare(a, b, digits, seed, quick, lambda what, name=name: tell(f"{name}: {what}"))
    console.print(
        "Two networks, A and B, trained on handwritten digits from different seeds. The line between them crosses\n"
        "a barrier of high loss. Re-based, B is the same function with its hidden units in another order.\n",
        soft_wrap=True,
    )
    for name, rows in all_rows.items():
        console.print(_table(name, rows))
    errors = [row.alignment.error for rows in all_rows.values() for row in rows if row.alignment]
    console.print("Barrier and AUC: of the training loss. Accuracy: of the midpoint, on the test set.", soft_wrap=True)
    console.print(f"Every re-based B computes the same outputs as B, to {max(e or 0.0 for e in errors):.0e} relative.")
    _picture(all_rows, out)
    console.print(f"Picture: {out}    ({time.perf_counter() - started:.0f} s)", soft_wrap=True)


def _table(name: str, rows: list[Row]) -> Table:
    table = Table(title=f"hidden layers {name}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("L2 distance", "barrier", "AUC", "accuracy"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        figures = (row.distance, row.curve.barrier, row.curve.auc, row.accuracy)
        table.add_row(row.name, *(f"{x:.{digits}f}" for x, digits in zip(figures, (2, 3, 3, 3), strict=True)))
    return table


def _picture(all_rows: dict[str, list[Row]], out: Path) -> None:
    figure = Figure(figsize=(4.6 * len(all_rows), 3.6), layout="constrained")
    panels = figure.subplots(1, len(all_rows), squeeze=False)[0]
    for ax, (name, rows) in zip(panels, all_rows.items(), strict=True):
        plot_curves({row.name: row.curve for row in rows}, ax=ax)
        ax.set_title(f"hidden layers {name}")
        ax.get_legend().remove()
        ax.set_ylabel("training loss")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save_figure(panels[0], out)
