"""PyTorch: the laws of the Backend protocol, and what is torch's alone."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import resolution
from rebasin_core.errors import SettingError, UnsupportedArrayError
from rebasin_core.testing import check_backend

B = get_backend(torch.zeros(1))


def test_the_laws_of_the_protocol():
    laws = check_backend(B, torch.tensor, grad=torch.func.grad)
    assert {"exp (float64)", "exp, second derivative", "deferred_mix stands for the product"} <= set(laws)


def test_second_derivatives_are_differences():
    """By torch's own judge, for what the core composes of many operations."""
    x = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    right = torch.ones(2, 3, 2, dtype=torch.float64)

    def solve(x):
        return B.cholesky_solve(B.matmul(x, x, transpose_y=True) + 3.0 * torch.eye(3, dtype=torch.float64), right)

    assert torch.autograd.gradgradcheck(solve, (x,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_has_its_name_and_survives_the_way_to_numpy(dtype):
    x = torch.tensor([0.5, -2.0], dtype=dtype, requires_grad=True)
    name = str(dtype).split(".")[1]
    assert B.dtype(x) == name
    assert B.asarray(np.array([1.0]), like=x).dtype == dtype
    assert B.astype(x.double(), name).dtype == dtype
    assert_array_equal(B.to_numpy(x), [0.5, -2.0])
    assert B.to_numpy(x).dtype == (np.float32 if dtype is torch.bfloat16 else name)


def test_one_plus_the_resolution_is_the_next_number_in_every_floating_dtype():
    kinds = {kind for kind in vars(torch).values() if isinstance(kind, torch.dtype) and kind.is_floating_point}
    kinds.discard(getattr(torch, "float4_e2m1fn_x2", None))  # two numbers in one, which nothing converts to
    assert {torch.bfloat16, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz} <= kinds
    for kind in kinds:
        step = resolution(str(kind).removeprefix("torch."))
        near = torch.tensor([1.0, 1.0 + 0.25 * step, 1.0 + 0.75 * step, 1.0 + step], dtype=torch.float64)
        assert near.to(kind).double().tolist() == [1.0, 1.0, 1.0 + step, 1.0 + step]


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UnsupportedArrayError, match="no dtype 'float33'"):
        B.astype(torch.zeros(1), "float33")


def test_read_only_and_reversed_numpy_arrays_are_read_without_a_warning():
    x = np.arange(4)
    x.setflags(write=False)
    assert B.asarray(x[::-1], like=torch.zeros(1), dtype="int64").tolist() == [3, 2, 1, 0]


def test_parameters_are_tensors_of_torch():
    assert get_backend(torch.nn.Parameter(torch.zeros(1))) is B


def test_values_that_are_not_there_are_not_read():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        assert not B.is_concrete(mode.from_tensor(torch.ones(2)))
    assert not B.is_concrete(torch.ones(2, device="meta"))


def test_gradients_work_where_the_caller_switched_them_off():
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            value, gradient = B.value_and_grad(lambda v: B.sum(v["x"] ** 2), {"x": torch.ones(2)})
        assert value == 2.0
        assert gradient["x"].tolist() == [2.0, 2.0]


def test_an_objective_without_gradient_is_refused():
    for fun in (lambda v: v["x"].detach().sum(), lambda v: 3.0):
        with pytest.raises(SettingError, match="no gradient"):
            B.value_and_grad(fun, {"x": torch.ones(2)})


def test_primal_is_not_recorded():
    seen = []
    square = B.custom_vjp(
        lambda x: (seen.append(torch.is_grad_enabled()), x * x)[1], lambda g, output, x: (2.0 * g * x,)
    )
    x = torch.ones(2, requires_grad=True, dtype=torch.float64)
    square(x).sum().backward()
    assert seen == [False]
    assert torch.autograd.gradgradcheck(square, (x,))
    assert torch.func.grad(lambda x: square(x).sum())(x.detach()).tolist() == [2.0, 2.0]
