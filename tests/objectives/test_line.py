"""Eq. 8 and 9: losses on the straight line, their samples and their fixed evaluation sets."""

from functools import partial
from itertools import islice

import autograd
import numpy as np
import pytest
from numpy.testing import assert_allclose

import rebasin_core as rb
from rebasin_core.errors import SettingError, SpecError
from rebasin_core.models.model import open_model
from rebasin_core.objectives import Activations, Custom, Midpoint, RandomPoint


@pytest.fixture
def net(mlp):
    return mlp((3, 4, 2))


def bind(net, objective):
    return objective.bind(open_model(net.params(), net.forward), net.graph())


def batches(net, sizes=(3, 5, 2)):
    return [net.data(n, seed=n) for n in sizes]


def loss_at(net, mse, a, b, place, batch):
    middle = {name: (1 - place) * a[name] + place * b[name] for name in a}
    return mse(net.forward(middle, batch[0]), batch[1])


def test_midpoint_is_the_loss_of_the_average(net, mse):
    a, b = net.params(1), net.params(2)
    bound = bind(net, Midpoint(mse, net.data()))
    assert_allclose(bound.value(a, b, net.data()), loss_at(net, mse, a, b, 0.5, net.data()))
    assert not bound.matches_weights


def test_random_point_is_the_loss_at_the_place_of_the_sample(net, mse):
    a, b = net.params(1), net.params(2)
    bound = bind(net, RandomPoint(mse, net.data()))
    for place in (0.0, 0.3, 1.0):
        assert_allclose(bound.value(a, b, (net.data(), place)), loss_at(net, mse, a, b, place, net.data()))


@pytest.mark.parametrize("strata", [1, 4, 5])
def test_every_round_of_draws_visits_every_part_of_the_line_once(net, mse, strata):
    bound = bind(net, RandomPoint(mse, net.data(), strata=strata))
    places = np.array([place for _, place in islice(bound.stream(np.random.default_rng(0)), 200 * strata)])
    assert 0 <= places.min() <= places.max() < 1
    for round_ in places.reshape(-1, strata):
        assert sorted(np.floor(round_ * strata)) == list(range(strata))


def test_every_single_draw_is_uniform(net, mse):
    """Kolmogorov-Smirnov distance of the first draw over many seeds; 1.95 / sqrt(n) is the 0.999 quantile."""
    bound = bind(net, RandomPoint(mse, net.data()))
    first = np.sort([next(bound.stream(np.random.default_rng(seed)))[1] for seed in range(400)])
    assert np.abs(first - (np.arange(400) + 0.5) / 400).max() < 1.95 / np.sqrt(400)


def test_the_evaluation_set_is_fixed_and_weighs_batches_by_size(net, mse):
    data = batches(net)
    for objective, places in (
        (Midpoint(mse, data), [0.5]),
        (RandomPoint(mse, data, strata=4), [1 / 8, 3 / 8, 5 / 8, 7 / 8]),
    ):
        bound = bind(net, objective)
        first = [(weight, sample) for weight, sample in bound.evaluation()]
        list(islice(bound.stream(np.random.default_rng(0)), 7))  # optimizing in between changes nothing
        second = list(bound.evaluation())
        assert len(first) == len(second) == len(data) * len(places)
        for (w, x), (v, y) in zip(first, second, strict=True):
            assert w == v
            assert_allclose(net_value(bound, net, x), net_value(bound, net, y), rtol=0)
        assert [w for w, _ in first] == [float(n) for n in (3, 5, 2) for _ in places]
        if len(places) > 1:
            assert_allclose([sample[1] for _, sample in first], places * 3)


def net_value(bound, net, sample):
    return bound.value(net.params(1), net.params(2), sample)


def test_the_mean_over_the_evaluation_set_is_the_mean_over_all_samples(net, mse):
    whole = tuple(np.concatenate(parts) for parts in zip(*batches(net), strict=True))
    a, b = net.params(1), net.params(2)
    values = []
    for data in (batches(net), whole):
        pairs = [
            (w, bind(net, Midpoint(mse, data)).value(a, b, x)) for w, x in bind(net, Midpoint(mse, data)).evaluation()
        ]
        values.append(np.average([v for _, v in pairs], weights=[w for w, _ in pairs]))
    assert_allclose(values[0], values[1])


