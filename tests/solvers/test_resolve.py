"""Solvers by name and as objects: what is accepted, and what is asked for instead of the rest."""

import pytest

import rebasin_core as rb
from rebasin_core.errors import SettingError
from rebasin_core.solvers.resolve import SOLVERS, SolverName, as_solver


def test_a_solver_its_name_and_none_are_accepted():
    assert as_solver(None) == as_solver("sinkhorn") == rb.solvers.Sinkhorn()
    solver = rb.solvers.FrankWolfe(num_starts=1)
    assert as_solver(solver) is solver


def test_every_solver_has_a_name():
    assert set(SOLVERS) == set(SolverName)
    kinds = {getattr(rb.solvers, name) for name in rb.solvers.__all__}
    assert {kind for kind in kinds if hasattr(kind, "solve")} == {*SOLVERS.values(), rb.solvers.Solver}
    for name, kind in SOLVERS.items():
        assert as_solver(name) == kind()


def test_an_unknown_name_is_answered_with_all_and_the_closest():
    names = ", ".join(f"'{name}'" for name in SOLVERS)
    for typed, close in {"weight_matching": "weight-matching", "Sinkhorn": "sinkhorn"}.items():
        with pytest.raises(SettingError, match=rf"solver as one of {names}, got '{typed}'; did you mean '{close}'\?"):
            as_solver(typed)


@pytest.mark.parametrize("kind", [kind for name, kind in SOLVERS.items() if name != "activation-matching"])
def test_settings_have_names(kind):
    with pytest.raises(TypeError, match=r"positional"):
        kind(1)
