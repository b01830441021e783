"""Objectives by name and as objects: what is accepted, and what is asked for instead of the rest."""

import pytest

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.objectives.resolve import OBJECTIVES, ObjectiveName, as_objective


def gap(a, b):
    return 0.0


def test_anything_reasonable_is_an_objective():
    assert as_objective(None) == as_objective("l2") == rb.objectives.L2()
    assert as_objective("cosine") == rb.objectives.Cosine()
    assert as_objective(gap) == rb.objectives.Custom(gap)
    cosine = rb.objectives.Cosine()
    assert as_objective(cosine) is cosine


def test_every_objective_but_a_users_own_has_a_name():
    assert set(OBJECTIVES) == set(ObjectiveName)
    kinds = {getattr(rb.objectives, name) for name in rb.objectives.__all__}
    assert {kind for kind in kinds if hasattr(kind, "bind")} == {*OBJECTIVES.values(), *NOT_NAMED}


NOT_NAMED = (rb.objectives.Custom, rb.objectives.Objective)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("midpoint", r"needs loss and data.*objective=objectives\.Midpoint\(loss, data\)"),
        ("random-point", r"needs loss and data.*objective=objectives\.RandomPoint\(loss, data\)"),
        ("activations", r"needs data.*objective=objectives\.Activations\(data\)"),
    ],
)
def test_a_name_without_the_data_it_needs_says_what_to_type(name, words):
    with pytest.raises(SettingError, match=words):
        as_objective(name)


def test_an_unknown_name_is_answered_with_all_and_the_closest():
    for typed, close in {"L2": "l2", "cosin": "cosine", "random_point": "random-point"}.items():
        with pytest.raises(SettingError, match=rf"'l2', 'cosine', .*got '{typed}'; did you mean '{close}'\?"):
            as_objective(typed)
    with pytest.raises(SettingError, match=r"got '#'$"):
        as_objective("#")


def test_settings_beside_loss_and_data_have_names():
    for make in (rb.objectives.Midpoint, rb.objectives.RandomPoint):
        with pytest.raises(TypeError, match=r"positional"):
            make(gap, [], 8)
    with pytest.raises(TypeError, match=r"positional"):
        rb.objectives.Activations([], 8)
