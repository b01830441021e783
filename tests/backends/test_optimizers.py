"""Settings of optimizers, and how variables are sorted into parameter groups."""

import pytest

from rebasin_core.backends.optimizers import SGD, Adam, check_optimizer, parameter_groups
from rebasin_core.errors import SettingError


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Adam(0.0), "learning_rate"),
        (lambda: Adam(0.1, weight_decay=-1.0), "weight_decay"),
        (lambda: SGD(float("inf")), "learning_rate"),
        (lambda: SGD(0.1, momentum=-0.5), "momentum"),
        (lambda: SGD(0.1, momentum=1.0), "momentum"),
        (lambda: SGD(0.1, clip=0.0), "clip"),
        (lambda: SGD(0.1, clip_value=-1.0), "clip_value"),
    ],
)
def test_settings_out_of_range_are_refused(make, name):
    with pytest.raises(SettingError, match=f"expected {name} as"):
        make()


def test_equal_optimizers_make_one_group_in_the_order_of_the_variables():
    chosen = {"a": SGD(1.0), "b": Adam(0.1), "c": SGD(1.0, clip=2.0), "d": SGD(1.0)}
    assert parameter_groups(chosen, ["d", "b", "c", "a"]) == [
        (SGD(1.0), ["d", "a"]),
        (Adam(0.1), ["b"]),
        (SGD(1.0, clip=2.0), ["c"]),
    ]
    assert parameter_groups(Adam(), ["x", "y"]) == [(Adam(), ["x", "y"])]


def test_variables_and_optimizers_must_match():
    with pytest.raises(SettingError, match="no variable to optimize"):
        parameter_groups(Adam(), [])
    with pytest.raises(SettingError, match="variable has no optimizer: 'b'"):
        parameter_groups({"a": Adam()}, ["a", "b"])
    with pytest.raises(SettingError, match="optimizer has no variable: 'c'"):
        parameter_groups({"a": Adam(), "c": Adam()}, ["a"])


@pytest.mark.parametrize("wrong", [0.1, "adam", Adam, None])
def test_something_else_is_no_optimizer(wrong):
    with pytest.raises(SettingError, match=r"expected residual as rebasin_core\.optimizers\.Adam"):
        check_optimizer(residual=wrong)
