"""Pictures of curves."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.line.plotting import plot_curves, save_figure

pytest.importorskip("matplotlib")

CURVE = rb.Curve(np.array([0.0, 0.5, 1.0]), np.array([1.0, 3.0, 2.0]), {"accuracy": np.array([0.9, 0.5, 0.8])})


def test_a_curve_draws_its_losses_or_a_metric():
    line = CURVE.plot().lines[0]
    assert_array_equal(line.get_xdata(), CURVE.lambdas)
    assert_array_equal(line.get_ydata(), CURVE.losses)
    ax = CURVE.plot(metric="accuracy")
    assert_array_equal(ax.lines[0].get_ydata(), CURVE.metrics["accuracy"])
    assert ax.get_ylabel() == "accuracy"
    assert CURVE.plot().get_ylabel() == "loss"


def test_several_curves_are_told_apart():
    ax = plot_curves({f"curve {i}": CURVE for i in range(4)})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [f"curve {i}" for i in range(4)]
    assert len({line.get_color() for line in ax.lines}) == 4
    assert CURVE.plot().get_legend() is None


def test_curves_go_into_the_axes_given_and_pyplot_is_left_alone():
    ax = CURVE.plot(label="naive")
    assert CURVE.plot(ax=ax, label="aligned") is ax
    assert len(ax.lines) == 2
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_metric_that_was_not_measured_is_named():
    with pytest.raises(SettingError, match=r"'precision'.*accuracy"):
        CURVE.plot(metric="precision")
    with pytest.raises(SettingError, match=r"there is none"):
        rb.Curve(CURVE.lambdas, CURVE.losses).plot(metric="accuracy")


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_a_picture_is_written(tmp_path, ending):
    path = tmp_path / f"curve.{ending}"
    save_figure(CURVE.plot(label="naive"), path)
    assert path.stat().st_size > 1000
