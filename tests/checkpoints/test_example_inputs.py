"""Inputs drawn by shape: the same each time, of the dtype that was asked for."""

import numpy as np
import pytest

from rebasin_core.checkpoints.example_inputs import drawn_inputs
from rebasin_core.errors import SettingError


def test_shapes_dtypes_and_names_are_read():
    x, ids, by_name = drawn_inputs(["2,3", " int64:1, 4", "mask=bool:1,4", "y=float64:5"])
    assert (x.shape, x.dtype) == ((2, 3), np.float32)
    assert (ids.shape, ids.dtype) == ((1, 4), np.int64)
    assert set(np.unique(ids)) <= {0, 1}
    assert {name: (value.shape, value.dtype) for name, value in by_name.items()} == {
        "mask": ((1, 4), np.bool_),
        "y": ((5,), np.float64),
    }


def test_nothing_is_drawn_where_nothing_is_asked_for():
    assert drawn_inputs([]) == ()


def test_the_same_inputs_are_drawn_each_time():
    np.testing.assert_array_equal(drawn_inputs(["8"])[0], drawn_inputs(["8"])[0])
    assert not np.array_equal(drawn_inputs(["8"], seed=1)[0], drawn_inputs(["8"])[0])


@pytest.mark.parametrize("form", ["", "3,", ",3", "a:b:3", "object:3", "complex64:3", "3x3", "x=", "-1", "str:2"])
def test_other_forms_are_refused_with_an_example(form):
    with pytest.raises(SettingError, match="int64:1,16"):
        drawn_inputs([form])
