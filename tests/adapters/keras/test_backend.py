"""TensorFlow or JAX under Keras: the laws of the Backend protocol, and what is theirs alone; torch has its own."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import resolution
from rebasin_core.errors import SettingError
from rebasin_core.testing import check_backend


@pytest.fixture(scope="module")
def backend(framework):
    if framework.name == "torch":
        pytest.skip("the backend of torch is tested in tests/adapters/torch")
    return get_backend(framework.array(np.float32(0)))


@pytest.mark.usefixtures("wide")
def test_the_laws_of_the_protocol(framework, backend):
    laws = check_backend(backend, framework.array, grad=framework.grad, jit=framework.jit)
    assert {"exp (float64)", "exp (float32)", "exp, second derivative", "all operations, compiled"} <= set(laws)


def test_jax_has_no_double_precision_unless_asked(framework, backend):
    found = backend.dtype(framework.array(np.zeros(1)))
    assert found == ("float32" if framework.name == "jax" else "float64")
    assert_array_equal(
        backend.to_numpy(backend.asarray(range(3), like=framework.array(np.zeros(1)), dtype="int64")), [0, 1, 2]
    )


def test_bfloat16_reaches_numpy_as_single_precision(framework, backend):
    narrow = backend.astype(framework.array(np.ones(2, np.float32)), "bfloat16")
    assert backend.dtype(narrow) == "bfloat16"
    assert backend.to_numpy(narrow).dtype == np.float32


def test_every_dtype_of_tensorflow_is_known_as_floating_or_not(framework):
    if framework.name != "tensorflow":
        pytest.skip("the dtypes of JAX are those of ml_dtypes, in tests/backends")
    import tensorflow as tf

    kinds = [*vars(tf.dtypes).values(), *vars(tf.dtypes.experimental).values()]
    found = {kind.name: kind.is_floating for kind in kinds if isinstance(kind, tf.DType)}
    assert found.keys() >= {"float16", "bfloat16", "float8_e5m2", "int64", "complex64"}
    assert {name: resolution(name) > 0 for name in found} == found


def test_integers_are_finite(framework, backend):
    assert_array_equal(backend.to_numpy(backend.isfinite(framework.array(np.array([1, 2])))), [True, True])


def test_a_trace_within_a_gradient_is_concrete(framework, backend):
    seen = []
    framework.grad(lambda x: (seen.append(backend.is_concrete(x)), framework.sum(x * x))[1])(
        framework.array(np.ones(3, np.float32))
    )
    assert seen == [True]


def test_custom_vjp_is_differentiated_under_compilation(framework, backend):
    # Twice the derivative of the cube, so that it shows which one is used; the second argument is constant.
    cube = backend.custom_vjp(lambda x, y: x**3 + y, lambda g, output, x, y: (g * 6.0 * x**2, None))
    one, two = framework.array(np.float32(1.0)), framework.array(np.float32(2.0))
    second = framework.grad(framework.grad(lambda t: cube(t, one)))
    assert_allclose(backend.to_numpy(framework.jit(second)(two)), 24.0)
    assert_allclose(backend.to_numpy(framework.jit(framework.grad(lambda t: cube(t, t)))(two)), 24.0)


def test_what_has_no_gradient_is_refused(framework, backend):
    x = {"a": framework.array(np.ones(2, np.float32))}
    with pytest.raises(SettingError, match="no gradient"):
        backend.value_and_grad(lambda x: 1.0, x)


# --- imports ----------------------------------------------------------------------------------------------------------
def test_importing_the_package_loads_no_framework():
    code = (
        "import sys, rebasin_keras; dir(rebasin_keras); "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'jax', 'torch', 'keras')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_of_the_package_are_refused():
    import rebasin_keras

    assert "RebasinModel" in dir(rebasin_keras)
    with pytest.raises(AttributeError, match="Rebasin"):
        _ = rebasin_keras.RebasinMdoel
