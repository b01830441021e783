"""A run as a file, and a run that goes on from it."""

import json
import os

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rebasin_core import RebasinIncremental
from rebasin_core.backends.optimizers import SGD
from rebasin_core.errors import DataError, SettingError, ShapeError, SpecError


def loaded(small, path, **changes):
    params, _ = small.start(seed=5)
    settings = {"forward": small.forward, "loss": small.cross_entropy, "progress": False, **changes}
    return RebasinIncremental.load(path, settings.pop("model", params), **settings)


def test_a_run_that_is_resumed_is_the_run_without_interruption(small, tmp_path):
    path = tmp_path / "run.npz"
    settings = {"memory_batch_size": 12, "average": 0.5, "keep": 0.25, "groups": ["h"], "beta": 0.01}
    whole = small.learner(**settings)
    for task in range(4):
        whole.fit_task(small.blobs(0.5 * task), task)
        if task == 1:
            whole.save(path)
    resumed = loaded(small, path)
    assert resumed.tasks == (0, 1)
    assert resumed.settings == whole.settings
    for task in (2, 3):
        resumed.fit_task(small.blobs(0.5 * task), task)
        resumed.save(path)
        resumed = loaded(small, path)
    for name, x in whole.params.items():
        assert_array_equal(resumed.params[name], x)
        assert resumed.params[name].dtype == x.dtype
    assert [m.task for m in resumed.memory] == [0, 1, 2, 3]
    for here, there in zip(resumed.memory, whole.memory, strict=True):
        assert_array_equal(here.inputs, there.inputs)
        assert_array_equal(here.targets, there.targets)
    assert [r.losses for r in resumed.reports] == [r.losses for r in whole.reports]


def test_nested_inputs_and_named_tasks_come_back(small, tmp_path):
    def forward(params, inputs):
        return small.forward(params, inputs["x"] + inputs["shift"][0])

    x, y = small.blobs(0.0)
    learner = small.learner(forward=forward, num_epochs=1)
    learner.fit_task(({"x": x, "shift": (np.zeros_like(x),)}, y), "a task")
    learner.save(tmp_path / "run")
    again = loaded(small, tmp_path / "run", forward=forward)
    assert again.memory[0].task == "a task"
    assert_array_equal(again.memory[0].inputs["x"], learner.memory[0].inputs["x"])
    assert isinstance(again.memory[0].inputs["shift"], tuple)


def test_a_file_is_written_whole_or_not_at_all(small, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    learner = small.learner(num_epochs=1)
    learner.save(path)
    before = path.read_bytes()
    learner.fit_task(small.blobs(0.0))

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        learner.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.npz"]


def test_what_does_not_fit_the_file_is_refused(small, tmp_path):
    path = tmp_path / "run.npz"
    learner = small.learner(residual_optimizer=SGD(0.2))
    learner.save(path)
    assert loaded(small, path, alpha=0.8, residual_optimizer=SGD(0.2)).settings == learner.settings
    with pytest.raises(SettingError, match=r"saved with alpha=0.8, got alpha=0.5.*Leave alpha out"):
        loaded(small, path, alpha=0.5)
    with pytest.raises(SettingError, match="no setting 'lambda_'"):
        loaded(small, path, lambda_=1.0)
    with pytest.raises(SettingError, match="saved with loss=None, got loss='mse'"):
        loaded(small, path, loss="mse")
    with pytest.raises(SettingError, match="the loss was a function"):
        loaded(small, path, loss=None)
    params, _ = small.start()
    with pytest.raises(SpecError, match="the file has a parameter 'b1', the model has none"):
        loaded(small, path, model={name: x for name, x in params.items() if name != "b1"})
    with pytest.raises(ShapeError, match=r"'w1' has shape \(7, 2\) in the model and \(12, 2\) in the file"):
        loaded(small, path, model=small.start(7)[0])


def test_other_files_are_refused(small, tmp_path):
    other, text, older = tmp_path / "other.npz", tmp_path / "text.npz", tmp_path / "older.npz"
    np.savez(other, a=np.zeros(1))
    text.write_text("no archive")
    np.savez(older, header=np.array(json.dumps({"format": "rebasin-core/incremental/0"})))
    for path in (other, text):
        with pytest.raises(DataError, match="not written by RebasinIncremental"):
            loaded(small, path)
    with pytest.raises(DataError, match="of format 'rebasin-core/incremental/0'"):
        loaded(small, older)
    with pytest.raises(FileNotFoundError):
        loaded(small, tmp_path / "missing.npz")
    whole = tmp_path / "run.npz"
    small.learner().save(whole)
    whole.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        loaded(small, whole)
