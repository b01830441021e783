"""The demo: a table of four rows per architecture, and a picture."""

import subprocess
import sys

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")
pytest.importorskip("rich")

from rebasin_sklearn import demo
from typer.testing import CliRunner

from rebasin_core import Plan, align, objectives, solvers
from rebasin_core.commands.app import app

ROWS = ["naive", "weight matching", "Sinkhorn, L2", "Sinkhorn, random point"]
ARGUMENTS = ["demo", "--quick", "--hidden", "16"]


def rows(output, name):
    return [line for line in output.splitlines() if line.strip(" │|").startswith(f"{name} ")]


def test_two_architectures_make_two_tables_of_four_rows_and_one_picture(tmp_path):
    out = tmp_path / "demo.svg"
    done = CliRunner().invoke(app, [*ARGUMENTS, "--hidden", "8,8", "--out", str(out)])
    assert done.exit_code == 0, done.output
    for title in ("hidden layers 16", "hidden layers 8-8"):
        assert title in done.output
    for name in ROWS:
        found = rows(done.output, name)
        assert len(found) == 2, name
        for line in found:
            distance, barrier, area, accuracy = (float(cell) for cell in line.replace("│", " ").split()[-4:])
            assert distance > 0
            assert barrier >= 0
            assert 0 <= area <= max(barrier, 1e-3)
            assert 0 <= accuracy <= 1
    assert out.stat().st_size > 1000


def test_the_program_runs_the_demo(tmp_path):
    out = tmp_path / "demo.png"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "rebasin_core.cli", *ARGUMENTS, "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert all(len(rows(done.stdout, name)) == 1 for name in ROWS)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_random_point_row_brings_the_barrier_of_three_narrow_layers_under_15_percent_of_the_naive_one():
    digits = demo.Digits.load()
    a, b = (demo.train((32, 32, 32), digits, seed) for seed in (1, 2))
    naive, matched, l2, random_point = demo.compare(a, b, digits, seed=0, quick=False)
    assert random_point.curve.barrier <= 0.15 * naive.curve.barrier
    assert random_point.accuracy > naive.accuracy
    # No Sinkhorn row is worse than weight matching on the objective it minimizes.
    assert l2.alignment.objective <= matched.alignment.objective
    objective = objectives.RandomPoint(None, digits.train)
    kept = align(a, matched.alignment.model, objective=objective, solver=KeepAll(), progress=False)
    assert random_point.alignment.objective <= kept.objective


class KeepAll:
    """A solver that keeps the network as it is, to read what an objective says of it."""

    name = "keep all"

    def solve(self, problem, progress=False):
        plan = Plan.identity(problem.graph)
        return solvers.Solution(plan, problem.judge(plan), (), True, "nothing to do")
