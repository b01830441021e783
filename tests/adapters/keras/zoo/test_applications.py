"""Every model of ``keras.applications``: a random plan over all groups moves 95 % of it and leaves the outputs."""

import pytest

keras = pytest.importorskip("keras")

from .applications import ALL, LARGEST, QUICK, check_application, is_offered  # noqa: E402

# JAX compiles every layer of every model, TensorFlow builds them slowly: minutes, for nothing that torch does not show.
SLOW = LARGEST if keras.backend.backend() == "torch" else set(ALL) - QUICK


def test_all_forty_are_here():
    assert len(ALL) >= 40
    assert set(ALL) >= QUICK | LARGEST


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in ALL])
def test_application(name):
    if not is_offered(name):
        pytest.skip("Keras does not offer it with this backend")
    check_application(name)
