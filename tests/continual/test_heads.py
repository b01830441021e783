"""Which output belongs to a task, and which classes it can learn."""

import numpy as np
import pytest

from rebasin_core.continual.heads import check_classes, check_task, pick
from rebasin_core.errors import DataError, SettingError

A, B = np.zeros((4, 2)), np.ones((4, 3))


@pytest.mark.parametrize(
    ("outputs", "head", "wanted"),
    [(A, None, A), (A, "label", A), ((A, B), 1, B), ([A, B], np.int64(0), A), ({"a": A, 7: B}, 7, B), ({"a": A}, 3, A)],
)
def test_a_head_is_picked_where_there_are_several(outputs, head, wanted):
    assert pick(outputs, head) is wanted


@pytest.mark.parametrize("head", [None, 2, -1, "a"])
def test_a_head_that_is_not_there_is_refused(head):
    with pytest.raises(SettingError, match="the model has 2 heads, 0, 1"):
        pick((A, B), head)


@pytest.mark.parametrize("task", [True, 1.5, ("a",)])
def test_a_task_is_a_number_or_a_name(task):
    with pytest.raises(SettingError, match="expected task as a number or a name"):
        check_task(task)


def test_a_class_needs_an_output():
    check_classes(B, np.array([0, 2]), None)
    for head, name in ((None, "the model"), (4, "head 4")):
        with pytest.raises(DataError, match=f"the targets hold 3, 5, and {name} has outputs for the classes 0 to 2"):
            check_classes(B, np.array([0, 3, 5]), head)


def test_where_it_is_not_plain_what_is_meant_nothing_is_refused():
    check_classes(B, None, None)  # targets are no class numbers
    check_classes(np.zeros((4, 1)), np.array([17]), None)  # counts, for all one knows
    check_classes(np.zeros((4, 3, 5, 5)), np.array([17]), None)  # one class per pixel
