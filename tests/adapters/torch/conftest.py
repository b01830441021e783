"""Small trained networks, a record of everything that must not change, and the two backends side by side."""

import io
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


def mlp(activation=nn.ReLU, width=16, inputs=6, outputs=3):
    return nn.Sequential(
        nn.Linear(inputs, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, outputs)
    )


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(32, 3),
    )


def train(make, x, y, seed, steps=40):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        optimizer.zero_grad()
    return model


class Record:
    """Everything of some models that a call must leave alone, and the random state beside it."""

    def __init__(self, *models):
        self.models = models
        self.before = [self._of(model) for model in models]
        self.random = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002, what is watched

    @staticmethod
    def _of(model):
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {
            "values": {name: x.detach().clone() for name, x in tensors.items()},
            "objects": {name: id(x) for name, x in tensors.items()},
            "memory": {name: x.data_ptr() for name, x in tensors.items()},
            "flags": {name: (x.requires_grad, x.device, x.dtype, x.grad is None) for name, x in tensors.items()},
            "modes": [module.training for module in model.modules()],
            "hooks": [len(module._forward_hooks) for module in model.modules()],
        }

    def check(self):
        for model, before in zip(self.models, self.before, strict=True):
            after = self._of(model)
            for name, x in before.pop("values").items():
                assert torch.equal(x.nan_to_num(), after["values"][name].nan_to_num()), name
            del after["values"]
            assert after == before
        assert torch.equal(self.random[0], torch.get_rng_state())
        assert np.array_equal(self.random[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.fixture
def record():
    return Record


@pytest.fixture(scope="session")
def build():
    return SimpleNamespace(mlp=mlp, conv_net=conv_net, train=train)


@pytest.fixture(scope="session")
def blobs():
    """Three classes of points in six dimensions."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(96) % 3
    return torch.randn(96, 6, generator=generator) + 2.0 * torch.eye(6)[y], y


@pytest.fixture(scope="session")
def pictures():
    """Three classes of 8 x 8 pictures: where the bright square is."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(48) % 3
    x = 0.5 * torch.randn(48, 1, 8, 8, generator=generator)
    for i, k in enumerate(y.tolist()):
        x[i, 0, 2 * k : 2 * k + 3, 2 * k : 2 * k + 3] += 2.0
    return x, y


@pytest.fixture(scope="session")
def mlps(blobs):
    """Two trained perceptrons; nobody may change them."""
    return train(mlp, *blobs, seed=1), train(mlp, *blobs, seed=2)


@pytest.fixture(scope="session")
def conv_nets(pictures):
    """Two trained convolutional networks with batch norms, left in train mode."""
    return train(conv_net, *pictures, seed=1, steps=25), train(conv_net, *pictures, seed=2, steps=25)


@pytest.fixture(params=["numpy", "torch"])
def backend(request):
    """A backend, and how to make one of its arrays and read one of its gradients."""
    from rebasin_core.backends import get_backend

    if request.param == "numpy":
        return SimpleNamespace(of=get_backend(np.zeros(1)), array=np.asarray, name="numpy")
    return SimpleNamespace(of=get_backend(torch.zeros(1)), array=lambda x: torch.tensor(np.array(x)), name="torch")


@pytest.fixture
def run_script(monkeypatch, tmp_path, capsys):
    """Run a script of the examples beside its neighbors, whose names are those of other folders, too.

    ``run(script, *arguments)`` returns what it prints; ``run.folder(folder)`` makes a folder's modules importable.
    """
    monkeypatch.chdir(tmp_path)
    examples = Path(__file__).parents[3] / "examples"
    names = {file.stem for file in examples.glob("*/*.py")}

    def forget():
        for name in names:
            sys.modules.pop(name, None)

    def run(script, *arguments):
        pytest.importorskip("matplotlib")
        forget()
        monkeypatch.setattr(sys, "argv", [Path(script).name, *arguments])
        runpy.run_path(str(examples / script), run_name="__main__")
        return capsys.readouterr().out

    def folder(name):
        monkeypatch.syspath_prepend(str(examples / name))
        forget()

    run.folder = folder
    yield run
    forget()


@pytest.fixture
def store_pictures(monkeypatch, tmp_path):
    """Write pictures into the files of the experiments, and say where they are.

    ``store(counts, draw)``: per part how many, and ``draw(n) -> (labels, digits, photographs)``.
    """
    image = pytest.importorskip("PIL.Image")

    def store(counts, draw):
        digits, photographs = {}, {}
        for part, n in counts.items():
            y, x, colors = draw(n)
            digits |= {f"x_{part}": x.astype(np.uint8), f"y_{part}": y}
            files = []
            for picture in colors.astype(np.uint8):
                file = io.BytesIO()
                image.fromarray(picture).save(file, "jpeg")
                files.append(file.getvalue())
            photographs |= {
                f"jpeg_{part}": np.frombuffer(b"".join(files), np.uint8),
                f"offset_{part}": np.cumsum([0, *map(len, files)]),
                f"y_{part}": y,
            }
        np.savez(tmp_path / "mnist.npz", **digits)
        np.savez(tmp_path / "cifar10_jpeg.npz", **photographs)
        monkeypatch.setenv("REBASIN_DATA", str(tmp_path))

    return store
