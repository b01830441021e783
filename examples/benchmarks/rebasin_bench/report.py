"""What the user sees: a table per group, one JSON file, one picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from rebasin_bench.measure import Measured
from rebasin_bench.rows import Row, from_json, to_json

__all__ = ["draw", "read", "table", "write"]


def table(group: str, rows: Sequence[Row]) -> Table:
    """One line per row: what, whose, medians, ratio, what was reached."""
    found = Table(title=group, title_justify="left")
    for name in ("case", "ours", "peer"):
        found.add_column(name, overflow="fold")
    for name in ("ours", "peer", "ratio"):
        found.add_column(name, justify="right", no_wrap=True)
    found.add_column("reached", overflow="fold")
    for row in rows:
        amounts = [_amount(measured, row.unit) for measured in (row.ours_measured, row.peer_measured)]
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        found.add_row(_case(row), row.ours, row.peer, *amounts, ratio, _reached(row))
    return found


def _case(row: Row) -> str:
    """The words as they are, the numbers with their names; a batch of one goes without saying."""
    words = []
    for name, value in row.case.items():
        if isinstance(value, str):
            words.append(value)
        elif not (name == "batch" and value == 1):
            words.append(f"{name} {value:g}")
    return ", ".join(words)


def _amount(measured: Measured | None, unit: str) -> str:
    if measured is None:
        return "-"
    if unit != "s":
        return f"{measured.median:.1f} {unit}"
    for factor, name in ((1.0, "s"), (1e3, "ms")):
        if factor * measured.median >= 1.0:
            return f"{factor * measured.median:.3g} {name}"
    return f"{1e6 * measured.median:.3g} µs"


def _reached(row: Row) -> str:
    """The note, then the figures; ours and theirs of one thing together."""
    figures, words = dict(row.figures), []
    for name, value in row.figures.items():
        what = name.removeprefix("our ")
        if name not in figures:
            continue
        if what != name and f"their {what}" in figures:
            words.append(f"{what}: ours {_figure(value)}, theirs {_figure(figures.pop(f'their {what}'))}")
        else:
            words.append(f"{name}: {_figure(value)}")
    return "; ".join(part for part in (row.note, *words) if part)


def write(rows: Sequence[Row], facts: dict[str, Any], file: Path) -> None:
    """Keep everything that was measured, and whatever `facts` say of how."""
    data = {**facts, "rows": [to_json(row) for row in rows]}
    file.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read(file: Path) -> list[Row]:
    """The rows of a file made by `write`."""
    return [from_json(row) for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]


def _figure(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def draw(rows: Sequence[Row], file: Path) -> bool:
    """Plot the seconds of forward and backward pass against n, a line per implementation.

    Only single float32 matrices at temperature 1 are drawn. Returns False where there are none.
    """
    lines: dict[str, dict[int, float]] = {}
    for row in rows:
        wanted = {"batch": 1, "dtype": "float32", "tau": 1.0, "mode": "both"}
        if row.group != "operator" or any(row.case.get(name) != value for name, value in wanted.items()):
            continue
        for name, measured in ((f"ours: {row.ours}", row.ours_measured), (row.peer, row.peer_measured)):
            # A peer meets several of ours; its first measurement of a size is as good as any.
            if measured is not None:
                lines.setdefault(name, {}).setdefault(int(row.case["n"]), measured.median)
    if not lines:
        return False
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.subplots()
    for name, points in sorted(lines.items()):
        sizes = sorted(points)
        style = "-o" if name.startswith("ours") else "--s"
        axes.plot(sizes, [points[n] for n in sizes], style, label=name, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("n")
    axes.set_ylabel("seconds, forward and backward")
    axes.set_title("Sinkhorn operator, one n × n matrix, float32, tau = 1")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    figure.savefig(file, dpi=150)
    return True
