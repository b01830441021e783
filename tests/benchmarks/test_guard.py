"""The guard at its line, and what is kept in JSON."""

import json
from dataclasses import replace

import pytest
from rebasin_bench import cli, guard
from rebasin_bench.measure import Measured
from rebasin_bench.report import draw, read, table, write
from rebasin_bench.rows import Row, Task, from_json, to_json
from rich.console import Console

from rebasin_core.errors import SettingError

TORCH = ("torch",)


def row(ratio=None, group="operator", **changes):
    ours = Measured(2.0, 1.5, 2.5, 7)
    case = {"n": 8, "batch": 1, "dtype": "float32", "tau": 1.0, "mode": "both"}
    theirs = None if ratio is None else Measured(2.0 * ratio, ratio, 3.0 * ratio, 7)
    return replace(Row(group, case, "torch, tol=", "peer", "s", ours, theirs), **changes)


def baseline(tmp_path, *rows, quick=False):
    guard.record(rows, quick, tmp_path / "baseline.json")
    return guard.read_baseline(tmp_path / "baseline.json")


def test_a_ratio_is_theirs_over_ours_and_needs_agreement():
    assert row(3.0).ratio == 3.0
    assert row(3.0, agrees=False).ratio is None
    assert row().ratio is None
    assert row(3.0).failed(ValueError("one\ntwo")).ratio is None
    assert row(3.0).failed(ValueError("one\ntwo")).note == "ValueError: one"


@pytest.mark.parametrize(("ratio", "fails"), [(10.0, 0), (7.01, 0), (6.99, 1), (70.0, 0)])
def test_the_line_is_at_seventy_percent(tmp_path, ratio, fails):
    found = list(guard.check([row(ratio)], baseline(tmp_path, row(10.0)), False, TORCH).values())
    assert len(found) == fails
    assert all(row().key in line and "6.99" in line for line in found)


def test_only_ratios_are_recorded(tmp_path):
    known = baseline(tmp_path, row(10.0), row(None, ours="torch, alone"))
    assert known.ratios == {row().key: 10.0}
    assert set(json.loads((tmp_path / "baseline.json").read_text(encoding="utf-8"))) == {"quick", "ratios"}
    assert "tau=1" in row().key
    assert "n=8" in row().key
    assert "float32" in row().key


def test_a_row_that_could_not_run_fails(tmp_path):
    (line,) = guard.check([row(None, note="peer is absent")], baseline(tmp_path, row(10.0)), False, TORCH).values()
    assert "peer is absent" in line
    assert len(guard.check([row(10.0, agrees=False)], baseline(tmp_path, row(10.0)), False, TORCH)) == 1


def test_a_row_that_no_longer_exists_fails_unless_it_was_not_asked_for(tmp_path):
    other = row(10.0, ours="numpy, tol=")
    known = baseline(tmp_path, row(10.0), other)
    (line,) = guard.check([row(10.0)], known, False, ("torch", "numpy")).values()
    assert other.key in line
    assert not guard.check([row(10.0)], known, False, TORCH), "its framework is absent"
    assert not guard.check([row(10.0)], known, True, ("torch", "numpy")), "a quick run has other rows"
    assert not guard.check([row(1.0, group="memory")], known, False, ("torch", "numpy")), "another group"


@pytest.mark.parametrize("text", [None, "nonsense", "[]", '{"ratios": {"a": "x"}}', "{}"])
def test_a_bad_baseline_is_refused(tmp_path, text):
    file = tmp_path / "baseline.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match="--record"):
        guard.read_baseline(file)


def test_json_round_trip(tmp_path):
    rows = [row(3.0, figures={"our error": 1e-7, "their error": float("inf")}), row(note="absent")]
    assert [from_json(json.loads(json.dumps(to_json(r)))) for r in rows] == rows
    write(rows, {"machine": {}}, tmp_path / "bench.json")
    assert read(tmp_path / "bench.json") == rows


def test_the_table_and_the_picture_hold_what_was_measured(tmp_path):
    rows = [row(3.0, figures={"our error": 1e-7, "their error": 2e-7, "loss": 2.0}), row(note="absent")]
    shown = table("operator", rows)
    assert list(shown.columns[3].cells) == ["2 s", "2 s"]
    assert list(shown.columns[5].cells) == ["3.00x", ""]
    assert list(shown.columns[6].cells) == ["error: ours 1e-07, theirs 2e-07; loss: 2", "absent"]
    assert draw(rows, tmp_path / "operator.png")
    assert (tmp_path / "operator.png").stat().st_size > 1000
    assert not draw([row(3.0, group="memory")], tmp_path / "none.png")


def test_rows_whose_ratio_fell_are_measured_again_and_the_better_ratio_counts():
    """A machine that does something else slows a row down once; a regression does so every time."""
    fallen, fine = row(2.0), row(9.0, case={"n": 16})
    calls = []

    def task(planned, ratios):
        def run():
            calls.append(planned.case["n"])
            return [replace(planned, peer_measured=row(ratios[calls.count(planned.case["n"]) - 1]).peer_measured)]

        return Task("", (planned,), run)

    planned = {"operator": [task(fallen, [9.5, 3.0]), task(fine, [1.0])]}
    console = Console(quiet=True)
    once = cli._measured_again([fallen, fine], planned, [fallen.key], console)
    assert [x.ratio for x in once] == [9.5, 9.0]
    assert [x.ratio for x in cli._measured_again(once, planned, [fallen.key], console)] == [9.5, 9.0]
    assert calls == [8, 8], "the row that did not fall is left alone"
    missing = [row(None)]
    assert cli._measured_again(missing, planned, [missing[0].key], console) == missing
