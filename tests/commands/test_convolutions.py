"""Three ResNet-20, in three files, merged by one command with the table of before and after."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

NETWORKS = Path(__file__).parents[2] / "examples" / "paper" / "networks.py"


@pytest.fixture
def files(tmp_path):
    """Trained for some steps on pictures of ten colors, which is enough for the table to say something."""
    namespace = {"__name__": "networks"}
    exec(compile(NETWORKS.read_text(encoding="utf-8"), str(NETWORKS), "exec"), namespace)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 320)
    colors = rng.normal(size=(10, 3, 1, 1))
    x = (colors[y] + 0.3 * rng.normal(size=(320, 3, 8, 8))).astype("float32")
    np.savez(tmp_path / "data.npz", x_train=x[:256], y_train=y[:256], x_test=x[256:], y_test=y[256:])
    inputs, targets = torch.tensor(x[:256]), torch.tensor(y[:256])
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        model = namespace["ResNet20"]()
        optimizer = torch.optim.Adam(model.parameters(), 0.003)
        for rows in torch.arange(256).repeat(8).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        torch.save(model.state_dict(), tmp_path / f"{name}.pt")
    return [tmp_path / f"{name}.pt" for name in "abc"]


def test_three_residual_networks_are_merged_by_one_command(rebasin, files, tmp_path):
    out = tmp_path / "merged.pt"
    model = ("--model", f"{NETWORKS}:ResNet20", "--kwargs", '{"width": 1}')
    done = rebasin("merge", *files, "-o", out, *model, "--data", tmp_path / "data.npz", "--reestimate", "--json")
    assert done.code == 0
    assert done.json["difference"] < 1e-4
    assert done.json["after"] < done.json["before"]
    rows = {name: row["accuracy"] for name, row in done.json["measured"].items()}
    assert min(rows[str(file)] for file in files) > 0.5
    assert rows["merged, re-estimated statistics"] > rows["average, not aligned"]
    stored, first = torch.load(out), torch.load(files[0])
    assert {name: (x.shape, x.dtype) for name, x in stored.items()} == {
        name: (x.shape, x.dtype) for name, x in first.items()
    }
