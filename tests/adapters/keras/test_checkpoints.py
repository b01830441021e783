"""Files of Keras: the same model comes out as went in, and nothing in a file is run."""

import json
import os
import warnings
import zipfile

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.checkpoints import open_checkpoint
from rebasin_core.checkpoints.streaming import match_files, write_permuted
from rebasin_core.errors import CheckpointError, ShapeError


@pytest.fixture
def saved(models, tmp_path):
    """A compiled network with batch normalization, and its file."""
    model = models.scrambled(models.conv_net(), 0)
    model.compile("adam", "mse")
    model.save(tmp_path / "a.keras")
    return model, tmp_path / "a.keras"


def numbers(model):
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


def rewritten(path, change):
    """The same archive with another config.json."""
    other = path.with_name("other.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry, change(json.loads(data)) if entry.filename == "config.json" else data)
    return other


def test_a_file_is_written_as_it_was_read(saved):
    model, path = saved
    file, copy = open_checkpoint(path), path.with_name("copy.keras")
    assert {name: info.shape for name, info in file.tensors.items()} == {
        name: tuple(x.shape) for name, x in rb.models.find_adapter(model).params(model).items()
    }
    file.write(copy, file.read)
    for x, y in zip(numbers(keras.saving.load_model(copy, compile=False)), numbers(model), strict=True):
        assert_array_equal(x, y, strict=True)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy) as new:
        assert old.namelist() == new.namelist()
        assert all(old.read(name) == new.read(name) for name in ("config.json", "metadata.json"))


def test_the_compile_settings_stay(saved):
    _, path = saved
    file = open_checkpoint(path)
    file.write(path, lambda name: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras says that the optimizer starts afresh
        loaded = keras.saving.load_model(path)
    assert loaded.loss == "mse"
    assert type(loaded.optimizer).__name__ == "Adam"


def test_a_permuted_file_computes_the_same_and_is_found_again(saved):
    model, path = saved
    file, moved = open_checkpoint(path), path.with_name("moved.keras")
    graph = rb.permutation_graph(file.model)
    plan = rb.Plan.random(graph, 1)
    write_permuted(file, plan, graph, moved)
    other = open_checkpoint(moved)
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32")
    assert any((a != b).any() for a, b in zip(numbers(other.model), numbers(model), strict=True))
    assert_allclose(other.model.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-4, atol=1e-4)
    assert match_files(file, other, graph, progress=False).distance == 0.0
    write_permuted(other, plan.inverse(), graph, moved)
    for a, b in zip(numbers(open_checkpoint(moved).model), numbers(model), strict=True):
        assert_array_equal(a, b, strict=True)


def test_half_precision_is_read_as_float32_and_stays(tmp_path):
    layers = [keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16", name="half")]
    keras.Sequential(layers).save(tmp_path / "a.keras")
    file = open_checkpoint(tmp_path / "a.keras")
    assert str(file.tensors["half/kernel"]) == "bfloat16[3, 2]"
    assert file.read("half/kernel").dtype == np.float32
    file.write(tmp_path / "b.keras", file.read)
    other = open_checkpoint(tmp_path / "b.keras")
    assert other.tensors == file.tensors
    assert_array_equal(other.read("half/kernel"), file.read("half/kernel"))


def test_a_lambda_is_refused_and_does_not_run(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("REBASIN_RAN", "no")
    layers = [keras.Input((3,)), keras.layers.Lambda(lambda x: os.environ.update(REBASIN_RAN="yes") or x)]
    keras.Sequential([*layers, keras.layers.Dense(2)]).save(tmp_path / "hostile.keras")
    os.environ["REBASIN_RAN"] = "no"
    with pytest.raises(CheckpointError, match="byte code of a lambda, which would run"):
        open_checkpoint(tmp_path / "hostile.keras")
    assert os.environ["REBASIN_RAN"] == "no"


@pytest.mark.parametrize("module", ["os", "subprocess", "antigravity"])
def test_a_class_of_elsewhere_is_refused_and_not_imported(saved, module):
    def hostile(config):
        config["config"]["layers"][0] |= {"module": module, "class_name": "system", "registered_name": "system"}
        return json.dumps(config)

    with pytest.raises(CheckpointError, match=f"it names 'system' of '{module}'"):
        open_checkpoint(rewritten(saved[1], hostile))


def test_damaged_files_are_refused(saved):
    path = saved[1]
    whole, other = path.read_bytes(), path.with_name("other.keras")
    for data in (b"", b"no archive", whole[: len(whole) // 2]):
        other.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"other\.keras"):
            open_checkpoint(other)
    for config in ("{", "[]", '{"class_name": "Nothing", "config": {}, "module": "keras.layers"}'):
        with pytest.raises(CheckpointError, match=r"other\.keras"):
            open_checkpoint(rewritten(path, lambda _, config=config: config))
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("metadata.json", "{}")
    with pytest.raises(CheckpointError, match="no file of Keras"):
        open_checkpoint(other)


def test_an_interrupted_write_leaves_the_old_file(saved, monkeypatch):
    path = saved[1]
    file, before = open_checkpoint(path), path.read_bytes()
    with pytest.raises(ShapeError):
        file.write(path, lambda name: np.zeros(1))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        file.write(path, file.read)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["a.keras"]
