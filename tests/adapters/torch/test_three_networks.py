"""Three convolutional networks become one, at the quickest, and so by the command that the example prints."""

import shlex

import numpy as np
import pytest


@pytest.fixture
def run(run_script):
    run_script.folder("merging")  # and have what the script adds taken away again
    return lambda *arguments: run_script("merging/three_networks.py", "--quick", *arguments)


@pytest.fixture
def data(store_pictures):
    """A few hundred photographs whose classes are stripes."""
    rng = np.random.default_rng(0)

    def draw(n):
        y = rng.integers(0, 10, n).astype(np.uint8)
        colors = rng.integers(0, 90, (n, 32, 32, 3))
        colors[np.arange(n), 3 * y, :] += 150
        return y, np.zeros((n, 28, 28)), colors

    store_pictures({"train": 600, "test": 300}, draw)


def test_the_table_and_the_command_line_agree(run, data, tmp_path):
    out = run("--width", "0.0625")
    lines = [line.strip("| ").split("|") for line in out.splitlines() if line.startswith("|")][2:]
    table = {cells[0].strip(): [float(cell) for cell in cells[1:3]] for cells in lines}
    assert list(table) == [
        *(f"network {index}" for index in (1, 2, 3)),
        "mean, as they are",
        *(f"merged, {method}" for method in ("star", "iterative", "cycle")),
    ]
    assert (tmp_path / "results" / "three-vgg11-0.0625.md").exists()
    assert len(list((tmp_path / "networks").glob("*.pt"))) == 3
    assert out.count("3 networks,") == 3

    testing = pytest.importorskip("typer.testing")
    pytest.importorskip("rich")
    from rebasin_core.commands.app import app

    (command,) = (line for line in out.splitlines() if line.startswith("rebasin merge"))
    done = testing.CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    shown = {
        cells[1].strip(): float(cells[2]) for line in done.output.splitlines() if len(cells := line.split("│")) == 4
    }
    merged = [shown["merged"], shown["merged, re-estimated statistics"]]
    # Of 300 images; in other batches, one may be rounded to another class.
    assert merged == pytest.approx(table["merged, iterative"], abs=0.004)
    assert (tmp_path / "networks" / "merged.pt").exists()
