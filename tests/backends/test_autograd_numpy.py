"""The laws of the Backend protocol, for NumPy with autograd."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from autograd.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.backends.autograd_numpy import AutogradBackend
from rebasin_core.errors import NonFiniteError, SettingError
from rebasin_core.optimizers import SGD, Adam

B = AutogradBackend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4))
Y = RNG.normal(size=(3, 1))
SQUARE = RNG.normal(size=(2, 3, 3))
DEFINITE = SQUARE @ np.swapaxes(SQUARE, -1, -2) + 3.0 * np.eye(3)
RIGHT = RNG.normal(size=(2, 3, 2))
INDICES = RNG.integers(0, 4, size=(2, 3, 2))

OPERATIONS = {
    "astype": (lambda x: B.astype(x, "float64"), X, lambda x: x),
    "asarray": (lambda x: B.asarray(x, like=x), X, lambda x: x),
    "exp": (B.exp, X, np.exp),
    "log": (lambda x: B.log(B.exp(x) + 1.0), X, lambda x: np.log1p(np.exp(x))),
    "abs": (B.abs, X, np.abs),
    "sqrt": (lambda x: B.sqrt(x * x + 1.0), X, lambda x: np.sqrt(x * x + 1.0)),
    "maximum": (lambda x: B.maximum(x, Y.astype(B.dtype(x))), X, lambda x: np.maximum(x, Y)),
    "maximum with a number": (lambda x: B.maximum(x, 0.1), X, lambda x: np.maximum(x, 0.1)),
    "maximum broadcast": (lambda x: B.maximum(x, X.astype(B.dtype(x))), Y, lambda x: np.maximum(x, X)),
    "minimum": (lambda x: B.minimum(Y.astype(B.dtype(x)), x), X, lambda x: np.minimum(x, Y)),
    "where": (lambda x: B.where(X > 0, x, 2.0), X, lambda x: np.where(X > 0, x, 2.0)),
    "where broadcast": (lambda x: B.where(X > 0, 0.0, x), Y, lambda x: np.where(X > 0, 0.0, x)),
    "sum": (lambda x: B.sum(x, axis=(0, -1)), X, lambda x: x.sum((0, 2))),
    "sum of all": (B.sum, X, np.sum),
    "max": (lambda x: B.max(x, axis=-2, keepdims=True), X, lambda x: x.max(-2, keepdims=True)),
    "max over axes": (lambda x: B.max(x, axis=(-2, -1)), X, lambda x: x.max((-2, -1))),
    "max of all": (B.max, X, np.max),
    "min": (lambda x: B.min(x, axis=-2, keepdims=True), X, lambda x: x.min(-2, keepdims=True)),
    "min of all": (B.min, X, np.min),
    "logsumexp": (lambda x: B.logsumexp(x, axis=-1), X, lambda x: np.log(np.exp(x).sum(-1))),
    "reshape": (lambda x: B.reshape(x, (4, -1)), X, lambda x: x.reshape(4, 6)),
    "moveaxis": (lambda x: B.moveaxis(x, 0, -1), X, lambda x: np.moveaxis(x, 0, -1)),
    "matrix_transpose": (B.matrix_transpose, X, lambda x: np.swapaxes(x, -1, -2)),
    "concat": (lambda x: B.concat([x, 2.0 * x], axis=1), X, lambda x: np.concatenate([x, 2 * x], axis=1)),
    "split": (lambda x: B.split(x, [1, 3], axis=-1)[1], X, lambda x: x[..., 1:]),
    "stack": (lambda x: B.stack([x, x * x], axis=1), X, lambda x: np.stack([x, x * x], axis=1)),
    "take": (lambda x: B.take(x, np.array([2, 0, 2]), axis=-2), X, lambda x: np.take(x, [2, 0, 2], axis=-2)),
    "take_along_axis": (
        lambda x: B.take_along_axis(x, INDICES, axis=-1),
        X,
        lambda x: np.take_along_axis(x, INDICES, axis=-1),
    ),
    "matmul": (lambda x: B.matmul(SQUARE.astype(B.dtype(x)), x), X, lambda x: SQUARE @ x),
    "matmul broadcast": (lambda x: B.matmul(SQUARE.astype(B.dtype(x)), x), Y, lambda x: SQUARE @ x),
    "matmul transposed": (
        lambda x: B.matmul(x, X.astype(B.dtype(x)), transpose_y=True),
        X,
        lambda x: x @ X.swapaxes(-1, -2),
    ),
    "matmul of one": (lambda x: B.matmul(x[:1], x[:1], transpose_y=True), X, lambda x: x[:1] @ x[:1].swapaxes(-1, -2)),
    "vmap": (
        lambda x: B.vmap(lambda row: B.sum(row["x"] * row["y"] ** 2, axis=-1), {"x": x, "y": X.astype(B.dtype(x))}),
        X,
        lambda x: (x * X**2).sum(-1),
    ),
    "cholesky_solve": (
        lambda x: B.cholesky_solve(DEFINITE.astype(B.dtype(x)), x),
        RIGHT,
        lambda x: np.linalg.solve(DEFINITE, x),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_that_of_numpy_and_is_differentiable(name):
    operation, x, expected = OPERATIONS[name]
    before = x.copy()
    assert_allclose(operation(x), expected(x), rtol=1e-12)
    check_grads(operation, modes=["rev"], order=2)(x)
    assert_array_equal(x, before)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "astype"])
def test_operation_and_its_gradient_keep_single_precision(name):
    operation, x, expected = OPERATIONS[name]
    x = x.astype(np.float32)
    assert operation(x).dtype == np.float32
    gradient = autograd.grad(lambda x: B.sum(operation(x)))(x)
    assert gradient.dtype == np.float32
    assert gradient.shape == x.shape
    assert_allclose(operation(x), expected(x.astype(float)), rtol=1e-4, atol=1e-5)


# --- creating, converting ---------------------------------------------------------------------------------------------
def test_asarray_follows_like_and_dtype():
    like = np.zeros(2, dtype=np.float32)
    assert B.asarray([1, 2], like=like).dtype == np.float32
    assert B.asarray([1, 2], like=like, dtype="int64").dtype == np.int64
    assert B.asarray(0.5, like=like).shape == ()
    full = B.full((2, 3), 0.1, like)
    assert full.shape == (2, 3)
    assert full.dtype == np.float32


def test_a_boxed_python_float_becomes_a_differentiable_array():
    gradient = autograd.grad(lambda t: anp.sum(B.asarray(t, like=np.zeros(1, dtype=np.float32)) * 3.0))(2.0)
    assert_allclose(gradient, 3.0)


def test_to_numpy_is_a_copy_outside_of_any_trace():
    x = np.ones(3)
    B.to_numpy(x)[0] = 5.0
    assert_array_equal(x, 1.0)
    seen = []
    autograd.grad(autograd.grad(lambda t: (seen.append(B.to_numpy(t)), t**3)[1]))(2.0)
    assert all(type(value) is np.ndarray for value in seen)
    assert B.dtype(np.zeros(1, dtype=np.float16)) == "float16"
    assert B.is_concrete(x)


def test_conversion_between_floating_dtypes_is_differentiable():
    gradient = autograd.grad(lambda x: B.sum(B.astype(x, "float64") ** 2))(np.ones(3, dtype=np.float16))
    assert gradient.dtype == np.float16
    assert_array_equal(gradient, 2.0)


# --- corners ----------------------------------------------------------------------------------------------------------
def test_ties_share_the_derivative():
    assert_array_equal(autograd.grad(lambda x: B.max(x))(np.array([1.0, 1.0, 0.0])), [0.5, 0.5, 0.0])
    assert_array_equal(autograd.grad(lambda x: B.sum(B.maximum(x, 1.0)))(np.array([1.0, 2.0])), [0.5, 1.0])


def test_argmax_isfinite_any():
    assert_array_equal(B.argmax(np.array([[1.0, 3.0, 3.0]]), axis=-1), [1])
    assert_array_equal(B.isfinite(np.array([0.0, np.nan, np.inf])), [True, False, False])
    assert B.any(np.array([False, True]))
    assert not B.any(np.array([False]))


def test_logsumexp_neither_over_nor_underflows():
    assert_allclose(B.logsumexp(np.array([1e4, 1e4]), axis=0), 1e4 + np.log(2.0))
    assert_allclose(B.logsumexp(np.array([-1e4, -1e4]), axis=0), -1e4 + np.log(2.0))
    assert_array_equal(B.logsumexp(np.full((2, 2), -np.inf), axis=1), -np.inf)
    assert B.logsumexp(X, axis=-1, keepdims=True).shape == (2, 3, 1)


def test_cholesky_solve_broadcasts_and_is_differentiable_in_the_matrix():
    assert_allclose(B.cholesky_solve(DEFINITE[0], RIGHT), np.linalg.solve(DEFINITE[0], RIGHT))

    def symmetric(x):
        return B.cholesky_solve(x @ anp.swapaxes(x, -1, -2) + 3.0 * np.eye(3), RIGHT)

    check_grads(symmetric, modes=["rev"], order=2)(SQUARE)


def test_cholesky_solve_is_nan_only_where_not_definite():
    matrices = np.stack([np.eye(2), -np.eye(2)]).astype(np.float32)
    solution = B.cholesky_solve(matrices, np.ones((2, 2, 1), dtype=np.float32))
    assert_array_equal(solution[0], 1.0)
    assert np.isnan(solution[1]).all()
    assert solution.dtype == np.float32


def test_control_flow():
    count, total = B.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, s[1] + s[0]), (0, np.array(0.0)))
    assert (count, total) == (5, 10.0)
    for predicate, expected in ((np.array(True), 2.0), (np.array(False), 1.0)):
        assert B.cond(predicate, lambda x: 2 * x, lambda x: x, np.array(1.0)) == expected


# --- gradients --------------------------------------------------------------------------------------------------------
def test_stop_gradient_is_a_constant():
    assert_allclose(autograd.grad(lambda x: x * B.stop_gradient(x))(3.0), 3.0)


def test_custom_vjp_is_used_and_differentiated():
    # Twice the derivative of the cube, so that it shows which one is used; the second argument is constant.
    cube = B.custom_vjp(lambda x, y: x**3 + y, lambda g, output, x, y: (g * 6.0 * x**2, None))
    assert_allclose(autograd.grad(cube)(2.0, 1.0), 24.0)
    assert_allclose(autograd.grad(autograd.grad(cube))(2.0, 1.0), 24.0)
    assert_allclose(autograd.grad(lambda t: cube(t, t))(2.0), 24.0)


def test_custom_primal_sees_bare_arrays():
    kinds = []
    identity = B.custom_vjp(lambda x: (kinds.append(type(x)), x)[1], lambda g, output, x: (g,))
    autograd.grad(lambda x: B.sum(identity(x)))(np.ones(2))
    assert kinds == [np.ndarray]


def test_value_and_grad_of_a_dictionary():
    x = {"a": np.ones(2, dtype=np.float32), "b": np.full((1, 3), 2.0)}
    value, gradient = B.value_and_grad(lambda x: B.sum(x["a"] ** 2) + B.sum(x["b"]), x)
    assert isinstance(value, float)
    assert value == 8.0
    assert_array_equal(gradient["a"], 2.0)
    assert gradient["a"].dtype == np.float32
    assert_array_equal(gradient["b"], np.ones((1, 3)))


# --- optimisers -------------------------------------------------------------------------------------------------------
def run_adam(fun, x, num_steps=200, stop_at=None):
    seen = []

    def callback(step, value, variables):
        seen.append((step, value, variables))
        return step == stop_at

    B.minimise(fun, x, Adam(0.1), num_steps, callback)
    return seen


def test_adam_minimises_and_keeps_dtypes_and_shapes():
    x = {"a": np.full((2, 2), 3.0, dtype=np.float32), "b": np.array(-2.0)}
    before = {name: values.copy() for name, values in x.items()}
    seen = run_adam(lambda x, step: B.sum((x["a"] - 1.0) ** 2) + x["b"] ** 2, x)
    assert [step for step, _, _ in seen] == list(range(200))
    assert_array_equal(seen[0][2]["a"], before["a"])
    assert seen[0][1] == 20.0
    last = seen[-1]
    assert last[1] < 1e-2
    assert last[2]["a"].dtype == np.float32
    assert last[2]["a"].shape == (2, 2)
    assert last[2]["b"].shape == ()
    for name in x:
        assert_array_equal(x[name], before[name])


def test_adam_takes_its_textbook_first_step():
    seen = run_adam(lambda x, step: 5.0 * x["a"][0], {"a": np.array([1.0])}, num_steps=2)
    assert_allclose(seen[1][2]["a"], 0.9, rtol=1e-6)


def test_adam_stops_when_told_and_passes_the_step():
    steps = []
    seen = run_adam(lambda x, step: (steps.append(step), B.sum(x["a"]))[1], {"a": np.ones(1)}, stop_at=3)
    assert len(seen) == 4
    assert steps == [0, 1, 2, 3]


def test_adam_refuses_what_is_not_finite():
    with pytest.raises(NonFiniteError, match="loss is nan at step 0"):
        run_adam(lambda x, step: B.sum(x["a"]) * np.nan, {"a": np.ones(1)})
    infinite = B.custom_vjp(lambda x: B.sum(x), lambda g, output, x: (np.full_like(x, np.inf),))
    with pytest.raises(NonFiniteError, match="gradient of 'a'"):
        run_adam(lambda x, step: infinite(x["a"]), {"a": np.ones(1)})


def steps_of(fun, x, optimizer, num_steps=4):
    """The variables before every step, and after the last."""
    seen = []
    last = B.minimise(fun, x, optimizer, num_steps, lambda step, value, here: seen.append(here))
    return [{name: B.to_numpy(values) for name, values in here.items()} for here in (*seen, last)]


OPTIMIZERS = {
    "adam": Adam(0.1),
    "decay": Adam(0.1, weight_decay=0.5),
    "sgd": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9),
    "clipped": SGD(0.1, momentum=0.5, clip=0.7),
    "cut": SGD(0.1, momentum=0.5, clip_value=1.2),
    "cut and clipped": SGD(0.1, momentum=0.5, clip=1.8, clip_value=1.2),
}


def expected_steps(optimizer, x, gradient, num_steps):
    """The textbook, in NumPy."""
    path, v, m, s = [x], np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for t in range(1, num_steps + 1):
        g = gradient(x)
        if isinstance(optimizer, SGD):
            g = g if optimizer.clip_value is None else np.clip(g, -optimizer.clip_value, optimizer.clip_value)
            norm = np.linalg.norm(g)
            g = g if optimizer.clip is None or norm <= optimizer.clip else g * optimizer.clip / norm
            v = optimizer.momentum * v + g
            x = x - optimizer.learning_rate * v
        else:
            m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
            step = (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
            x = x * (1 - optimizer.learning_rate * optimizer.weight_decay) - optimizer.learning_rate * step
        path.append(x)
    return path


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_follows_the_textbook(name):
    x = np.array([1.0, -2.0, 0.5], np.float32)
    path = steps_of(lambda v, step: B.sum(v["a"] ** 2), {"a": np.asarray(x)}, OPTIMIZERS[name])
    for found, wanted in zip(path, expected_steps(OPTIMIZERS[name], x, lambda x: 2 * x, 4), strict=True):
        assert_allclose(found["a"], wanted, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("second", ["decay", "momentum", "clipped"])
def test_two_optimisers_do_to_each_variable_what_they_do_alone(second):
    first, other = OPTIMIZERS["adam"], OPTIMIZERS[second]
    x = {"a": np.asarray(np.ones((2, 2), np.float32)), "b": np.asarray(np.array([3.0, -4.0], np.float32))}

    def fun(v, step):
        return sum(B.sum(values**2) for values in v.values())

    both = steps_of(fun, x, {"a": first, "b": other})
    for name, optimizer in (("a", first), ("b", other)):
        alone = steps_of(fun, {name: x[name]}, optimizer)
        assert_allclose([here[name] for here in both], [here[name] for here in alone], rtol=1e-6)


def test_the_first_step_of_sgd_is_the_gradient_and_clipping_bounds_that_of_a_whole_group():
    x = {"a": np.asarray(np.array([3.0], np.float32)), "b": np.asarray(np.array([4.0], np.float32))}

    def fun(v, step):
        return B.sum(v["a"] ** 2) + B.sum(v["b"] ** 2)

    _, after = steps_of(fun, x, SGD(0.25), 1)
    assert_allclose([after["a"][0], after["b"][0]], [3.0 - 0.25 * 6.0, 4.0 - 0.25 * 8.0], rtol=1e-6)
    _, after = steps_of(fun, x, SGD(0.25, clip=1.0), 1)
    assert_allclose([3.0 - after["a"][0], 4.0 - after["b"][0]], [0.25 * 0.6, 0.25 * 0.8], rtol=1e-5)
    _, after = steps_of(fun, x, {"a": SGD(0.25, clip=1.0), "b": SGD(0.5, clip=1.0)}, 1)
    assert_allclose([3.0 - after["a"][0], 4.0 - after["b"][0]], [0.25, 0.5], rtol=1e-5)


def test_what_is_returned_is_what_the_callback_would_see_next():
    x = {"a": np.asarray(np.ones(2, np.float32))}

    def fun(v, step):
        return B.sum(v["a"] ** 2)

    long, short = steps_of(fun, x, SGD(0.1), 5), steps_of(fun, x, SGD(0.1), 3)
    assert_array_equal(short[-1]["a"], long[3]["a"])
    stopped = B.minimise(fun, x, SGD(0.1), 5, lambda step, value, here: step == 2)
    assert_array_equal(B.to_numpy(stopped["a"]), long[2]["a"])


def test_every_variable_needs_an_optimiser_and_no_more():
    x = {"a": np.asarray(np.ones(1, np.float32))}
    for optimizer, message in (
        ({}, "no optimiser: 'a'"),
        ({"a": SGD(1.0), "c": SGD(1.0)}, "no variable: 'c'"),
        (0.1, "got 0.1"),
    ):
        with pytest.raises(SettingError, match=message):
            B.minimise(lambda v, step: B.sum(v["a"]), x, optimizer, 1, lambda *_: False)
