"""The share that is right, counted once for all frameworks."""

import importlib

import numpy as np
import pytest
from numpy.testing import assert_equal

from rebasin_core.errors import SettingError, ShapeError
from rebasin_core.models.accuracy import share_right
from rebasin_core.models.mapping import MappingAdapter

RNG = np.random.default_rng(0)
OUTPUTS, TARGETS = RNG.normal(size=(40, 3)).astype("float32"), RNG.integers(0, 3, 40)


def test_it_counts_what_is_equal_in_order_whatever_the_shape_of_the_targets():
    found = OUTPUTS.argmax(1)
    expected = sum(int(f) == int(t) for f, t in zip(found, TARGETS, strict=True)) / 40
    for wanted in (TARGETS, TARGETS[:, None], TARGETS.tolist(), TARGETS.reshape(8, 5)):
        assert_equal(share_right(found, wanted), expected)
    assert share_right(np.array(["a", "b"]), ["a", "c"]) == 0.5
    with pytest.raises(ShapeError, match=r"one class per row of outputs; got targets of shape \(39,\) for predictions"):
        share_right(found, TARGETS[1:])


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_every_adapter_counts_class_numbers_alike(framework):
    pytest.importorskip(framework)
    if framework == "torch":
        import torch
        from rebasin_torch import TorchAdapter as Adapter

        outputs, targets = torch.tensor(OUTPUTS), torch.tensor(TARGETS)
    else:
        import keras
        from rebasin_keras import KerasAdapter as Adapter

        outputs, targets = keras.ops.convert_to_tensor(OUTPUTS), TARGETS
    expected = MappingAdapter().metric(None, "accuracy")(OUTPUTS, TARGETS)
    accuracy = Adapter().metric(None, "accuracy")
    assert accuracy(outputs, targets) == expected
    for wrong in (targets[:-1], targets[:1]):
        with pytest.raises(ShapeError, match="accuracy needs one class"):
            accuracy(outputs, wrong)


class Mine:
    """A loss that must be made first."""

    def __call__(self, outputs, targets):
        return 0.0


@pytest.mark.parametrize("adapter", ["torch", "keras", "sklearn", "mapping"])
def test_a_class_in_place_of_a_loss_or_a_metric_is_refused_by_every_adapter(adapter):
    if adapter == "mapping":
        found = MappingAdapter()
    else:
        pytest.importorskip(adapter)
        name = {"torch": "TorchAdapter", "keras": "KerasAdapter", "sklearn": "SklearnAdapter"}[adapter]
        found = getattr(importlib.import_module(f"rebasin_{adapter}"), name)()
    for what in ("loss", "metric"):
        with pytest.raises(SettingError, match=rf"the {what} came as a class; write Mine\(\) with brackets"):
            getattr(found, what)(None, Mine)
        assert callable(getattr(found, what)(None, Mine()))
