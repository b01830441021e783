"""``rebasin bench`` from the command line, without peers."""

import json
import sys

import pytest

pytest.importorskip("typer")

from rebasin_bench import cli, operator_rows
from rebasin_bench.implementations import Case, peer_operator
from rebasin_bench.report import read
from typer.testing import CliRunner

from rebasin_core.commands.app import app

RUNNER = CliRunner()
FAST = ("--seconds", "0.001", "--repeats", "3")


def invoke(*arguments):
    return RUNNER.invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """No peers, and sizes of a test."""
    monkeypatch.delenv("REBASIN_PEERS", raising=False)
    monkeypatch.setattr(operator_rows, "cases", lambda way, quick: iter([Case(8), Case(8, tau=0.1)]))


def test_a_quick_run_without_peers(tmp_path):
    done = invoke("operator", "--quick", "--frameworks", "torch,numpy", "--out", tmp_path, *FAST)
    assert done.exit_code == 0, done.output
    assert "sinkhorn-rebasin==0.0.2" in done.output, "the line that says how to get it"
    data = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert data["machine"]["versions"]["numpy"]
    assert data["machine"]["threads of torch"] >= 1
    assert data["machine"]["date"]
    assert data["settings"]["quick"] is True
    assert any("sinkhorn-rebasin" in line for line in data["skipped"])
    rows = read(tmp_path / "bench.json")
    assert {row.ours.partition(",")[0] for row in rows} == {"torch", "numpy"}
    measured = [row for row in rows if row.peer.startswith("sinkhorn-rebasin")]
    assert measured
    assert all(row.ours_measured and not row.peer_measured and row.ratio is None for row in measured)
    assert (tmp_path / "operator.png").exists()


def test_recording_and_checking(tmp_path, monkeypatch):
    file = tmp_path / "baseline.json"
    # At tau 1 nobody is iterated to an error, which ends early where a call exceeds the tiny budget.
    monkeypatch.setattr(operator_rows, "cases", lambda way, quick: iter([Case(8), Case(12)]))
    # Ours against ours stands for a peer: the path is the same.
    monkeypatch.setattr(operator_rows, "peer_operator", _ours_as_peer)
    run = ("operator", "--quick", "--frameworks", "numpy", "--out", tmp_path, *FAST)
    assert invoke(*run, "--record", file).exit_code == 0
    baseline = json.loads(file.read_text(encoding="utf-8"))
    assert baseline["ratios"]
    baseline["ratios"] = {key: ratio / 1000.0 for key, ratio in baseline["ratios"].items()}
    file.write_text(json.dumps(baseline), encoding="utf-8")
    kept = invoke(*run, "--check", file)
    assert kept.exit_code == 0, kept.output
    baseline["ratios"] = {key: 1e6 * ratio for key, ratio in baseline["ratios"].items()}
    file.write_text(json.dumps(baseline), encoding="utf-8")
    fallen = invoke(*run, "--check", file)
    assert fallen.exit_code == 1
    assert all(f"FAILED {key}" in fallen.output for key in baseline["ratios"])
    monkeypatch.setattr(operator_rows, "peer_operator", peer_operator)
    absent = invoke(*run, "--check", file)
    assert absent.exit_code == 1
    assert "is absent" in absent.output


def _ours_as_peer(name, peers, case, iterations):
    return operator_rows.ours("numpy", case, num_iters=iterations)


def test_a_check_that_judges_nothing_fails(tmp_path):
    file = tmp_path / "baseline.json"
    file.write_text('{"quick": true, "ratios": {}}', encoding="utf-8")
    done = invoke("operator", "--quick", "--frameworks", "numpy", "--out", tmp_path, "--check", file, *FAST)
    assert done.exit_code == 1
    assert "none of the recorded rows" in done.output


def test_what_is_not_there_is_skipped_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    done = invoke("operator", "training", "--quick", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert 'pip install "rebasin-core[torch]"' in done.output
    assert "training is skipped" in done.output


def test_without_a_cuda_device_the_gpu_is_skipped(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "no CUDA device" in invoke("gpu", "--quick", "--out", tmp_path).output


def test_the_limits_of_the_machine_and_the_growth_of_the_cost(tmp_path):
    pytest.importorskip("torch")
    done = invoke("limits", "growth", "--quick", "--frameworks", "torch", "--out", tmp_path, *FAST)
    assert done.exit_code == 0, done.output
    rows = read(tmp_path / "bench.json")
    assert {row.group for row in rows} == {"limits", "growth"}
    assert all(row.ours_measured for row in rows)
    rates = {row.case["what"]: rate for row in rows if row.group == "limits" for rate in row.figures.values()}
    assert set(rates) == {"product", "copy", "matrix times vector", "operator, both"}
    assert all(rate > 0.0 for rate in rates.values())


def test_a_task_that_raises_is_a_row_with_a_reason(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk on fire")

    monkeypatch.setattr(operator_rows, "ours", fail)
    done = invoke("operator", "--quick", "--frameworks", "numpy", "--out", tmp_path, *FAST)
    assert done.exit_code == 0
    rows = read(tmp_path / "bench.json")
    assert rows
    assert all("disk on fire" in row.note and row.ratio is None for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nonsense",), "row group"),
        (("operator", "--frameworks", "numpy,theano"), "framework"),
        (("operator", "--out", "no/such/folder"), "does not exist"),
        (("operator", "--peers", "no/such/folder"), "does not exist"),
        (("operator", "--check", "no/such/file.json"), "no baseline"),
        (("operator", "--record", "no/such/folder/file.json"), "does not exist"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(arguments, words):
    done = invoke(*arguments)
    assert done.exit_code == 1
    assert words in done.stderr


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rebasin_bench.cli", None)
    done = invoke("operator")
    assert done.exit_code == 1
    assert "rebasin-core[bench]" in done.stderr
