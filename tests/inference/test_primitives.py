"""Primitives refuse what has no meaning, and say which of its parts has none."""

import pytest

from rebasin_core.errors import SpecError
from rebasin_core.inference import Primitives


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([], "no place is taken from axis 0, of length 3"),
        ([0, 3], "places 0 to 3 do not all lie on axis 0, of length 3"),
        ([-4], "places -4 to -4 do not all lie on axis 0, of length 3"),
    ],
)
def test_taking_nothing_and_taking_what_is_not_there_are_told_apart(places, words):
    p = Primitives()
    with pytest.raises(SpecError, match=words):
        p.gather(p.param("w", (3,)), 0, places)
