"""The paper's experiments run from end to end, at their quickest, on pictures that only look like the real ones."""

import concurrent.futures
import importlib

import numpy as np
import pytest


@pytest.fixture
def run(run_script):
    run_script.folder("paper")
    return lambda script, *arguments: run_script(f"paper/{script}", "--quick", *arguments)


@pytest.fixture
def data(store_pictures):
    """A few hundred pictures in the files of the experiments: classes are stripes."""
    rng = np.random.default_rng(0)

    def draw(n):
        y = rng.integers(0, 10, n).astype(np.uint8)
        x = rng.integers(0, 90, (n, 28, 28))
        x[np.arange(n), 2 * y, :] += 150
        colors = rng.integers(0, 90, (n, 32, 32, 3))
        colors[np.arange(n), 3 * y, :] += 150
        return y, x, colors

    store_pictures({"train": 1500, "test": 600}, draw)


def rows(text):
    """Cells of the table that was printed, by the first one."""
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines[2:]}


def test_table_1_finds_every_permutation(run, tmp_path):
    out = run("table1.py")
    assert "Sinkhorn, L2 exact in 9 of 9" in out
    assert (tmp_path / "results" / "table1.png").stat().st_size > 3000


def test_table_2_on_a_polynomial(run, tmp_path):
    found = rows(run("table2.py", "--tasks", "third"))
    assert list(found) == ["naive", "WM", "C_L2", "STE", "C_Mid", "C_Rnd"]
    barrier = {name: float(cells[1].split()[0]) for name, cells in found.items()}
    assert barrier["C_Rnd"] <= barrier["naive"]
    assert (tmp_path / "results" / "table2-third.md").exists()


def test_table_2_on_pictures(run, data, tmp_path):
    found = rows(run("table2.py", "--tasks", "mnist", "--cache", "kept"))
    assert {len(cells) for cells in found.values()} == {6}
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_convolutions(run, data):
    found = rows(run("convolutions.py", "--network", "vgg11", "--width", "0.0625"))
    assert list(found) == ["naive", "WM", "activation matching", "C_L2", "C_Rnd"]


def test_figures_1_3_and_4(run, tmp_path):
    assert "picture" in run("figure1.py")
    assert "'Sinkhorn, L2': 0}" in run("figure3.py")
    assert "picture" in run("figure4.py", "--tasks", "first")
    assert len(list((tmp_path / "results").glob("*.png"))) == 3


def test_planted_permutations(run):
    found = run("planted.py", "--solvers", "WeightMatching", "FrankWolfe")
    assert found.count("1 of 1") == 4


def test_any_executor_runs_the_pairs(run_script):
    run_script.folder("paper")
    running = importlib.import_module("running")
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        assert running.parallel(abs, [-3, 2, -1], executor=executor) == [3, 2, 1]
    assert running.parallel(abs, [-3, 2, -1], workers=2) == running.parallel(abs, [-3, 2, -1]) == [3, 2, 1]
