"""Eq. 3 of the paper, on cases that can be worked out by hand."""

import pickle
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.errors import (
    DataError,
    NonFiniteError,
    RebasinError,
    SettingError,
    ShapeError,
    SpecError,
    UnsupportedArrayError,
)
from rebasin_core.models.model import open_model

POINT = (np.ones((1, 1)), np.zeros((1, 1)))
A, B = {"w": np.array([0.0])}, {"w": np.array([4.0])}


def forward(params, inputs):
    return inputs * params["w"]


def mse(outputs, targets):
    return np.mean((outputs - targets) ** 2)


def measure(loss=mse, data=POINT, a=A, b=B, **settings):
    return rb.connectivity(a, b, loss, data, forward=forward, **settings)


def bump(outputs, targets):
    """Loss as a function of w: 1 at 0, 3 at 1, 0 at 2, 5 at 3, 2 at 4."""
    return np.interp(outputs, range(5), [1.0, 3.0, 0.0, 5.0, 2.0]).mean()


def test_barrier_and_area_by_hand():
    curve = measure(bump, lambdas=5)
    assert_allclose(curve.lambdas, [0, 0.25, 0.5, 0.75, 1])
    assert_allclose(curve.losses, [1, 3, 0, 5, 2])
    # Above the line 1, 1.25, 1.5, 1.75, 2; clipped at zero for the area: 0, 1.75, 0, 3.25, 0.
    assert_allclose(curve.excess, [0, 1.75, -1.5, 3.25, 0])
    assert_allclose(curve.barrier, 3.25)
    assert_allclose(curve.auc, 0.25 * (1.75 + 3.25))
    assert curve.at(0.75) == {"loss": 5.0}
    assert_allclose(curve.at(0.875)["loss"], 3.5)
    assert "3.25" in str(curve)


def test_a_convex_loss_has_no_barrier_and_no_area():
    curve = measure(lambdas=11)
    assert_allclose(curve.losses, (4 * curve.lambdas) ** 2)
    assert (curve.barrier, curve.auc) == (0.0, 0.0)


def test_the_default_is_25_places_and_places_may_be_uneven():
    assert_allclose(measure().lambdas, np.linspace(0, 1, 25))
    uneven = measure(bump, lambdas=[0.0, 0.75, 1.0])
    assert_allclose(uneven.losses, [1, 5, 2])
    assert_allclose(uneven.auc, 0.5 * 3.25 * 1.0)
    assert measure(lambdas=np.int64(3)).lambdas.shape == (3,)


def test_batches_of_unequal_size_weigh_by_their_size():
    x = np.arange(1.0, 8.0)[:, None]
    whole = measure(data=(x, x), lambdas=4)
    for data in ([(x[:1], x[:1]), (x[1:6], x[1:6]), (x[6:], x[6:])], (x, x)):
        assert_allclose(measure(data=data, lambdas=4, batch_size=3).losses, whole.losses)


def test_one_pass_over_a_generator_is_enough():
    x = np.arange(1.0, 5.0)[:, None]
    drawn = []

    def batches():
        for i in range(4):
            drawn.append(i)
            yield x[i : i + 1], x[i : i + 1]

    assert_allclose(measure(data=batches(), lambdas=6).losses, measure(data=(x, x), lambdas=6).losses)
    assert drawn == [0, 1, 2, 3]


def test_a_loader_is_read_once():
    class Loader:
        reads = 0

        def __iter__(self):
            self.reads += 1
            yield np.ones((2, 1)), np.ones((2, 1))

    loader = Loader()
    measure(data=loader)
    assert loader.reads == 1


def test_metrics_are_averaged_as_the_loss_is():
    x = np.arange(1.0, 8.0)[:, None]
    curve = measure(data=(x, x), lambdas=3, batch_size=3, metrics={"bias": lambda o, y: np.mean(o - y)})
    assert_allclose(curve.metrics["bias"], [-4.0, 4.0, 12.0])
    assert_allclose(curve.at(0.5)["bias"], 4.0)


def test_accuracy_by_name():
    two = {"w": np.array([[1.0, -1.0]])}, {"w": np.array([[-1.0, 1.0]])}
    data = np.ones((4, 1)), np.array([0, 0, 0, 1])
    for metrics in (["accuracy"], "accuracy", {"accuracy": "accuracy"}):
        curve = rb.connectivity(*two, lambda o, y: o.mean(), data, 2, metrics=metrics, forward=lambda p, x: x @ p["w"])
        assert_allclose(curve.metrics["accuracy"], [0.75, 0.25])


