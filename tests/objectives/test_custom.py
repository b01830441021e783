"""A user's own function as an objective."""

import numpy as np
import pytest

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.models.model import open_model
from rebasin_core.objectives.custom import Custom

PARAMS = {"w": np.ones((2, 3))}
GRAPH = rb.PermutationGraph.from_axes({"w": "h ."}, PARAMS)
DATA = [(np.ones((3, 1)), np.zeros(3)), (np.ones((2, 1)), np.zeros(2))]


def bind(function, data=None):
    return Custom(function, data).bind(open_model(PARAMS), GRAPH)


def two(a, b):
    return 2.0


def three(a, b, batch):
    return 3.0 if batch is None else float(len(batch[0]))


def optional(a, b, batch=None):
    return three(a, b, batch)


def many(*args):
    return three(*args)


def setting(a, b, power=2):
    return float(power)


class Callable:
    def __call__(self, a, b, batch):
        return three(a, b, batch)


@pytest.mark.parametrize("function", [three, optional, many, Callable()])
def test_a_function_of_three_gets_the_batch(function):
    bound = bind(function, DATA)
    assert [(w, bound.value(PARAMS, PARAMS, sample)) for w, sample in bound.evaluation()] == [(3.0, 3.0), (2.0, 2.0)]
    assert {
        bound.value(PARAMS, PARAMS, x) for x, _ in zip(bound.stream(np.random.default_rng(0)), range(4), strict=False)
    } == {
        2.0,
        3.0,
    }
    bare = bind(function)
    assert [(w, bare.value(PARAMS, PARAMS, sample)) for w, sample in bare.evaluation()] == [(1.0, 3.0)]


@pytest.mark.parametrize("function", [two, setting, lambda a, b: 2.0])
def test_a_function_of_two_gets_no_batch(function):
    for data in (None, DATA):
        bound = bind(function, data)
        assert {bound.value(PARAMS, PARAMS, sample) for _, sample in bound.evaluation()} == {2.0}


def test_the_name_is_the_function_s_own_or_the_user_s():
    assert Custom(two).name == "two"
    assert Custom(Callable()).name == "Callable"
    assert Custom(two, name="mine").name == "mine"
    assert not bind(two).matches_weights


@pytest.mark.parametrize(("function", "count"), [(lambda: 0, 0), (lambda a: 0, 1), (lambda a, b, c, d: 0, 4)])
def test_another_number_of_arguments_is_refused(function, count):
    with pytest.raises(SettingError, match=rf"takes {count} arguments"):
        bind(function)


def test_what_is_no_function_is_refused():
    with pytest.raises(SettingError, match=r"expected a function"):
        Custom("two")


def test_a_pair_of_arrays_is_cut_into_batches():
    data = (np.arange(10.0), np.arange(10.0))
    bound = Custom(three, data, batch_size=4).bind(open_model(PARAMS), None)
    assert [(weight, len(batch[0])) for weight, batch in bound.evaluation()] == [(4, 4), (4, 4), (2, 2)]


def test_hard_plans_are_compared_on_the_same_batches_whatever_the_loader_does():
    """A loader that shuffles yields others each time; the evaluation set is read once."""

    class Shuffling:
        def __init__(self):
            self.rounds = 0

        def __iter__(self):
            self.rounds += 1
            return iter([(np.full((2, 1), 10.0 * self.rounds + i), np.zeros(2)) for i in range(12)])

    bound = Custom(lambda a, b, batch: 0.0, data=Shuffling(), evaluation_batches=3).bind(None, None)
    first, second = ([(w, float(x[0, 0])) for w, (x, _) in bound.evaluation()] for _ in range(2))
    assert first == second == [(2.0, 10.0), (2.0, 11.0), (2.0, 12.0)]
