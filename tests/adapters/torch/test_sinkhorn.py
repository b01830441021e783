"""The Sinkhorn operator on tensors: NumPy's values and derivatives, torch's dtypes, memory and habits."""

import warnings

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from rebasin_core.errors import ConvergenceWarning, NonFiniteError, SettingError, ShapeError, UnsupportedArrayError
from rebasin_core.sinkhorn_operator import marginal_error, sinkhorn

STOPS = [{"num_iters": 7}, {"tol": 1e-12}]


def draws(*shape, count=2, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape))


def leaf(x, dtype=torch.float64):
    return torch.tensor(x, dtype=dtype, requires_grad=True)


# --- equal to NumPy in float64 ----------------------------------------------------------------------------------------
SMALL = [
    (shape, tau, stop) for shape in [(1, 1), (6, 6), (3, 5), (2, 4, 4)] for tau in (1.0, 0.1, 0.01) for stop in STOPS
]


# The large one goes through conjugate gradients.
@pytest.mark.parametrize(("shape", "tau", "stop"), [*SMALL, ((300, 300), 1.0, STOPS[0])])
def test_values_and_gradients_are_those_of_numpy(shape, tau, stop):
    X, G = draws(*shape)
    x = leaf(X)
    plan, error = sinkhorn(x, tau, **stop, return_error=True)
    (gradient,) = torch.autograd.grad((plan * torch.tensor(G)).sum(), x)
    expected, expected_error = sinkhorn(X, tau, **stop, return_error=True)
    vjp, _ = autograd.make_vjp(lambda X: sinkhorn(X, tau, **stop))(X)
    assert_allclose(plan.detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    assert_allclose(error.numpy(), expected_error, atol=1e-11)
    assert_allclose(tau * gradient.numpy(), tau * vjp(G), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("stop", STOPS, ids=["iterations", "tolerance"])
def test_temperature_and_second_derivatives_are_those_of_numpy(stop):
    X, G, H = draws(5, 5, count=3)

    def theirs(X, tau):
        def gradient(X, tau):
            return autograd.grad(lambda X, tau: anp.sum(sinkhorn(X, tau, **stop) ** 2 * G), (0, 1))(X, tau)

        def product(X, tau):
            by_logits, by_tau = gradient(X, tau)
            return anp.sum(by_logits * H) + 2.0 * by_tau

        return gradient(X, tau), autograd.grad(product, 0)(X, tau), autograd.grad(product, 1)(X, tau)

    x, tau = leaf(X), leaf(0.4)
    loss = (sinkhorn(x, tau, **stop) ** 2 * torch.tensor(G)).sum()
    first = torch.autograd.grad(loss, (x, tau), create_graph=True)
    second = torch.autograd.grad((first[0] * torch.tensor(H)).sum() + 2.0 * first[1], (x, tau))
    (by_logits, by_tau), second_logits, second_tau = theirs(X, 0.4)
    for found, expected in zip((*first, *second), (by_logits, by_tau, second_logits, second_tau), strict=True):
        assert_allclose(found.detach().numpy(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(3, 3), (2, 2, 3)])
def test_torch_agrees_that_the_derivatives_are_right(shape):
    x, tau = leaf(draws(*shape, count=1)[0]), leaf(0.5)
    assert torch.autograd.gradcheck(lambda x, tau: sinkhorn(x, tau, tol=1e-13), (x, tau), atol=1e-6)
    assert torch.autograd.gradgradcheck(lambda x, tau: sinkhorn(x, tau, tol=1e-13), (x, tau), atol=1e-5)


def test_marginals_are_met():
    row, col = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    plan = sinkhorn(torch.tensor(draws(3, 4)[0]).float(), 0.3, tol=1e-5, marginals=(row, col))
    assert_allclose(plan.sum(1), row, rtol=1e-5)
    assert_allclose(plan.sum(0), col, rtol=1e-4)


def test_third_derivative_is_refused():
    x = leaf(draws(3, 3)[0])
    value = sinkhorn(x)
    for _ in range(2):
        (value,) = torch.autograd.grad((value**2).sum(), x, create_graph=True)
        assert torch.isfinite(value).all()
    with pytest.raises(NotImplementedError, match="third"):
        torch.autograd.grad((value**2).sum(), x)


def test_torch_func_differentiates_too():
    X, G = (torch.tensor(x) for x in draws(4, 4))
    gradient = torch.func.grad(lambda x: (sinkhorn(x) * G).sum())(X)
    x = X.clone().requires_grad_()
    (sinkhorn(x) * G).sum().backward()
    assert torch.equal(gradient, x.grad)


# --- single and half precision ----------------------------------------------------------------------------------------
def gaussian(rng, n):
    return rng.normal(size=(n, n))


def permutation_plus_noise(rng, n):
    return 3.0 * np.eye(n)[rng.permutation(n)] + 0.3 * rng.normal(size=(n, n))


def duplicate_rows(rng, n):
    return rng.normal(size=(n, n))[rng.integers(0, max(n // 2, 1), n)]


FAMILIES = (gaussian, permutation_plus_noise, duplicate_rows)
MATRICES = [(family, n, tau) for family in FAMILIES for n in (2, 48) for tau in (1.0, 0.1, 0.01, 0.001)]


@pytest.mark.parametrize(("family", "n", "tau"), [*MATRICES, (gaussian, 300, 0.1), (permutation_plus_noise, 300, 1.0)])
def test_single_precision_is_accurate_at_every_temperature(family, n, tau):
    rng = np.random.default_rng([n, 5])
    X, G = family(rng, n).astype(np.float32), rng.normal(size=(n, n)).astype(np.float32)
    x = leaf(X, torch.float32)
    plan, error = sinkhorn(x, tau, tol=1e-4, return_error=True)
    (gradient,) = torch.autograd.grad((plan * torch.tensor(G)).sum(), x)
    assert plan.dtype == gradient.dtype == torch.float32
    assert error <= 1e-4
    assert torch.isfinite(gradient).all()
    vjp, _ = autograd.make_vjp(lambda X: sinkhorn(X, tau, tol=1e-10))(X.astype(np.float64))
    difference = tau * (gradient.numpy() - vjp(G.astype(np.float64)))
    assert np.linalg.norm(difference) <= (1e-4 if n < 300 else 1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("stop", [{"num_iters": 5}, {"tol": 1e-3}], ids=["iterations", "tolerance"])
def test_dtype_is_kept_and_nothing_is_edited(dtype, stop):
    X, G = (torch.tensor(x).to(dtype) for x in draws(2, 4, 4))
    X_before, G_before = X.clone(), G.clone()
    x = X.requires_grad_()
    plan = sinkhorn(x, 0.5, **stop)
    (gradient,) = torch.autograd.grad(plan, x, G)
    assert plan.dtype == gradient.dtype == dtype
    assert torch.equal(X, X_before)
    assert torch.equal(G, G_before)
    assert_allclose(plan.detach().double(), sinkhorn(X_before.double(), 0.5, **stop), atol=torch.finfo(dtype).eps)


def test_views_that_are_not_contiguous_are_fine():
    X = torch.tensor(draws(6, 8)[0])
    view = X.T[::2, 1:5].requires_grad_()
    plan = sinkhorn(view)
    plan.square().sum().backward()
    assert torch.equal(plan, sinkhorn(view.detach().contiguous()))


# --- the whole range of exponents ------------------------------------------------------------------------------------
EXTREMES = st.tuples(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([{"num_iters": 7}, {"tol": 1e-3}]),
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(EXTREMES)
def test_any_finite_logits_give_finite_numbers_and_derivatives(problem):
    dtype, seed, stop = problem
    rng, kind = np.random.default_rng(seed), torch.finfo(dtype)
    working = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
    exponents = rng.uniform(np.log2(kind.smallest_normal), np.log2(kind.max), size=(2, 3, 4))
    X = np.where(rng.random((2, 3, 4)) < 0.5, rng.normal(size=(2, 3, 4)), rng.choice([-1.0, 1.0]) * 2.0**exponents)
    tau = 2.0 ** rng.uniform(np.log2(working.smallest_normal) + 1e-6, np.log2(working.max) - 1e-6)
    x, t = leaf(np.clip(X, kind.min, kind.max), dtype), leaf(tau, torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        plan, info = sinkhorn(x, t, **stop, info=True)
    assert torch.isfinite(plan).all()
    assert all(torch.isfinite(values).all() for values in (*info.potentials, info.error))
    assert_allclose(plan.detach().double().sum(-1), 1.0, rtol=4 * kind.eps + 1e-5)
    try:
        by_logits, by_tau = torch.autograd.grad((plan * torch.tensor(rng.normal(size=plan.shape))).sum(), (x, t))
    except NonFiniteError:
        assert tau < 1e-10
        return
    assert torch.isfinite(by_tau)
    assert not torch.isnan(by_logits).any()
    assert torch.isfinite(by_logits).all() or kind.bits == 16


@pytest.mark.parametrize("stop", STOPS, ids=["iterations", "tolerance"])
def test_what_is_told_beside_a_plan_is_that_of_numpy(stop):
    X, G = draws(2, 6, 6)
    x, tau = leaf(X), leaf(0.2)
    plan, info = sinkhorn(x, tau, **stop, info=True)
    expected, told = sinkhorn(X, 0.2, **stop, info=True)
    assert_allclose(plan.detach(), expected, rtol=1e-9, atol=1e-12)
    for found, right in zip(info.potentials, told.potentials, strict=True):
        assert not found.requires_grad
        assert_allclose(found - found.mean(-1, keepdim=True), right - right.mean(-1, keepdims=True), atol=1e-8)
    assert info.iterations == told.iterations
    assert torch.equal(sinkhorn(x, tau, **stop), plan)
    found = torch.autograd.grad((plan * torch.tensor(G)).sum(), (x, tau))
    right = torch.autograd.grad((sinkhorn(x, tau, **stop) * torch.tensor(G)).sum(), (x, tau))
    assert all(map(torch.equal, found, right))
    again, after = sinkhorn(x, tau, tol=1e-6, info=True, start=sinkhorn(x, tau, tol=1e-6, info=True)[1].potentials)
    assert after.iterations <= 1
    assert again.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_temperature_tensors_are_checked_as_they_are_computed_with(dtype):
    for tau in (1e-50, 1e50):
        if dtype == torch.float64:
            assert torch.isfinite(sinkhorn(torch.eye(2, dtype=dtype), torch.tensor(tau, dtype=torch.float64))).all()
        else:
            with pytest.raises(SettingError, match="tau"):
                sinkhorn(torch.eye(2, dtype=dtype), torch.tensor(tau, dtype=torch.float64))


# --- memory -----------------------------------------------------------------------------------------------------------
def saved_elements(**settings):
    """Number of elements that autograd keeps between forward and backward."""
    kept = []
    x = leaf(draws(32, 32)[0], torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        plan = sinkhorn(x, **settings)
    plan.sum().backward()
    return sum(kept)


def test_memory_does_not_grow_with_the_number_of_iterations():
    assert saved_elements(num_iters=1) == saved_elements(num_iters=200) == saved_elements(tau=0.1, tol=1e-3)
    assert saved_elements(num_iters=200) < 4 * 32 * 32


def test_without_a_gradient_nothing_is_kept():
    assert sinkhorn(torch.tensor(draws(4, 4)[0])).grad_fn is None
    with torch.no_grad():
        assert not sinkhorn(leaf(draws(4, 4)[0])).requires_grad


# --- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.int64), UnsupportedArrayError, "floating dtype, got int64"),
        (torch.tensor([[0.0, float("nan")]]), NonFiniteError, "finite logits"),
        (torch.zeros(3), ShapeError, r"got \(3,\)"),
        (torch.zeros(0, 3), ShapeError, "empty axis"),
    ],
)
def test_bad_logits_are_refused(logits, error, message):
    with pytest.raises(error, match=message):
        sinkhorn(logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": torch.tensor(-1.0)}, "tau.*positive"),
        ({"tau": 0.0}, "tau.*positive"),
        ({"marginals": (torch.ones(2), 2 * torch.ones(2))}, "equal mass"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        sinkhorn(torch.zeros(2, 2), **options)


def test_arrays_of_two_frameworks_are_refused():
    with pytest.raises(UnsupportedArrayError, match="torch"):
        sinkhorn(torch.zeros(2, 2), np.array(1.0))


def test_marginal_error_of_a_tensor():
    assert_allclose(marginal_error(torch.tensor([[0.9, 0.1], [0.3, 0.7]])), 0.2, rtol=1e-6)
