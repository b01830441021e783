"""Every model of ``keras.applications``: a random plan over all groups moves 95 % of it and leaves the outputs."""

import pytest

keras = pytest.importorskip("keras")

from .applications import ALL, QUICK, check_application, is_offered  # noqa: E402


def test_all_forty_are_here():
    assert len(ALL) >= 40
    assert set(ALL) >= QUICK


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ALL])
def test_application(name):
    if not is_offered(name):
        pytest.skip("Keras does not offer it with this backend")
    check_application(name)
