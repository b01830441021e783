"""The example that merges on a cluster runs, and its merged network is worth having."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed")
pytest.importorskip("sklearn")

EXAMPLE = Path(__file__).parents[2] / "examples" / "merging" / "dask_cluster.py"


def test_pairs_are_aligned_by_the_workers_of_a_cluster(tmp_path):
    # A process of its own: workers are started anew, and import the program they belong to.
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--quick"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "3 networks, cycle" in done.stdout
    accuracy = {name: float(x) for name, x in re.findall(r"^(.*): test accuracy ([\d.]+)$", done.stdout, flags=re.M)}
    assert accuracy["merged"] > accuracy["mean of two, as they are"]
