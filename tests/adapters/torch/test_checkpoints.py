"""Files of ``torch.save``: what stands beside the weights is kept, ties too, and nothing in a file is run."""

import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from torch import nn

import rebasin_core as rb
from rebasin_core.checkpoints import open_checkpoint
from rebasin_core.checkpoints.streaming import match_files, write_permuted
from rebasin_core.errors import CheckpointError, ShapeError


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def weights():
    """A state_dict with a tied tensor, half precision, whole numbers, a transposed tensor and a parameter."""
    found = network().state_dict()
    found["tied"] = found["0.weight"]
    found["half"] = torch.linspace(-1, 1, 3).bfloat16()
    found["columns"] = torch.arange(6.0).reshape(2, 3).T
    found["parameter"] = nn.Parameter(torch.ones(2), requires_grad=False)
    found["part"] = found["3.weight"][0]
    return found


def same(a, b):
    assert a.dtype == b.dtype
    assert type(a) is type(b)
    return torch.equal(a, b)


@pytest.fixture(params=[True, False], ids=["zip", "legacy"])
def path(request, tmp_path):
    torch.save(weights(), tmp_path / "a.pt", _use_new_zipfile_serialization=request.param)
    return tmp_path / "a.pt"


def test_tensors_are_read_as_they_were_written(path):
    file = open_checkpoint(path)
    assert list(file.tensors) == list(weights())
    for name, x in weights().items():
        assert str(file.tensors[name]) == f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"
        assert_array_equal(file.read(name), x.float().numpy() if x.is_floating_point() else x.numpy(), strict=True)
    assert file.tied == {"tied": "0.weight"}
    file.read("0.weight")[:] = 0.0
    assert_array_equal(file.read("0.weight"), weights()["0.weight"].numpy())


def test_what_is_written_is_what_was_read(path):
    file, other = open_checkpoint(path), path.with_name("b.pth")
    for tensor in (file.read, lambda name: None):
        file.write(other, tensor)
        loaded = torch.load(other, weights_only=True)
        assert isinstance(loaded, OrderedDict)
        assert list(loaded) == list(weights())
        assert loaded._metadata == weights()._metadata
        assert all(same(loaded[name], x) for name, x in weights().items())
        assert loaded["tied"].data_ptr() == loaded["0.weight"].data_ptr()
        assert zipfile.is_zipfile(other) == zipfile.is_zipfile(path)
        assert open_checkpoint(other).tied == file.tied


def test_only_the_first_of_tied_names_is_asked_for(path):
    file, asked = open_checkpoint(path), []
    file.write(path, lambda name: asked.append(name))
    assert asked == [name for name in weights() if name != "tied"]
    file.write(path, lambda name: 0 * file.read(name) if name == "0.weight" else None)
    assert not torch.load(path)["tied"].any()


@pytest.mark.parametrize("key", ["state_dict", "model", "anything"])
def test_values_beside_the_weights_are_kept(tmp_path, key):
    beside = {"epoch": 3, "args": {"lr": 0.1, "sizes": [3, 4]}, "rng": torch.arange(4, dtype=torch.uint8), "best": None}
    if key == "anything":
        del beside["rng"]  # a tensor at the top would make it a state_dict
    stored = {"epoch": 0, key: network().state_dict(), **beside}
    torch.save(stored, tmp_path / "a.pt")
    file = open_checkpoint(tmp_path / "a.pt")
    assert list(file.tensors) == list(network().state_dict())
    file.write(tmp_path / "b.pt", lambda name: -file.read(name) if name == "3.bias" else None)
    loaded = torch.load(tmp_path / "b.pt")
    assert list(loaded) == list(stored)
    for name, value in beside.items():
        assert torch.equal(loaded[name], value) if name == "rng" else loaded[name] == value
    assert torch.equal(loaded[key]["3.bias"], -network().state_dict()["3.bias"])
    assert torch.equal(loaded[key]["0.bias"], network().state_dict()["0.bias"])


def test_a_permuted_network_is_the_same_function_and_is_found_again(tmp_path):
    path, moved = tmp_path / "a.pt", tmp_path / "b.pt"
    model = network().eval()
    torch.save(model.state_dict(), path)
    graph = rb.permutation_graph(model, torch.zeros(1, 3))
    plan = rb.Plan.random(graph, 1)
    file = open_checkpoint(path)
    write_permuted(file, plan, graph, moved)
    other = network().eval()
    other.load_state_dict(torch.load(moved))
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    assert not torch.equal(other[0].weight, model[0].weight)
    torch.testing.assert_close(other(x), model(x))
    found = match_files(file, open_checkpoint(moved), graph, progress=False)
    assert (found.plan, found.distance) == (plan.inverse(), 0.0)


def test_values_that_do_not_fit_leave_everything_as_it_was(path, monkeypatch):
    file, before = open_checkpoint(path), path.read_bytes()
    with pytest.raises(ShapeError, match=r"'0.weight' is float32\[8, 3\]"):
        file.write(path, lambda name: np.zeros(3) if name == "0.weight" else None)

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        file.write(path, file.read)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.pt"]


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, kind, wrapped):
    path, made = tmp_path / "a.pt", tmp_path / "made"
    thing = {"w": torch.ones(2), "x": Hostile(made)} if wrapped else Hostile(made)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(thing, protocol=2))
    else:
        torch.save(thing, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match=r"would run code when it is loaded, and was not.*model\.state_dict\(\)"):
        open_checkpoint(path)
    assert not made.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(network(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="would run code"):
        open_checkpoint(tmp_path / "a.pt")


def test_a_file_with_an_optimizer_is_refused(tmp_path):
    model = network()
    stored = {"model": model.state_dict(), "optim": torch.optim.Adam(model.parameters()).state_dict()}
    torch.save(stored, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"holds the state of an optimizer, 'optim'.*start afresh"):
        open_checkpoint(tmp_path / "a.pt")


REFUSED = {
    "a list": ([torch.ones(2)], "holds a list; expected tensors by name"),
    "no tensors": ({"epoch": 3}, "holds no tensors by name"),
    "two networks": ({"model": {"w": torch.ones(2)}, "ema": {"w": torch.ones(2)}}, "under each of 'model', 'ema'"),
    "an expanded tensor": ({"w": torch.ones(1).expand(10**6)}, "has more entries than the file has numbers"),
    "a sparse tensor": ({"w": torch.eye(3).to_sparse()}, r"is stored as torch\.sparse_coo"),
    "a tensor without values": ({"w": torch.ones(2, device="meta")}, "is without values"),
    "a name that is no text": ({"w": torch.ones(2), 3: torch.ones(2)}, "has the name 3"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_state_dict_is_refused(tmp_path, what):
    stored, message = REFUSED[what]
    torch.save(stored, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "a.pt")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(weights(), path)
    whole = path.read_bytes()
    for data in (b"", b"no archive", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"is no file of torch\.save, or is damaged"):
            open_checkpoint(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), cut=st.none() | st.floats(0, 1))
def test_damaged_bytes_are_refused_or_hold_what_they_say(path, flips, cut):
    data = bytearray(path.read_bytes())
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    other = path.with_name("b.pt")
    other.write_bytes(data if cut is None else data[: int(cut * len(data))])
    try:
        file = open_checkpoint(other)
        for name, info in file.tensors.items():
            assert file.read(name).shape == info.shape
    except CheckpointError:
        return
