"""The laws of the Backend protocol, for the framework under Keras; torch has tests of its own."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.backends import get_backend
from rebasin_core.errors import NonFiniteError, SettingError
from rebasin_core.optimizers import SGD, Adam

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4))
Y = RNG.normal(size=(3, 1))
SQUARE = RNG.normal(size=(2, 3, 3))
DEFINITE = SQUARE @ np.swapaxes(SQUARE, -1, -2) + 3.0 * np.eye(3)
RIGHT = RNG.normal(size=(2, 3, 2))
INDICES = RNG.integers(0, 4, size=(2, 3, 2))

# name: (operation on (backend, x, as_array), x, the same in NumPy)
OPERATIONS = {
    "asarray": (lambda B, x, a: B.asarray(x, like=x), X, lambda x: x),
    "exp": (lambda B, x, a: B.exp(x), X, np.exp),
    "log": (lambda B, x, a: B.log(B.exp(x) + 1.0), X, lambda x: np.log1p(np.exp(x))),
    "abs": (lambda B, x, a: B.abs(x), X, np.abs),
    "sqrt": (lambda B, x, a: B.sqrt(x * x + 1.0), X, lambda x: np.sqrt(x * x + 1.0)),
    "maximum": (lambda B, x, a: B.maximum(x, a(Y, x)), X, lambda x: np.maximum(x, Y)),
    "maximum with a number": (lambda B, x, a: B.maximum(x, 0.1), X, lambda x: np.maximum(x, 0.1)),
    "maximum broadcast": (lambda B, x, a: B.maximum(x, a(X, x)), Y, lambda x: np.maximum(x, X)),
    "minimum": (lambda B, x, a: B.minimum(a(Y, x), x), X, lambda x: np.minimum(x, Y)),
    "where": (lambda B, x, a: B.where(a(X, x) > 0, x, 2.0), X, lambda x: np.where(X > 0, x, 2.0)),
    "where broadcast": (lambda B, x, a: B.where(a(X, x) > 0, 0.0, x), Y, lambda x: np.where(X > 0, 0.0, x)),
    "sum": (lambda B, x, a: B.sum(x, axis=(0, -1)), X, lambda x: x.sum((0, 2))),
    "sum of all": (lambda B, x, a: B.sum(x), X, np.sum),
    "max": (lambda B, x, a: B.max(x, axis=-2, keepdims=True), X, lambda x: x.max(-2, keepdims=True)),
    "min": (lambda B, x, a: B.min(x, axis=-2, keepdims=True), X, lambda x: x.min(-2, keepdims=True)),
    "max over axes": (lambda B, x, a: B.max(x, axis=(-2, -1)), X, lambda x: x.max((-2, -1))),
    "max of all": (lambda B, x, a: B.max(x), X, np.max),
    "logsumexp": (lambda B, x, a: B.logsumexp(x, axis=-1), X, lambda x: np.log(np.exp(x).sum(-1))),
    "reshape": (lambda B, x, a: B.reshape(x, (4, -1)), X, lambda x: x.reshape(4, 6)),
    "moveaxis": (lambda B, x, a: B.moveaxis(x, 0, -1), X, lambda x: np.moveaxis(x, 0, -1)),
    "moveaxis back": (lambda B, x, a: B.moveaxis(x, -1, 1), X, lambda x: np.moveaxis(x, -1, 1)),
    "matrix_transpose": (lambda B, x, a: B.matrix_transpose(x), X, lambda x: np.swapaxes(x, -1, -2)),
    "concat": (lambda B, x, a: B.concat([x, 2.0 * x], axis=1), X, lambda x: np.concatenate([x, 2 * x], axis=1)),
    "split": (lambda B, x, a: B.split(x, [1, 3], axis=-1)[1], X, lambda x: x[..., 1:]),
    "stack": (lambda B, x, a: B.stack([x, x * x], axis=1), X, lambda x: np.stack([x, x * x], axis=1)),
    "take": (
        lambda B, x, a: B.take(x, B.asarray(np.array([2, 0, 2]), like=x, dtype="int64"), axis=-2),
        X,
        lambda x: np.take(x, [2, 0, 2], axis=-2),
    ),
    "take first": (
        lambda B, x, a: B.take(x, B.asarray(np.array([1, 1]), like=x, dtype="int64"), axis=0),
        X,
        lambda x: np.take(x, [1, 1], axis=0),
    ),
    "take_along_axis": (
        lambda B, x, a: B.take_along_axis(x, B.asarray(INDICES, like=x, dtype="int64"), axis=-1),
        X,
        lambda x: np.take_along_axis(x, INDICES, axis=-1),
    ),
    "take_along_axis inside": (
        lambda B, x, a: B.take_along_axis(
            x, B.asarray(INDICES[:, :1].repeat(2, -1) % 3, like=x, dtype="int64"), axis=1
        ),
        X,
        lambda x: np.take_along_axis(x, INDICES[:, :1].repeat(2, -1) % 3, axis=1),
    ),
    "matmul": (lambda B, x, a: B.matmul(a(SQUARE, x), x), X, lambda x: SQUARE @ x),
    "matmul broadcast": (lambda B, x, a: B.matmul(a(SQUARE, x), x), Y, lambda x: SQUARE @ x),
    "matmul transposed": (
        lambda B, x, a: B.matmul(x, a(X, x), transpose_y=True),
        X,
        lambda x: x @ X.swapaxes(-1, -2),
    ),
    "matmul of one": (
        lambda B, x, a: B.matmul(x[:1], x[:1], transpose_y=True),
        X,
        lambda x: x[:1] @ x[:1].swapaxes(-1, -2),
    ),
    "vmap": (
        lambda B, x, a: B.vmap(lambda row: B.sum(row["x"] * row["y"] ** 2, axis=-1), {"x": x, "y": a(X, x)}),
        X,
        lambda x: (x * X**2).sum(-1),
    ),
    "cholesky_solve": (
        lambda B, x, a: B.cholesky_solve(a(DEFINITE, x), x),
        RIGHT,
        lambda x: np.linalg.solve(DEFINITE, x),
    ),
    "cholesky_solve broadcast": (
        lambda B, x, a: B.cholesky_solve(a(DEFINITE[:1], x), x),
        RIGHT,
        lambda x: np.linalg.solve(DEFINITE[:1], x),
    ),
}


@pytest.fixture(scope="module")
def backend(framework):
    if framework.name == "torch":
        pytest.skip("the backend of torch is tested in tests/adapters/torch")
    return get_backend(framework.array(np.float32(0)))


def like(backend):
    return lambda values, x: backend.asarray(values, like=x)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_that_of_numpy_and_is_differentiable(framework, backend, name):
    operation, values, expected = OPERATIONS[name]
    if "broadcast" in name and "INDICES" in name:
        pytest.skip("indices do not broadcast")
    x = framework.array(values)
    weight = np.random.default_rng(1).normal(size=np.shape(expected(values)))

    def weighted(x):
        return framework.sum(operation(backend, x, like(backend)) * framework.array(weight))

    assert_allclose(backend.to_numpy(operation(backend, x, like(backend))), expected(values), rtol=1e-12)
    gradient = backend.to_numpy(framework.grad(weighted)(x) + framework.array(np.zeros(values.shape)))
    direction = np.random.default_rng(2).normal(size=values.shape)
    step = 1e-6
    difference = np.sum((expected(values + step * direction) - expected(values - step * direction)) * weight) / (
        2 * step
    )
    assert_allclose(np.sum(gradient * direction), difference, rtol=1e-6, atol=1e-8)
    assert_array_equal(backend.to_numpy(x), values)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_and_its_gradient_keep_single_precision(framework, backend, name):
    operation, values, expected = OPERATIONS[name]
    x = framework.array(values.astype(np.float32))
    found = operation(backend, x, like(backend))
    assert backend.dtype(found) == "float32"
    assert_allclose(backend.to_numpy(found), expected(values), rtol=1e-4, atol=1e-5)
    gradient = framework.grad(lambda x: framework.sum(operation(backend, x, like(backend))))(x)
    assert "float32" in str(gradient.dtype)


# --- creating, converting ---------------------------------------------------------------------------------------------
def test_asarray_follows_like_and_dtype(framework, backend):
    single = framework.array(np.zeros(2, np.float32))
    assert backend.dtype(backend.asarray([1, 2], like=single)) == "float32"
    assert backend.dtype(backend.asarray(np.arange(3.0), like=single)) == "float32"
    assert "int" in backend.dtype(backend.asarray([1, 2], like=single, dtype="int64"))
    assert_array_equal(backend.to_numpy(backend.asarray(range(3), like=single)), [0.0, 1.0, 2.0])
    assert backend.shape(backend.asarray(0.5, like=single)) == ()
    full = backend.full((2, 3), 0.1, single)
    assert (backend.shape(full), backend.dtype(full)) == ((2, 3), "float32")
    narrow = backend.astype(single, "bfloat16")
    assert backend.to_numpy(narrow).dtype == np.float32
    assert backend.to_numpy(backend.astype(single, "float16")).dtype == np.float16


def test_to_numpy_is_a_copy(framework, backend):
    x = framework.array(np.ones(3, np.float32))
    backend.to_numpy(x)[0] = 5.0
    assert_array_equal(backend.to_numpy(x), 1.0)
    assert backend.is_concrete(x)
    assert backend.is_concrete(x > 0)


def test_nothing_is_concrete_under_compilation(framework, backend):
    constant, seen = framework.array(np.ones(3, np.float32)), []

    def fun(x):
        seen.extend(map(backend.is_concrete, (x, constant, constant > 0, x + constant)))
        return x

    framework.jit(fun)(constant)
    assert not any(seen)
    framework.grad(lambda x: (seen.append(backend.is_concrete(x)), framework.sum(x * x))[1])(constant)
    assert seen[-1]


# --- corners ----------------------------------------------------------------------------------------------------------
def test_ties_of_max_share_the_derivative(framework, backend):
    x = framework.array(np.array([1.0, 1.0, 0.0], np.float32))
    assert_array_equal(backend.to_numpy(framework.grad(backend.max)(x)), [0.5, 0.5, 0.0])


def test_argmax_isfinite_any(framework, backend):
    a = framework.array
    assert_array_equal(backend.to_numpy(backend.argmax(a(np.array([[1.0, 3.0, 3.0]], np.float32)), axis=-1)), [1])
    odd = a(np.array([0.0, np.nan, np.inf], np.float32))
    assert_array_equal(backend.to_numpy(backend.isfinite(odd)), [True, False, False])
    assert_array_equal(backend.to_numpy(backend.isfinite(a(np.array([1, 2])))), [True, True])
    assert backend.any(backend.isfinite(odd))
    assert not backend.any(a(np.array([False])))


def test_logsumexp_neither_over_nor_underflows(framework, backend):
    huge = framework.array(np.array([1e4, 1e4], np.float32))
    assert_allclose(backend.to_numpy(backend.logsumexp(huge, axis=0)), 1e4 + np.log(2.0))
    empty = framework.array(np.full(2, -np.inf, np.float32))
    assert backend.to_numpy(backend.logsumexp(empty, axis=0)) == -np.inf


def test_cholesky_solve_marks_what_is_not_definite(framework, backend):
    matrices = framework.array(np.stack([np.eye(2), -np.eye(2)]).astype(np.float32))
    solution = backend.to_numpy(backend.cholesky_solve(matrices, framework.array(np.ones((2, 2, 1), np.float32))))
    assert_array_equal(solution[0], 1.0)
    assert np.isnan(solution[1]).all()


def test_control_flow_counts_with_python_ints(framework, backend):
    def fun(x):
        count, total = backend.while_loop(
            lambda state: (state[0] < 5) & backend.any(state[1] >= 0.0),
            lambda state: (state[0] + 1, state[1] + x),
            (0, x * 0.0),
        )
        doubled = backend.cond(backend.any(total > 3.0), lambda y: 2.0 * y, lambda y: y, total)
        return doubled + backend.asarray(count, like=x)

    two = framework.array(np.float32(2.0))
    for run in (lambda f: f, framework.jit):
        assert_allclose(backend.to_numpy(run(fun)(two)), 25.0)


# --- gradients --------------------------------------------------------------------------------------------------------
def test_custom_vjp_is_used_and_differentiated(framework, backend):
    # Twice the derivative of the cube, so that it shows which one is used; the second argument is constant.
    cube = backend.custom_vjp(lambda x, y: x**3 + y, lambda g, output, x, y: (g * 6.0 * x**2, None))
    one, two = framework.array(np.float32(1.0)), framework.array(np.float32(2.0))
    for run in (lambda f: f, framework.jit):
        assert_allclose(backend.to_numpy(run(framework.grad(lambda t: cube(t, one)))(two)), 24.0)
        second = framework.grad(framework.grad(lambda t: cube(t, one)))
        assert_allclose(backend.to_numpy(run(second)(two)), 24.0)
        assert_allclose(backend.to_numpy(run(framework.grad(lambda t: cube(t, t)))(two)), 24.0)


def test_custom_vjp_may_use_its_output(framework, backend):
    exp = backend.custom_vjp(backend.exp, lambda g, output, x: (g * output,))
    twice = framework.grad(framework.grad(exp))
    for run in (lambda f: f, framework.jit):
        assert_allclose(backend.to_numpy(run(twice)(framework.array(np.float32(0.5)))), np.exp(0.5), rtol=1e-6)


def test_value_and_grad_of_a_dictionary(framework, backend):
    x = {"a": framework.array(np.ones(2, np.float32)), "b": framework.array(np.full((1, 3), 2.0, np.float32))}
    x["unused"] = x["a"]
    value, gradient = backend.value_and_grad(lambda x: backend.sum(x["a"] ** 2) + backend.sum(x["b"]), x)
    assert isinstance(value, float)
    assert value == 8.0
    assert_array_equal(backend.to_numpy(gradient["a"]), 2.0)
    assert_array_equal(backend.to_numpy(gradient["b"]), np.ones((1, 3)))
    assert_array_equal(backend.to_numpy(gradient["unused"]), 0.0)
    with pytest.raises(SettingError, match="no gradient"):
        backend.value_and_grad(lambda x: 1.0, x)


def run_adam(backend, fun, x, num_steps=200, stop_at=None):
    seen = []

    def callback(step, value, variables):
        seen.append((step, value, variables))
        return step == stop_at

    backend.minimise(fun, x, Adam(0.1), num_steps, callback)
    return seen


def test_adam_minimises_and_keeps_dtypes_and_shapes(framework, backend):
    values = {"a": np.full((2, 2), 3.0, np.float32), "b": np.array(-2.0, np.float16)}
    x = {name: framework.array(v) for name, v in values.items()}

    def fun(x, step):
        return backend.sum((x["a"] - 1.0) ** 2) + backend.astype(x["b"], "float32") ** 2

    seen = run_adam(backend, fun, x)
    assert [step for step, _, _ in seen] == list(range(200))
    assert seen[0][1] == 20.0
    last = seen[-1]
    assert last[1] < 1e-2
    assert (backend.dtype(last[2]["a"]), backend.dtype(last[2]["b"])) == ("float32", "float16")
    assert backend.shape(last[2]["a"]) == (2, 2)
    for name, before in values.items():
        assert_array_equal(backend.to_numpy(x[name]), before)
        assert_array_equal(backend.to_numpy(seen[0][2][name]), before)


def test_adam_is_textbook_adam(framework, backend):
    seen = run_adam(
        backend, lambda x, step: backend.sum(x["a"] ** 2), {"a": framework.array(np.ones(1, np.float32))}, 5
    )
    a, m, v = 1.0, 0.0, 0.0
    for t, (_, _, variables) in enumerate(seen, start=1):
        assert_allclose(backend.to_numpy(variables["a"]), a, rtol=1e-5)
        m, v = 0.9 * m + 0.1 * 2 * a, 0.999 * v + 0.001 * (2 * a) ** 2
        a -= 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def test_adam_stops_when_told_and_refuses_what_is_not_finite(framework, backend):
    one = {"a": framework.array(np.ones(1, np.float32))}
    assert len(run_adam(backend, lambda x, step: backend.sum(x["a"]), one, stop_at=3)) == 4
    with pytest.raises(NonFiniteError, match="loss is nan at step 0"):
        run_adam(backend, lambda x, step: backend.sum(x["a"]) * np.nan, one)
    infinite = backend.custom_vjp(backend.sum, lambda g, output, x: (x * np.inf,))
    with pytest.raises(NonFiniteError, match="gradient of 'a'"):
        run_adam(backend, lambda x, step: infinite(x["a"]), one)
    with pytest.raises(SettingError, match="no variable"):
        run_adam(backend, lambda x, step: None, {})


def steps_of(B, fun, x, optimizer, num_steps=4):
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
def test_every_optimiser_follows_the_textbook(framework, backend, name):
    B = backend
    x = np.array([1.0, -2.0, 0.5], np.float32)
    path = steps_of(B, lambda v, step: B.sum(v["a"] ** 2), {"a": framework.array(x)}, OPTIMIZERS[name])
    for found, wanted in zip(path, expected_steps(OPTIMIZERS[name], x, lambda x: 2 * x, 4), strict=True):
        assert_allclose(found["a"], wanted, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("second", ["decay", "momentum", "clipped"])
def test_two_optimisers_do_to_each_variable_what_they_do_alone(framework, backend, second):
    B = backend
    first, other = OPTIMIZERS["adam"], OPTIMIZERS[second]
    x = {"a": framework.array(np.ones((2, 2), np.float32)), "b": framework.array(np.array([3.0, -4.0], np.float32))}

    def fun(v, step):
        return sum(B.sum(values**2) for values in v.values())

    both = steps_of(B, fun, x, {"a": first, "b": other})
    for name, optimizer in (("a", first), ("b", other)):
        alone = steps_of(B, fun, {name: x[name]}, optimizer)
        assert_allclose([here[name] for here in both], [here[name] for here in alone], rtol=1e-6)


def test_the_first_step_of_sgd_is_the_gradient_and_clipping_bounds_that_of_a_whole_group(framework, backend):
    B = backend
    x = {"a": framework.array(np.array([3.0], np.float32)), "b": framework.array(np.array([4.0], np.float32))}

    def fun(v, step):
        return B.sum(v["a"] ** 2) + B.sum(v["b"] ** 2)

    _, after = steps_of(B, fun, x, SGD(0.25), 1)
    assert_allclose([after["a"][0], after["b"][0]], [3.0 - 0.25 * 6.0, 4.0 - 0.25 * 8.0], rtol=1e-6)
    _, after = steps_of(B, fun, x, SGD(0.25, clip=1.0), 1)
    assert_allclose([3.0 - after["a"][0], 4.0 - after["b"][0]], [0.25 * 0.6, 0.25 * 0.8], rtol=1e-5)
    _, after = steps_of(B, fun, x, {"a": SGD(0.25, clip=1.0), "b": SGD(0.5, clip=1.0)}, 1)
    assert_allclose([3.0 - after["a"][0], 4.0 - after["b"][0]], [0.25, 0.5], rtol=1e-5)


def test_what_is_returned_is_what_the_callback_would_see_next(framework, backend):
    B = backend
    x = {"a": framework.array(np.ones(2, np.float32))}

    def fun(v, step):
        return B.sum(v["a"] ** 2)

    long, short = steps_of(B, fun, x, SGD(0.1), 5), steps_of(B, fun, x, SGD(0.1), 3)
    assert_array_equal(short[-1]["a"], long[3]["a"])
    stopped = B.minimise(fun, x, SGD(0.1), 5, lambda step, value, here: step == 2)
    assert_array_equal(B.to_numpy(stopped["a"]), long[2]["a"])


def test_every_variable_needs_an_optimiser_and_no_more(framework, backend):
    B = backend
    x = {"a": framework.array(np.ones(1, np.float32))}
    for optimizer, message in (
        ({}, "no optimiser: 'a'"),
        ({"a": SGD(1.0), "c": SGD(1.0)}, "no variable: 'c'"),
        (0.1, "got 0.1"),
    ):
        with pytest.raises(SettingError, match=message):
            B.minimise(lambda v, step: B.sum(v["a"]), x, optimizer, 1, lambda *_: False)


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
