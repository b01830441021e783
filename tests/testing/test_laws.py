"""The judges that laws are checked with: each can find against what it is shown."""

import numpy as np
import pytest

from rebasin_core.errors import LawError, SettingError
from rebasin_core.testing.laws import check_laws, refused, require, same
from rebasin_core.testing.operations import OPERATIONS, gradient, second_difference


def verdict(law):
    """What is found, or None where the law holds."""
    try:
        check_laws("it", {"the law": law})
    except LawError as error:
        return error.laws["the law"]
    return None


def test_all_laws_are_checked_and_all_broken_ones_listed():
    seen = []
    laws = {name: (lambda name=name: (seen.append(name), require(name in "ac", f"no {name}"))) for name in "abcd"}
    with pytest.raises(LawError, match=r"it breaks 2 of 4 laws:\n    b: no b\n    d: no d") as caught:
        check_laws("it", laws)
    assert seen == list("abcd")
    assert caught.value.laws == {"b": "no b", "d": "no d"}
    assert isinstance(caught.value, AssertionError)
    assert check_laws("it", {"a": laws["a"]}) == ("a",)


@pytest.mark.parametrize(
    ("found", "expected", "words"),
    [
        ([1.0], [1.0], None),
        ([1.0, np.nan], [1.0, np.nan], None),
        ([-np.inf], [-np.inf], None),
        ([1.0 + 1e-9], [1.0], None),
        ([1.1], [1.0], "it is [1.1], expected [1.]"),
        ([np.nan], [1.0], "it is [nan], expected [1.]"),
        (np.ones(9), np.zeros(9), "it is off by up to 1.0e+00"),
        ([1.0], 1.0, "it has shape (1,), expected ()"),
        ([True], [False], "it is [ True], expected [False]"),
    ],
)
def test_arrays_are_compared_with_their_shapes(found, expected, words):
    assert verdict(lambda: same(found, expected, "it", rtol=1e-6)) == words


def test_what_must_be_refused_is_named():
    def fail():
        raise SettingError("expected tau, got 3")

    assert verdict(lambda: refused(SettingError, "got 3", fail)) is None
    assert "expected the words 'got 4'" in verdict(lambda: refused(SettingError, "got 4", fail))
    assert "nothing was raised" in verdict(lambda: refused(SettingError, "got 3", lambda: None))
    assert verdict(lambda: refused(KeyError, "got 3", fail)) == "SettingError: expected tau, got 3"


def test_the_references_are_right_where_the_textbook_knows():
    x, weight = np.array([0.5, -1.0]), np.array([2.0, 3.0])
    np.testing.assert_allclose(gradient(np.exp, x, weight), weight * np.exp(x), rtol=1e-8)
    one, two = np.array([1.0, -1.0]), np.array([0.5, 2.0])
    found = second_difference(np.exp, x, weight, one, two)
    np.testing.assert_allclose(found, np.sum(weight * np.exp(x) * one * two), rtol=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_kink_is_near_where_derivatives_are_taken(name):
    """Differences with two steps agree, which they would not across a kink."""
    operation = OPERATIONS[name]
    weight = np.ones(np.shape(operation.expected(operation.x)))
    fine, coarse = (gradient(operation.expected, operation.x, weight, step) for step in (1e-6, 1e-4))
    np.testing.assert_allclose(fine, coarse, rtol=1e-5, atol=1e-5)
