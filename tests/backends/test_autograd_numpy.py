"""NumPy with autograd: the laws of the Backend protocol, and what is autograd's alone."""

import autograd
import autograd.numpy as anp
import numpy as np
from autograd.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.backends.autograd_numpy import AutogradBackend
from rebasin_core.testing import check_backend

B = AutogradBackend()
SQUARE = np.random.default_rng(0).normal(size=(2, 3, 3))


def grad(fun):
    """Autograd's gradient, zero where the function does not depend on its argument; autograd itself would warn."""
    return autograd.grad(lambda x: fun(x) + 0.0 * anp.sum(x))


def test_the_laws_of_the_protocol():
    laws = check_backend(B, np.asarray, grad=grad)
    assert {"exp (float64)", "exp (float32)", "exp, second derivative", "custom_vjp is differentiated"} <= set(laws)


def test_a_boxed_python_float_becomes_a_differentiable_array():
    gradient = autograd.grad(lambda t: anp.sum(B.asarray(t, like=np.zeros(1, dtype=np.float32)) * 3.0))(2.0)
    assert_allclose(gradient, 3.0)


def test_to_numpy_peels_off_the_boxes_of_every_trace():
    seen = []
    autograd.grad(autograd.grad(lambda t: (seen.append(B.to_numpy(t)), t**3)[1]))(2.0)
    assert all(type(value) is np.ndarray for value in seen)


def test_ties_of_two_arrays_share_the_derivative():
    assert_array_equal(autograd.grad(lambda x: B.sum(B.maximum(x, 1.0)))(np.array([1.0, 2.0])), [0.5, 1.0])
    assert_array_equal(autograd.grad(lambda x: B.sum(B.minimum(x, 1.0)))(np.array([1.0, 2.0])), [0.5, 0.0])


def test_cholesky_solve_is_differentiable_in_the_matrix_to_every_order():
    right = np.random.default_rng(1).normal(size=(2, 3, 2))

    def symmetric(x):
        return B.cholesky_solve(x @ anp.swapaxes(x, -1, -2) + 3.0 * np.eye(3), right)

    check_grads(symmetric, modes=["rev"], order=2)(SQUARE)


def test_custom_primal_sees_bare_arrays():
    kinds = []
    identity = B.custom_vjp(lambda x: (kinds.append(type(x)), x)[1], lambda g, output, x: (g,))
    autograd.grad(lambda x: B.sum(identity(x)))(np.ones(2))
    assert kinds == [np.ndarray]
