"""The program behind ``rebasin bench``."""

import gc
import importlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from rebasin_bench import guard
from rebasin_bench.machine import describe
from rebasin_bench.peers import AUTHORS, OTT, POT, SNIMU, Peers
from rebasin_bench.report import draw, table, write
from rebasin_bench.rows import TAUS, Row, Settings, Task
from rebasin_core.errors import SettingError
from rebasin_core.support.progress import progress_bar

__all__ = ["FRAMEWORKS", "GROUPS", "run_bench"]

GROUPS = ("operator", "memory", "training", "matching", "tracing", "limits", "growth", "gpu")
FRAMEWORKS = ("torch", "numpy", "tensorflow", "jax")
AGAIN = 2
"""How often rows whose ratio is too low are measured again before they fail."""
_NEEDS_TORCH = ("training", "matching", "tracing", "limits", "growth", "gpu")


def run_bench(
    groups: Sequence[str],
    frameworks: Sequence[str],
    peers: Path | None,
    repeats: int,
    seconds: float | None,
    quick: bool,
    largest: int,
    taus: Sequence[float],
    out: Path,
    check: Path | None,
    record: Path | None,
    console: Console,
) -> int:
    """Measure, print, write; return the exit code: 1 where a row failed the check.

    Raises
    ------
    SettingError
        A group or framework is not known, a folder or the baseline is missing.
    """
    groups = _known(groups or GROUPS, GROUPS, "row group")
    frameworks = _known(frameworks or FRAMEWORKS, FRAMEWORKS, "framework")
    for folder in (out, record.parent if record else None):
        if folder is not None and not folder.is_dir():
            raise SettingError(f"the folder {str(folder)!r} does not exist; make it, or choose another")
    if peers is not None and not peers.is_dir():
        raise SettingError(f"the folder of peers {str(peers)!r} does not exist")
    baseline = guard.read_baseline(check) if check else guard.Baseline({}, quick)
    present, lines = _present(frameworks)
    budget = seconds if seconds is not None else (0.3 if quick else 2.0)
    settings = Settings(Peers.find(peers), present, budget, repeats, quick, largest, tuple(taus) or TAUS)
    lines += settings.peers.absent(*_peers_of(groups, present))
    planned: dict[str, list[Task]] = {}
    for group in groups:
        if group in _NEEDS_TORCH and "torch" not in present:
            lines.append(f"{group} is skipped: it needs torch")
            continue
        planned[group] = importlib.import_module(f"rebasin_bench.{group}_rows").tasks(settings)
        if group == "gpu" and not planned[group]:
            lines.append("gpu is skipped: no CUDA device")
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    rows = _measure(planned, console)
    for _ in range(AGAIN if check else 0):
        failing = guard.check(rows, baseline, quick, present)
        rows = _measured_again(rows, planned, failing, console)
    chosen = {"seconds": budget, "repeats": repeats, "quick": quick, "frameworks": present, "groups": groups}
    chosen |= {"largest": largest, "taus": settings.taus}
    write(rows, {"machine": describe(), "settings": chosen, "skipped": lines}, out / "bench.json")
    console.print(f"Numbers: {out / 'bench.json'}", soft_wrap=True)
    if draw(rows, out / "operator.png"):
        console.print(f"Picture: {out / 'operator.png'}", soft_wrap=True)
    if record:
        console.print(f"{guard.record(rows, quick, record)} ratios recorded in {record}", soft_wrap=True)
    failures = guard.check(rows, baseline, quick, present)
    for failure in failures.values():
        console.print(f"FAILED {failure}", soft_wrap=True, highlight=False, markup=False)
    if check:
        judged = sum(row.key in baseline.ratios for row in rows)
        console.print(f"{judged} recorded rows were run, {len(failures)} failed", soft_wrap=True)
        if not judged:
            console.print("FAILED none of the recorded rows was measured", markup=False)
    return int(bool(failures) or bool(check and not judged))


def _measure(planned: dict[str, list[Task]], console: Console) -> list[Row]:
    rows: list[Row] = []
    with progress_bar(sum(len(tasks) for tasks in planned.values()), "benchmark", True) as bar:
        for group, tasks in planned.items():
            done: list[Row] = []
            for task in tasks:
                gc.collect()  # large arrays in cycles, left by the task before
                try:
                    found = task.run()
                except Exception as error:
                    found = [row.failed(error) for row in task.rows]
                # A row that a task lost would pass the guard unseen.
                keys = {row.key for row in found}
                done += found + [row.failed("not measured") for row in task.rows if row.key not in keys]
                bar.update(f"{group}: {task.title}")
            if done:
                console.print(table(group, done))
            rows += done
    return rows


def _measured_again(
    rows: list[Row], planned: dict[str, list[Task]], failing: Iterable[str], console: Console
) -> list[Row]:
    """Give rows whose ratio fell another chance: what else the machine does slows one of two down, and seldom twice."""
    slow = {row.key for row in rows if row.ratio is not None} & set(failing)
    chosen = {group: [t for t in tasks if slow & {row.key for row in t.rows}] for group, tasks in planned.items()}
    if not slow or not any(chosen.values()):
        return rows
    console.print(f"{len(slow)} ratios fell; their rows are measured again")
    better = {row.key: row for row in _measure(chosen, console) if row.ratio is not None}
    return [max((row, better.get(row.key, row)), key=lambda r: r.ratio or 0.0) for row in rows]


def _known(wanted: Sequence[str], known: tuple[str, ...], what: str) -> tuple[str, ...]:
    for name in wanted:
        if name not in known:
            raise SettingError(f"expected a {what} of {', '.join(known)}, got {name!r}")
    return tuple(dict.fromkeys(wanted))


def _present(frameworks: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """The frameworks that are installed, and a line for each that is not."""
    present = tuple(name for name in frameworks if find_spec(name) is not None)
    if "torch" in present:
        importlib.import_module("torch")  # before TensorFlow: in the other order the two crash
    absent = (name for name in frameworks if name not in present)
    return present, [f'{name} is skipped: pip install "rebasin-core[{name}]"' for name in absent]


def _peers_of(groups: tuple[str, ...], frameworks: tuple[str, ...]) -> list[str]:
    """Peers that these groups compare with."""
    found = [AUTHORS] if set(groups) - {"matching", "limits", "growth"} else []
    found += [SNIMU] if "torch" in frameworks and set(groups) & {"matching", "tracing", "memory"} else []
    found += [POT] if "torch" in frameworks and set(groups) & {"operator", "memory"} else []
    found += [OTT] if "jax" in frameworks and set(groups) & {"operator", "memory"} else []
    return found
