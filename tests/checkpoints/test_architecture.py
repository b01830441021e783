"""Models and files that name their tensors differently: ties that a file leaves out, and dtypes that do not fit."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import rebasin_core as rb  # noqa: E402
from rebasin_core.checkpoints import open_checkpoint  # noqa: E402
from rebasin_core.checkpoints.architecture import Source, find_architecture  # noqa: E402
from rebasin_core.errors import CheckpointError  # noqa: E402


class Tied(nn.Module):
    """A table of embeddings that is the last layer as well."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(torch.relu(self.hidden(self.table(ids))))


IDS = Source(model="test_architecture_nets:Tied", inputs=("int64:2,3",))


@pytest.fixture(autouse=True)
def nets(monkeypatch):
    import sys
    import types

    module = types.ModuleType("test_architecture_nets")
    module.Tied = Tied
    monkeypatch.setitem(sys.modules, "test_architecture_nets", module)
    monkeypatch.setattr(sys, "path", list(sys.path))


def saved(path, *without, seed=0):
    torch.manual_seed(seed)
    model = Tied()
    state = {name: x.numpy() for name, x in model.state_dict().items() if name not in without}
    np.savez(path, **state)
    return model, open_checkpoint(path)


@pytest.mark.parametrize("left_out", [(), ("head.weight",), ("table.weight",)])
def test_a_name_that_the_file_leaves_out_has_the_values_of_what_it_is_tied_to(tmp_path, left_out):
    model, file = saved(tmp_path / "a.npz", *left_out)
    found = find_architecture(file, IDS)
    assert list(found.graph.axes) == list(file.tensors)
    assert len(found.graph.buffers) == (0 if left_out else 1), "a tied tensor counts once"
    loaded = found.load(file)
    for name, x in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], x)
    assert loaded.head.weight is loaded.table.weight
    rb.verify(loaded, found.whole, *found.inputs)


@pytest.mark.parametrize("left_out", [("head.weight",), ("table.weight",)])
def test_axes_of_the_file_serve_the_model_too(tmp_path, left_out):
    _, file = saved(tmp_path / "a.npz", *left_out)
    traced = find_architecture(file, IDS)
    (tmp_path / "axes.json").write_text(traced.graph.to_json())
    found = find_architecture(file, Source(tmp_path / "axes.json", IDS.model, inputs=IDS.inputs))
    assert found.graph == traced.graph
    assert found.whole.axes == traced.whole.axes
    assert len(found.whole.buffers) == 1
    rb.verify(found.load(file), found.whole, *found.inputs)


def test_what_is_tied_to_nothing_is_missing(tmp_path):
    _, file = saved(tmp_path / "a.npz", "hidden.bias", "head.weight")
    with pytest.raises(CheckpointError, match=r"a\.npz does not fit .*the file lacks 'hidden.bias'$"):
        find_architecture(file, IDS)


def test_whole_numbers_are_not_taken_for_weights(tmp_path):
    _, file = saved(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **{name: file.read(name).astype("int8") for name in file.tensors})
    with pytest.raises(CheckpointError, match=r"'table\.weight' holds int8 in the file"):
        find_architecture(open_checkpoint(tmp_path / "b.npz"), IDS)


def test_half_precision_is_loaded_into_the_model(tmp_path):
    _, file = saved(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **{name: file.read(name).astype("float16") for name in file.tensors})
    narrow = open_checkpoint(tmp_path / "b.npz")
    assert find_architecture(narrow, IDS).load(narrow).hidden.weight.dtype == torch.float32


def test_nothing_is_known_without_a_word(tmp_path):
    _, file = saved(tmp_path / "a.npz")
    assert find_architecture(file, Source()) is None
