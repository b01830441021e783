"""Data are read the same way from arrays, lists, loaders and generators."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from rebasin_core.errors import DataError, SettingError
from rebasin_core.models.data import as_batches, batch_size

X, Y = np.arange(10.0).reshape(5, 2), np.arange(5)


class Loader:
    """Yields batches anew each time, as a DataLoader does; has no length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_a_pair_of_arrays_is_one_batch_or_cut_without_losing_a_sample():
    assert len(list(as_batches((X, Y)))) == 1
    for size in (1, 2, 5, 9):
        batches = list(as_batches((X, Y), size))
        assert max(batch_size(b) for b in batches) == min(size, 5)
        assert_array_equal(np.concatenate([b[0] for b in batches]), X)
        assert_array_equal(np.concatenate([b[1] for b in batches]), Y)


@pytest.mark.parametrize(
    "source",
    [
        [(X[:3], Y[:3]), (X[3:], Y[3:])],
        ((X[:3], Y[:3]), (X[3:], Y[3:])),
        Loader([(X[:3], Y[:3]), [X[3:], Y[3:]]]),
        ((x, y) for x, y in [(X[:3], Y[:3]), (X[3:], Y[3:])]),
    ],
    ids=["list", "tuple", "loader", "generator"],
)
def test_any_source_can_be_read_again_and_again(source):
    batches = as_batches(source)
    for _ in range(2):
        assert [batch_size(b) for b in batches] == [3, 2]
        assert_array_equal(np.concatenate([b[0] for b in batches]), X)
    assert as_batches(batches) is batches


def test_inputs_may_be_tuples_or_mappings_of_arrays():
    for inputs in ((X, X + 1), {"a": X, "b": X + 1}):
        first, second = as_batches((inputs, Y), 3)
        assert (batch_size(first), batch_size(second)) == (3, 2)
        values = second[0].values() if isinstance(inputs, dict) else second[0]
        for part, whole in zip(values, (X, X + 1), strict=True):
            assert_array_equal(part, whole[3:])


def exhausted():
    source = iter([(X, Y)])
    list(source)
    return source


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "needs data"),
        ([], "no batch"),
        ((), "no batch"),
        (exhausted(), "no batch.*already read"),
        ((X[:0], Y[:0]), "empty"),
        ((X, Y[:3]), "differ in length: 5 and 3"),
        (X, "ndarray"),
        ({"x": X}, "dict"),
        ("data", "str"),
        (3, "int"),
        ([X, Y, Y], r"one ndarray of shape \(5, 2\)"),
        ([(X, Y, Y)], "tuple of 3 items"),
        ([(X, Y), 3], "one int"),
        (([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]], [[0.0, 0.0], [1.0, 1.0]]), r"lists of numbers.*np\.asarray"),
        ([[1.0, 2.0], [0, 1]], r"lists of numbers"),
        ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], r"two numbers, 1\.0 and 2\.0"),
        (iter([(1.0, 2.0)]), r"two numbers"),
    ],
)
def test_what_cannot_be_read_is_refused(data, words):
    with pytest.raises(DataError, match=words):
        as_batches(data)


def test_a_loader_without_batches_is_refused_when_read():
    with pytest.raises(DataError, match=r"no batch"):
        list(as_batches(Loader([])))


def test_batches_of_lists_are_left_to_the_forward_function_of_the_user():
    texts = (["one text", "another"], [0, 1])
    assert list(as_batches([texts])) == [texts]
    assert [batch_size(batch) for batch in as_batches(((X, [0] * 5), (X, [1] * 5)))] == [5, 5]
    numbers = [([1.0, 2.0], [0.0]), ([3.0, 4.0], [1.0])]
    assert list(as_batches(numbers)) == numbers


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint16])
def test_a_batch_size_may_be_any_whole_number(kind):
    assert [batch_size(batch) for batch in as_batches((X, Y), kind(2))] == [2, 2, 1]


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True, np.float64(2)])
def test_a_bad_batch_size_is_refused(size):
    with pytest.raises(SettingError, match=r"expected batch_size as a whole number of at least 1"):
        as_batches((X, Y), size)