def test_the_models_are_left_as_they_are(unchanged):
    x = np.ones((3, 1))
    with unchanged(A, B, x):
        measure(data=(x, x), metrics={"m": mse})
        rb.interpolate(A, B, 0.25)


@pytest.mark.parametrize(
    "lambdas",
    [1, 0, -3, True, 0.5, "abc", None, [], [0, 0.5], [0.1, 1], [0, 0, 1], [0, 1, 0.5], [0, np.nan, 1], [[0, 1]]],
)
def test_bad_lambdas_are_refused(lambdas):
    with pytest.raises(SettingError, match=r"lambdas"):
        measure(lambdas=lambdas)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"loss": "mse"}, SettingError, r"loss as a function.*'mse'"),
        ({"loss": None}, SettingError, r"loss as a function"),
        (
            {"loss": lambda o, y: (o - y) ** 2, "data": (np.ones((3, 1)), np.ones((3, 1)))},
            ShapeError,
            r"'loss'.*\(3, 1\)",
        ),
        ({"loss": lambda o, y: None}, UnsupportedArrayError, r"'loss' returned NoneType"),
        ({"loss": lambda o, y: "low"}, UnsupportedArrayError, r"'loss' returned str"),
        ({"loss": lambda o, y: np.nan}, NonFiniteError, r"loss of model A itself is nan"),
        ({"loss": lambda o, y: np.inf if o[0, 0] == 4 else 0.0}, NonFiniteError, r"loss of model B itself is inf"),
        ({"metrics": ["precision"]}, SettingError, r"metric.*'precision'"),
        ({"metrics": {"loss": mse}}, SettingError, r"cannot be named 'loss'"),
        ({"data": None, "loss": None}, DataError, r"needs data.*pass connectivity\(a, b, loss, data\)"),
        ({"data": []}, DataError, r"no batch"),
        ({"data": iter(())}, DataError, r"already read"),
        ({"data": (np.ones((0, 1)), np.ones((0, 1)))}, DataError, r"empty"),
        ({"batch_size": 0}, SettingError, r"batch_size"),
        ({"batch_size": "all"}, SettingError, r"batch_size"),
        ({"progress": "yes"}, SettingError, r"progress.*'yes'"),
        ({"b": {"w": np.array([np.nan])}}, NonFiniteError, r"'w' of model B"),
        ({"b": {"v": np.array([1.0])}}, SpecError, r"'w'"),
        ({"b": {"w": np.array([1.0, 2.0])}}, ShapeError, r"'w'"),
    ],
)
def test_bad_input_is_refused(settings, error, words):
    with pytest.raises(error, match=words) as caught:
        measure(**settings)
    assert isinstance(caught.value, RebasinError)


def test_the_middle_of_the_line_may_diverge():
    curve = measure(lambda o, y: np.inf if 1 < o[0, 0] < 3 else 1.0, lambdas=5)
    assert curve.barrier == np.inf


# --- the curve as a value ---------------------------------------------------------------------------------------------
def curves(losses, **metrics):
    return rb.Curve(np.linspace(0, 1, len(losses)), np.array(losses), {k: np.array(v) for k, v in metrics.items()})


def test_curves_are_equal_where_all_their_numbers_are():
    one, same = (
        curves([1.0, np.nan, 2.0], accuracy=[0.9, 0.5, 0.8]),
        curves([1.0, np.nan, 2.0], accuracy=[0.9, 0.5, 0.8]),
    )
    assert one == same
    assert hash(one) == hash(same)
    assert pickle.loads(pickle.dumps(one)) == one
    for other in (
        curves([1.0, 3.0, 2.0], accuracy=[0.9, 0.5, 0.8]),
        curves([1.0, np.nan, 2.0], accuracy=[0.9, 0.5, 0.7]),
        curves([1.0, np.nan, 2.0]),
        curves([1.0, 2.0]),
        "a curve",
    ):
        assert one != other