def test_the_evaluation_set_is_the_first_batches(net, mse):
    data = batches(net, range(1, 12))
    for count, wanted in ((2, [1.0, 2.0]), (50, [float(n) for n in range(1, 12)])):
        bound = bind(net, Midpoint(mse, data, evaluation_batches=count))
        assert [w for w, _ in bound.evaluation()] == wanted
    assert len(list(bind(net, Midpoint(mse, data)).evaluation())) == 8


def test_the_stream_reads_every_batch_of_a_list_once_per_round_in_a_new_order(net, mse):
    data = batches(net, range(1, 7))
    drawn = [len(x) for x, _ in islice(bind(net, Midpoint(mse, data)).stream(np.random.default_rng(0)), 30)]
    rounds = np.reshape(drawn, (5, 6))
    for round_ in rounds:
        assert sorted(round_) == list(range(1, 7))
    assert len({tuple(r) for r in rounds.tolist()}) > 1


def test_arrays_are_cut_into_batches(net, mse):
    bound = bind(net, Midpoint(mse, net.data(10), batch_size=4))
    assert [w for w, _ in bound.evaluation()] == [4.0, 4.0, 2.0]


def test_a_generator_is_kept(net, mse):
    bound = bind(net, Midpoint(mse, (batch for batch in batches(net))))
    for _ in range(2):
        assert [w for w, _ in bound.evaluation()] == [3.0, 5.0, 2.0]


@pytest.mark.parametrize("bad", [0, -1, 1.5, "5"])
def test_bad_settings_are_refused_by_name_when_the_objective_is_made(net, mse, bad):
    with pytest.raises(SettingError, match=r"strata"):
        RandomPoint(mse, net.data(), strata=bad)
    of_the_line = (partial(Midpoint, mse), partial(RandomPoint, mse))
    for kind in (*of_the_line, Activations, partial(Custom, mse)):
        for name in ("batch_size", "evaluation_batches"):
            with pytest.raises(SettingError, match=name):
                kind(net.data(), **{name: bad})
    for kind in of_the_line:
        with pytest.raises(SettingError, match=r"normalization as one of 'running', 'batch'"):
            kind(net.data(), normalization=bad)


@pytest.mark.parametrize("kind", [Midpoint, RandomPoint])
def test_batch_normalization_normalizes_by_the_batch_unless_told_otherwise(normed, mse, kind):
    a, b = normed(1), normed(2)
    x, y = np.random.default_rng(0).normal(size=(8, 3)), np.zeros((8, 2))
    sample = ((x, y), 0.5) if kind is RandomPoint else (x, y)
    for how, model in (
        (None, rb.interpolate(a, b, reestimate=x)),
        ("batch", rb.interpolate(a, b, reestimate=x)),
        ("running", rb.interpolate(a, b)),
    ):
        bound = kind(mse, (x, y), normalization=how).bind(open_model(b), None)
        opened = open_model(model)
        expected = mse(opened.forward(opened.params, x), y)
        assert_allclose(bound.value(a.params, b.params, sample), expected, rtol=1e-6)


def test_normalizing_by_the_batch_lets_a_gradient_through(normed, mse):
    """The weights move the statistics too: against finite differences."""
    a, b = normed(1).params, normed(2).params
    x, y = np.random.default_rng(0).normal(size=(8, 3)), np.zeros((8, 2))
    bound = Midpoint(mse, (x, y)).bind(open_model(normed(2)), None)

    def value(w):
        return bound.value(a, {**b, "w": w}, (x, y))

    step = 1e-6 * np.random.default_rng(1).normal(size=b["w"].shape)
    slope = np.sum(autograd.grad(value)(b["w"]) * step)
    assert_allclose(slope, (value(b["w"] + step) - value(b["w"] - step)) / 2, rtol=1e-5)


@pytest.mark.parametrize("kind", [Midpoint, RandomPoint])
def test_a_normalization_that_cannot_be_is_refused(net, mse, kind):
    with pytest.raises(SettingError, match="normalization"):
        bind(net, kind(mse, net.data(), normalization="layer"))
    with pytest.raises(SpecError, match=r"forward= of your own"):
        bind(net, kind(mse, net.data(), normalization="batch"))
