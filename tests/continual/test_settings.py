"""The settings as one value, and as keywords: the same."""

import inspect
from dataclasses import FrozenInstanceError, fields, replace

import pytest
from numpy.testing import assert_array_equal

from rebasin_core import RebasinIncremental
from rebasin_core.backends.optimizers import SGD, Adam
from rebasin_core.continual import Settings
from rebasin_core.errors import SettingError

OTHERS = {
    "groups": ["h"], "alpha": 0.25, "beta": 0.3, "tau": 2.0, "num_iters": 7, "optimizer": SGD(0.2),
    "residual_optimizer": Adam(0.2), "first_optimizer": SGD(0.4), "num_epochs": 3, "batch_size": 17,
    "memory_per_class": 2, "memory_weight": 0.5, "memory_batch_size": 9, "distillation": 0.1, "distill_heads": 0.2,
    "average": 0.4, "keep": 0.6, "scale_residual": True, "hard": False, "init_scale": 3.0, "seed": 5,
}  # fmt: skip


def test_the_signature_names_every_setting_with_its_default():
    parameters = inspect.signature(RebasinIncremental).parameters
    assert not [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
    for setting in fields(Settings):
        default = parameters[setting.name].default
        assert default == (None if setting.name.endswith("optimizer") else setting.default), setting.name
    assert OTHERS.keys() == {setting.name for setting in fields(Settings)}


@pytest.mark.parametrize("name", OTHERS)
def test_every_setting_arrives_by_name_and_whole_and_not_both(small, name):
    params, graph = small.start()
    rest = {"graph": graph, "forward": small.forward, "loss": small.cross_entropy, "progress": False}
    settings = Settings(**{name: OTHERS[name]})
    assert settings != Settings()
    by_name = RebasinIncremental(params, **rest, **{name: OTHERS[name]})
    whole = RebasinIncremental(params, **rest, settings=settings)
    assert by_name.settings == whole.settings == settings
    with pytest.raises(SettingError, match=f"{name} came beside settings=.*replace"):
        RebasinIncremental(params, **rest, settings=Settings(), **{name: OTHERS[name]})


def test_settings_passed_whole_learn_the_same(small):
    by_name = small.learner(alpha=0.9)
    params, graph = small.start()
    rest = {"graph": graph, "forward": small.forward, "loss": small.cross_entropy, "progress": False}
    whole = RebasinIncremental(params, **rest, settings=by_name.settings)
    for learner in (by_name, whole):
        learner.fit_task(small.blobs(0.0), num_epochs=2)
        learner.fit_task(small.blobs(1.0), num_epochs=2)
    for name, x in by_name.params.items():
        assert_array_equal(x, whole.params[name])


def test_settings_are_frozen_and_checked_when_made(small):
    with pytest.raises(FrozenInstanceError):
        Settings().alpha = 0.5
    with pytest.raises(SettingError, match="expected tau"):
        replace(Settings(), tau=0)
    with pytest.raises(SettingError, match=r"expected settings as a rebasin_core\.continual\.Settings, got dict"):
        small.learner(settings={"alpha": 0.5})
    assert Settings(optimizer=None, residual_optimizer=None, first_optimizer=None) == Settings()
