"""Backends are found by the type of the arrays."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import autograd
import numpy as np
import pytest

from rebasin_core import backends
from rebasin_core.backends import get_backend, register_backend
from rebasin_core.errors import UnsupportedArrayError
from rebasin_core.support import registry
from rebasin_core.support.registry import Registry


class FrameworkArray:
    pass


FrameworkArray.__module__ = "some_framework.core.arrays"


class FrameworkBackend:
    name = "some framework"


@pytest.fixture
def clean_registry(monkeypatch):
    """A registry of its own, so that no test leaves a backend behind."""
    monkeypatch.setattr(backends, "_REGISTRY", Registry(backends._REGISTRY.group, backends._REGISTRY._builtin))


def test_numpy_and_autograd_share_one_backend():
    backend = get_backend(np.zeros(2))
    assert backend.name == "numpy"
    assert get_backend(np.float64(1.0)) is backend
    boxed = []
    autograd.grad(lambda x: (boxed.append(get_backend(x, np.zeros(3))), x)[1])(1.0)
    assert boxed == [backend]


def test_subclasses_of_arrays_are_served_like_arrays():
    class Mine(np.ndarray):
        pass

    assert get_backend(np.zeros(2).view(Mine)) is get_backend(np.zeros(2))


@pytest.mark.parametrize("thing", [[1.0], 1.0, 3, None, "array", object()])
def test_what_is_no_array_is_refused_with_a_remedy(thing):
    with pytest.raises(UnsupportedArrayError, match=rf"got {type(thing).__name__}.*np\.asarray\(\.\.\., dtype=float\)"):
        get_backend(thing)


def test_no_array_is_refused():
    with pytest.raises(UnsupportedArrayError, match="at least one"):
        get_backend()


def test_mixed_frameworks_are_refused_naming_both(clean_registry):
    register_backend("some_framework", FrameworkBackend())
    with pytest.raises(UnsupportedArrayError, match=r"numpy\.ndarray \(numpy\).*FrameworkArray \(some framework\)"):
        get_backend(np.zeros(2), FrameworkArray())


@pytest.mark.parametrize("lazily", [True, False])
def test_registered_backends_are_made_once(clean_registry, lazily):
    with pytest.raises(UnsupportedArrayError):
        get_backend(FrameworkArray())
    register_backend("some_framework", FrameworkBackend if lazily else FrameworkBackend())
    backend = get_backend(FrameworkArray())
    assert isinstance(backend, FrameworkBackend)
    assert get_backend(FrameworkArray(), FrameworkArray()) is backend


def test_registered_backend_replaces_the_default(clean_registry):
    get_backend(np.zeros(1))
    mine = FrameworkBackend()
    register_backend("numpy", mine)
    assert get_backend(np.zeros(1)) is mine


def test_entry_points_are_loaded_on_sight_and_share_an_object(clean_registry, monkeypatch):
    points = {
        "some_framework": EntryPoint("some_framework", "fake_backend_module:FrameworkBackend", "any"),
    }
    monkeypatch.setattr(registry, "entry_points", lambda group, name: [points[name]] if name in points else [])
    monkeypatch.setitem(sys.modules, "fake_backend_module", sys.modules[__name__])
    backend = get_backend(FrameworkArray())
    assert isinstance(backend, FrameworkBackend)
    assert get_backend(FrameworkArray()) is backend


def test_no_framework_is_imported_by_the_core():
    code = (
        "import sys, numpy as np\n"
        "from rebasin_core.backends import get_backend\n"
        "from rebasin_core.sinkhorn_operator import sinkhorn\n"
        "sinkhorn(np.eye(3))\n"
        "assert not {'torch', 'tensorflow', 'keras', 'jax', 'jaxlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
