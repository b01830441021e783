"""A guard against regressions: ratios, not times, so that it means the same on every machine."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rebasin_bench.operators import FRAMEWORK
from rebasin_bench.rows import Row
from rebasin_core.errors import SettingError

__all__ = ["SHARE", "Baseline", "check", "read_baseline", "record"]

SHARE = 0.7
"""A row fails where its ratio is under this share of the recorded one."""


@dataclass(frozen=True)
class Baseline:
    """Recorded ratios by key, and whether they are those of a quick run."""

    ratios: dict[str, float]
    quick: bool


def record(rows: Sequence[Row], quick: bool, file: Path) -> int:
    """Write the ratio of every row that has one; return their number."""
    ratios = {row.key: round(row.ratio, 3) for row in rows if row.ratio is not None}
    text = json.dumps({"quick": quick, "ratios": dict(sorted(ratios.items()))}, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
    return len(ratios)


def read_baseline(file: Path) -> Baseline:
    """Return what `record` wrote.

    Raises
    ------
    SettingError
        There is no such file, or it is no baseline.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return Baseline({str(key): float(value) for key, value in data["ratios"].items()}, bool(data["quick"]))
    except OSError:
        raise SettingError(f"no baseline at {str(file)!r}; make one with rebasin bench --record {file}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SettingError(f"{str(file)!r} is no baseline; make one with rebasin bench --record {file}") from None


def check(rows: Sequence[Row], baseline: Baseline, quick: bool, frameworks: Sequence[str]) -> dict[str, str]:
    """Return one line per row that fails, by the key of the row.

    A row fails where its ratio fell, and where it is recorded but could not be measured: its peer is absent, something
    raised, or the results no longer agree. A row that is recorded but no longer exists fails too. Groups that were not
    asked for, rows of frameworks that are not there, and the rows that a quick run leaves out cannot fail.
    """
    failures: dict[str, str] = {}
    groups = {row.group for row in rows}
    measured = {row.key: row for row in rows}
    for key, recorded in baseline.ratios.items():
        group, *_, ours, _ = key.split(" | ")
        row = measured.get(key)
        if row is None:
            way = ours.partition(",")[0]
            wanted = group in groups and FRAMEWORK.get(way, way) in frameworks and quick == baseline.quick
            if wanted:
                failures[key] = f"{key}: recorded {recorded:.2f}, but there is no such row any more"
        elif row.ratio is None:
            failures[key] = f"{key}: no ratio, recorded {recorded:.2f} ({row.note or 'not measured'})"
        elif row.ratio < SHARE * recorded:
            failures[key] = f"{key}: ratio {row.ratio:.2f}, under {SHARE:.0%} of the recorded {recorded:.2f}"
    return failures
