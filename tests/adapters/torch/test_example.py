"""The MNIST example runs, on pictures that only look like MNIST."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "torch_mnist_mlp.py"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["torch_mnist_mlp.py", *arguments])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        return capsys.readouterr().out

    return call


@pytest.mark.slow  # a minute or two; CI runs it beside the rest
def test_it_prints_a_table_and_draws_a_figure(run, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 2000), ("test", 1000)):
        y = rng.integers(0, 10, n)
        x = rng.integers(0, 90, (n, 28, 28))
        x[np.arange(n), 2 * y, :] += 150
        arrays |= {f"x_{part}": x.astype(np.uint8), f"y_{part}": y.astype(np.uint8)}
    np.savez(tmp_path / "mnist.npz", **arrays)
    monkeypatch.setenv("REBASIN_DATA", str(tmp_path))
    out = run("--quick", "--epochs", "1", "--seed", "3", "--width", "24", "--plot", "figure.png")
    rows = {
        line[:24].strip(): line[24:].split()
        for line in out.splitlines()
        if line.startswith(("naive", "weight", "Sink"))
    }
    assert list(rows) == ["naive", "weight matching", "Sinkhorn, L2", "Sinkhorn, midpoint", "Sinkhorn, random point"]
    assert float(rows["weight matching"][3]) < float(rows["naive"][3])
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_it_says_what_to_do_where_there_are_no_data(run, monkeypatch):
    monkeypatch.delenv("REBASIN_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(SystemExit, match=r"Set REBASIN_DATA to a folder that holds mnist.npz"):
        run("--quick")
