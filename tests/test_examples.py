"""Every example is listed, has --quick, and is run by a test; those that need no data run here."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples"
# `rebasin bench` is a package with a command of its own; the rest of what has no `main` is imported by its neighbors.
SCRIPTS = [
    file
    for file in sorted(FOLDER.glob("**/*.py"))
    if "rebasin_bench" not in file.parts and 'if __name__ == "__main__"' in file.read_text(encoding="utf-8")
]
TESTS = {file: file.read_text(encoding="utf-8") for file in (ROOT / "tests").glob("**/*.py")}


def identity(script):
    return script.relative_to(ROOT).as_posix()


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(script, folder=""):
        monkeypatch.setattr(sys, "argv", [script, "--quick"])
        code = None
        try:
            runpy.run_path(str(FOLDER / folder / script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        assert not code
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize("script", SCRIPTS, ids=identity)
def test_every_script_is_listed_has_a_quick_flag_and_is_run_by_a_test(script):
    assert f"`{identity(script)}`" in (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    text = script.read_text(encoding="utf-8")
    if re.search(r"^from running import .*\boptions\b", text, flags=re.M):
        text = (FOLDER / "paper" / "running.py").read_text(encoding="utf-8")
    assert 'add_argument("--quick"' in text
    running = [t for t in TESTS.values() if re.search(rf'["/]{script.name}"', t) and '"--quick"' in t]
    assert running, "no test names this script and --quick"


def test_the_page_lists_nothing_that_is_not_there():
    listed = re.findall(r"`(examples/[^`]+\.py)`", (ROOT / "docs" / "examples.md").read_text(encoding="utf-8"))
    assert sorted(listed) == [identity(script) for script in SCRIPTS]


def test_the_users_own_objective_brings_the_barrier_down(run):
    naive, rebased = (float(x) for x in re.findall(r"loss barrier ([\d.]+)", run("numpy_two_layer.py")))
    assert rebased < 0.1 * naive


def test_the_picture_of_a_symmetry_shows_one_function_twice(run):
    pytest.importorskip("matplotlib")
    same, average = run("symmetry_picture.py").splitlines()
    assert float(same.split()[-1]) < 1e-14
    assert float(re.search(r"by up to ([\d.]+)", average)[1]) > 1
    assert Path("symmetry.png").exists()


def test_aligning_two_files_takes_little_memory(run, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = run("memory.py", "checkpoints")
    assert float(re.search(r"ratio: ([\d.]+), allowed 3", out)[1]) <= 3.0
    assert "the planted permutation was found" in out
    assert "frameworks imported: none" in out


def test_every_assignment_library_is_timed(run):
    lines = run("assignment.py", "benchmarks").splitlines()
    assert "this library" in lines[0]
    assert [line.split()[:2] for line in lines[1:5]] == [["16", k] for k in ("random", "planted", "weights", "logits")]
    assert all(float(cell) > 0 for line in lines[1:] for cell in line.split()[2:])


def test_every_learning_rate_is_tried(run):
    pytest.importorskip("torch")
    header, *rows = (line.split() for line in run("learning_rate.py", "benchmarks").splitlines())
    assert header[2:] == ["0.01", "0.03", "0.1", "0.3", "1"]
    assert [row[:2] for row in rows] == [["L2", "10"], ["midpoint", "10"]]
    assert all(0.0 <= float(cell) <= 1.0 for row in rows for cell in row[2:])
    assert float(rows[0][3]) > float(rows[0][2]), "a tiny rate gets nowhere in ten steps"
