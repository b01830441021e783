"""Pictures of curves."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.line.plotting import plot_curves, save_figure

plt = pytest.importorskip("matplotlib.pyplot")

CURVE = rb.Curve(np.array([0.0, 0.5, 1.0]), np.array([1.0, 3.0, 2.0]), {"accuracy": np.array([0.9, 0.5, 0.8])})


@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close("all")


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


def test_a_new_figure_is_one_that_pyplot_shows():
    ax = CURVE.plot(label="naive")
    assert plt.get_fignums() == [ax.figure.number]
    assert CURVE.plot(ax=ax, label="aligned") is ax
    assert len(ax.lines) == 2
    assert plt.get_fignums() == [ax.figure.number]


def test_pyplot_is_left_alone_where_axes_are_given_and_by_commands(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it fails
    ax = plot_curves({})
    assert CURVE.plot(ax=ax) is ax
    assert len(plot_curves({"curve": CURVE}).lines) == 1


def test_a_backend_that_cannot_open_a_window_does_not_keep_a_curve_from_being_drawn(monkeypatch, tmp_path):
    def refuse(**settings):
        raise ImportError("cannot load backend 'TkAgg': headless is running")

    monkeypatch.setattr(plt, "subplots", refuse)
    save_figure(CURVE.plot(), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 1000


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
