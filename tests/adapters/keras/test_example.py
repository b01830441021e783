"""The MNIST example runs on this process's backend, on pictures that only look like MNIST."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.slow  # a minute or two; CI runs it beside the rest
def test_it_prints_a_table_and_draws_a_figure(tmp_path):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 2000), ("test", 1000)):
        y = rng.integers(0, 10, n)
        x = rng.integers(0, 90, (n, 28, 28))
        x[np.arange(n), 2 * y, :] += 150
        arrays |= {f"x_{part}": x.astype(np.uint8), f"y_{part}": y.astype(np.uint8)}
    np.savez(tmp_path / "mnist.npz", **arrays)
    options = ["--quick", "--epochs", "1", "--seed", "3", "--width", "24", "--plot", "figure.png"]
    done = subprocess.run(
        [sys.executable, EXAMPLES / "keras_mnist.py", *options],
        cwd=tmp_path,
        env={**os.environ, "REBASIN_DATA": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    rows = {
        line[:24].strip(): line[24:].split()
        for line in done.stdout.splitlines()
        if line.startswith(("naive", "weight", "Sink"))
    }
    assert list(rows) == ["naive", "weight matching", "Sinkhorn, L2", "Sinkhorn, midpoint", "Sinkhorn, random point"]
    assert float(rows["weight matching"][3]) < float(rows["naive"][3])
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_two_examples_differ_in_the_model_and_the_data_only():
    """From the first alignment on, the lines are the same but for the loss's spelling."""
    ours, theirs = ((EXAMPLES / name).read_text() for name in ("keras_mnist.py", "torch_mnist_mlp.py"))
    calls = [
        line.strip() for line in ours.splitlines() if "rb." in line and "import" not in line and "LOSS" not in line
    ]
    assert len(calls) >= 5
    assert all(line in theirs for line in calls)