def test_a_curve_keeps_numbers_of_its_own():
    losses = np.array([1.0, 2.0])
    curve = rb.Curve([0, 1], losses)
    losses[0] = 5.0
    assert curve.losses[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        curve.losses[0] = 5.0


def test_a_curve_of_many_places_is_told_in_a_line():
    curve = curves(np.arange(1000.0) ** 2, accuracy=np.ones(1000))
    assert repr(curve).startswith("Curve(1000 places, barrier 0, ")
    assert "accuracy" in repr(curve)
    assert len(repr(curve)) < 100


@pytest.mark.parametrize("losses", [[1.0, 3.0, 2.0], [1.0, np.inf, 2.0], [1.0, 1.0], [np.nan, np.nan]])
def test_a_notebook_shows_a_picture(losses):
    shown = curves(losses)._repr_html_()
    tree = ElementTree.fromstring(shown)
    namespace = "{http://www.w3.org/2000/svg}"
    line = tree.findall(f"{namespace}svg/{namespace}polyline")[-1]
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert len(points) == np.isfinite(losses).sum()
    assert all(0 <= x <= 300 and 0 <= y <= 120 for x, y in points)
    assert "loss barrier" in "".join(tree.itertext())
    if losses == [1.0, 3.0, 2.0]:  # up is more
        assert points[1][1] < points[2][1] < points[0][1]


# --- interpolate ------------------------------------------------------------------------------------------------------
def test_interpolation_is_the_straight_line():
    for t, wanted in ((0, 0.0), (0.25, 1.0), (1, 4.0), (1.5, 6.0), (-0.5, -2.0), (np.float64(0.5), 2.0)):
        assert_allclose(rb.interpolate(A, B, t)["w"], [wanted])
    assert_array_equal(rb.interpolate(A, B)["w"], [2.0])


def test_interpolation_keeps_the_dtype():
    a = {"w": np.ones(2, dtype=np.float32), "n": np.array(3), "flag": np.array([True])}
    for t in (0.5, np.float64(0.5), np.array(0.5)):
        middle = rb.interpolate(a, a, t)
        assert {name: x.dtype for name, x in middle.items()} == {name: x.dtype for name, x in a.items()}


@pytest.mark.parametrize("t", [np.nan, np.inf, "0.5", None, np.array([0.5, 0.5])])
def test_a_bad_place_is_refused(t):
    with pytest.raises(SettingError, match=r"expected t as a finite number"):
        rb.interpolate(A, B, t)


def test_a_batch_size_without_data_to_cut_is_refused():
    with pytest.raises(SettingError, match=r"batch_size=2 cuts the data of reestimate="):
        rb.interpolate(A, B, batch_size=2)


# --- statistics of batch normalisation --------------------------------------------------------------------------------
NET_DATA = np.random.default_rng(3).normal(size=(12, 3)), np.random.default_rng(4).normal(size=(12, 2))


def loss_of(model, data):
    opened = open_model(model)
    return mse(opened.forward(opened.params, data[0]), data[1])


@pytest.mark.parametrize("same", [True, False], ids=["the same data", "other data"])
def test_statistics_are_measured_anew_at_every_place_and_at_the_ends(normed, unchanged, same):
    a, b = normed(1), normed(2)
    other = NET_DATA[0][:8] + 1.0
    with unchanged(a.params, b.params):
        how = {"reestimate": True if same else other, "batch_size": 4}
        curve = rb.connectivity(a, b, mse, NET_DATA, [0, 0.3, 1], **how)
    for t, loss in zip(curve.lambdas, curve.losses, strict=True):
        model = rb.reestimate(rb.interpolate(a, b, t), NET_DATA if same else other, batch_size=4)
        assert_allclose(loss, loss_of(model, NET_DATA), rtol=1e-5)
    plain = rb.connectivity(a, b, mse, NET_DATA, [0, 0.3, 1], reestimate=False)
    assert_allclose(plain.losses[0], loss_of(a, NET_DATA))
    assert not np.allclose(plain.losses, curve.losses)


def test_data_that_can_be_read_once_serve_both_passes(normed):
    wanted = rb.connectivity(normed(1), normed(2), mse, [NET_DATA], 3, reestimate=True)
    for how in (True, iter([NET_DATA])):
        curve = rb.connectivity(normed(1), normed(2), mse, iter([NET_DATA]), 3, reestimate=how)
        assert_allclose(curve.losses, wanted.losses)


def test_interpolation_measures_on_the_way(normed):
    a, b = normed(1), normed(2)
    found = rb.interpolate(a, b, 0.3, reestimate=NET_DATA, batch_size=5)
    for name, x in rb.reestimate(rb.interpolate(a, b, 0.3), NET_DATA, batch_size=5).params.items():
        assert_allclose(found.params[name], x)


def test_measuring_where_it_cannot_be_done_is_refused(normed):
    with pytest.raises(SpecError, match="does not say which arrays are running statistics"):
        measure(reestimate=True)
    with pytest.raises(SettingError, match="reestimate=True means the data that the loss is measured on"):
        rb.interpolate(normed(1), normed(2), reestimate=True)
    with pytest.raises(DataError, match="cannot read int"):
        rb.connectivity(normed(1), normed(2), mse, NET_DATA, 2, reestimate=3)
