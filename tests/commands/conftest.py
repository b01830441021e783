"""Checkpoints on disk as a person has them, and the command line as a person calls it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

import rebasin_core as rb
from rebasin_core.commands.app import app

AXES = {"fc1.weight": "h .", "fc1.bias": "h", "fc2.weight": ". h", "step": ""}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)


@pytest.fixture(scope="session")
def rebasin():
    """Call the command line in this process: ``rebasin("align", a, b, "-o", out)``."""

    def call(*arguments):
        result = CliRunner().invoke(app, [str(x) for x in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return call


@dataclass(frozen=True)
class Planted:
    """Two files of one network, the units of the second in another order, and their axes."""

    folder: Path
    a: Path
    b: Path
    axes: Path
    params: dict
    permuted: dict

    def out(self, name="out.npz"):
        return self.folder / name


def network(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"fc1.weight": (16, 4), "fc1.bias": (16,), "fc2.weight": (3, 16)}
    params = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    return {**params, "step": np.array(7)}


def shuffled(params, seed=1):
    graph = rb.PermutationGraph.from_axes(AXES, params)
    moved = rb.permute(params, rb.Plan.random(graph, seed), graph)
    return {name: np.ascontiguousarray(x).reshape(x.shape) for name, x in moved.items()}


@pytest.fixture
def planted(tmp_path):
    params = network()
    permuted = shuffled(params)
    a, b, axes = tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "axes.json"
    np.savez(a, **params, note="of A")
    np.savez(b, **permuted, note="of B")
    axes.write_text(json.dumps(AXES))
    return Planted(tmp_path, a, b, axes, params, permuted)


@pytest.fixture
def untouched(tmp_path):
    """A function that asserts that no file of the folder has appeared, vanished or changed."""
    found = {}

    def contents():
        return {
            path: path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    def check():
        if not found:
            found.update(contents())
        assert contents() == found

    return check


FACTORY = """
import torch
from torch import nn


def net(width=8):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10),
    )


def with_inputs(width=8):
    return net(width), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def breaks():
    raise RuntimeError("the disk of the factory is full")


def pairs():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 10) for _ in range(3)]


def gap(outputs, targets):
    return outputs.square().mean()
"""


@dataclass(frozen=True)
class Trained:
    """Checkpoints of torch, the file of their factory, and data."""

    folder: Path
    files: list
    factory: Path
    data: Path

    def model(self, name="net"):
        return ("--model", f"{self.factory}:{name}")

    @property
    def architecture(self):
        return (*self.model(), "--input", "2,1,8,8")


@pytest.fixture(scope="session")
def trained_states():
    """Three networks trained on stripes, a task that takes a second."""
    torch = pytest.importorskip("torch")
    namespace = {}
    exec(FACTORY, namespace)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 600)
    x = rng.normal(size=(600, 1, 8, 8)).astype("float32") * 0.3
    for i, row in enumerate(y):
        x[i, 0, row % 8, :] += 2.0 * (1.0 + row // 8)
        x[i, 0, :, row * 3 % 8] -= 1.0
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = namespace["net"]()
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(15):
            for rows in torch.arange(500).split(50):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(torch.tensor(x)[rows]), torch.tensor(y)[rows]).backward()
                optimizer.step()
        states.append(model.state_dict())
    return states, {"x_train": x[:500], "y_train": y[:500], "x_test": x[500:], "y_test": y[500:]}


@pytest.fixture
def trained(trained_states, tmp_path):
    torch = pytest.importorskip("torch")
    states, arrays = trained_states
    files = [tmp_path / f"{name}.pt" for name in "abc"]
    for file, state in zip(files, states, strict=True):
        torch.save({"epoch": 20, "state_dict": state}, file)
    factory, data = tmp_path / "nets.py", tmp_path / "data.npz"
    factory.write_text(FACTORY)
    np.savez(data, **arrays)
    return Trained(tmp_path, files, factory, data)
