"""The laws of the Backend protocol, for NumPy and torch side by side."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from rebasin_core.backends import get_backend
from rebasin_core.errors import NonFiniteError, SettingError, UnsupportedArrayError
from rebasin_core.optimizers import SGD, Adam

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4))
Y = RNG.normal(size=(3, 1))
SQUARE = RNG.normal(size=(2, 3, 3))
DEFINITE = SQUARE @ np.swapaxes(SQUARE, -1, -2) + 3.0 * np.eye(3)
RIGHT = RNG.normal(size=(2, 3, 2))
INDICES = RNG.integers(0, 4, size=(2, 3, 2))

# Each is given the backend, the argument and `c`, which makes a constant array of the argument's dtype.
OPERATIONS = {
    "exp": (lambda B, x, c: B.exp(x), X),
    "log": (lambda B, x, c: B.log(B.exp(x) + 1.0), X),
    "abs": (lambda B, x, c: B.abs(x), X),
    "sqrt": (lambda B, x, c: B.sqrt(x * x + 1.0), X),
    "maximum": (lambda B, x, c: B.maximum(x, c(Y)), X),
    "maximum with a number": (lambda B, x, c: B.maximum(x, 0.1), X),
    "maximum of ties": (lambda B, x, c: B.maximum(x, 1.0 * x), X),
    "minimum": (lambda B, x, c: B.minimum(c(Y), x), X),
    "where": (lambda B, x, c: B.where(c(X) > 0, x, 2.0), X),
    "where broadcast": (lambda B, x, c: B.where(c(X) > 0, 0.0, x), Y),
    "sum": (lambda B, x, c: B.sum(x, axis=(0, -1)), X),
    "sum of all": (lambda B, x, c: B.sum(x), X),
    "sum of all, axes kept": (lambda B, x, c: B.sum(x, keepdims=True), X),
    "max": (lambda B, x, c: B.max(x, axis=-2, keepdims=True), X),
    "min": (lambda B, x, c: B.min(x, axis=-2, keepdims=True), X),
    "max over axes": (lambda B, x, c: B.max(x, axis=(-2, -1)), X),
    "max of all": (lambda B, x, c: B.max(x), X),
    "max of ties": (lambda B, x, c: B.max(x * 0.0), X),
    "logsumexp": (lambda B, x, c: B.logsumexp(x, axis=-1, keepdims=True), X),
    "reshape": (lambda B, x, c: B.reshape(x, (4, -1)), X),
    "moveaxis": (lambda B, x, c: B.moveaxis(x, 0, -1), X),
    "matrix_transpose": (lambda B, x, c: B.matrix_transpose(x), X),
    "concat": (lambda B, x, c: B.concat([x, 2.0 * x], axis=1), X),
    "split": (lambda B, x, c: B.split(x, [1, 3], axis=-1)[1], X),
    "stack": (lambda B, x, c: B.stack([x, x * x], axis=1), X),
    "take": (lambda B, x, c: B.take(x, B.asarray([2, 0, 2], like=x, dtype="int64"), axis=-2), X),
    "take_along_axis": (lambda B, x, c: B.take_along_axis(x, B.asarray(INDICES, like=x, dtype="int64"), axis=-1), X),
    "matmul": (lambda B, x, c: B.matmul(c(SQUARE), x), X),
    "matmul broadcast": (lambda B, x, c: B.matmul(c(SQUARE), x), Y),
    "matmul transposed": (lambda B, x, c: B.matmul(x, c(X), transpose_y=True), X),
    "matmul of one": (lambda B, x, c: B.matmul(x[:1], x[:1], transpose_y=True), X),
    "vmap": (
        lambda B, x, c: B.vmap(lambda row: B.sum(row["x"] * row["y"] ** 2, axis=-1), {"x": x, "y": c(X)}),
        X,
    ),
    "cholesky_solve": (lambda B, x, c: B.cholesky_solve(c(DEFINITE), x), RIGHT),
    "cholesky_solve in the matrix": (
        lambda B, x, c: B.cholesky_solve(B.matmul(x, B.matrix_transpose(x)) + c(3.0 * np.eye(3)), c(RIGHT)),
        SQUARE,
    ),
    "asarray": (lambda B, x, c: B.asarray(x, like=x), X),
}


def evaluate(backend, name, dtype):
    """Value, and gradient of the sum of squares, as NumPy arrays."""
    operation, values = OPERATIONS[name]
    B, x = backend.of, backend.array(values.astype(dtype))
    before = B.to_numpy(x)

    def constant(values):
        return backend.array(values.astype(dtype))

    value = operation(B, x, constant)
    _, gradients = B.value_and_grad(lambda v: B.sum(operation(B, v["x"], constant) ** 2), {"x": x})
    assert_array_equal(B.to_numpy(x), before)
    assert B.dtype(value) == B.dtype(gradients["x"]) == dtype
    return B.to_numpy(value), B.to_numpy(gradients["x"])


@pytest.fixture
def torch_and_numpy():
    """Both backends, whatever `backend` is."""
    from types import SimpleNamespace

    return (
        SimpleNamespace(of=get_backend(torch.zeros(1)), array=lambda x: torch.tensor(np.array(x))),
        SimpleNamespace(of=get_backend(np.zeros(1)), array=np.asarray),
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_value_and_gradient_are_those_of_numpy(torch_and_numpy, name):
    ours, theirs = torch_and_numpy
    for found, expected in zip(evaluate(ours, name, "float64"), evaluate(theirs, name, "float64"), strict=True):
        assert found.shape == expected.shape
        assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", OPERATIONS)
def test_single_precision_is_kept(torch_and_numpy, name):
    ours, theirs = torch_and_numpy
    for found, expected in zip(evaluate(ours, name, "float32"), evaluate(theirs, name, "float64"), strict=True):
        assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "ties" not in name])
def test_second_derivatives_are_differences(name):
    operation, values = OPERATIONS[name]
    B = get_backend(torch.zeros(1))
    x = torch.tensor(values, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: operation(B, x, torch.tensor), (x,))


# --- laws of both, with one test --------------------------------------------------------------------------------------
def test_asarray_follows_like_and_dtype(backend):
    B, like = backend.of, backend.array(np.zeros(2, dtype=np.float32))
    assert B.dtype(B.asarray([1, 2], like=like)) == "float32"
    assert B.dtype(B.asarray([1, 2], like=like, dtype="int64")) == "int64"
    assert B.dtype(B.asarray(range(4), like=like)) == "float32"
    assert B.shape(B.asarray(0.5, like=like)) == ()
    assert_array_equal(B.to_numpy(B.asarray(range(1, 7, 2), like=like)), [1, 3, 5])
    full = B.full((2, 3), 0.1, like)
    assert (B.shape(full), B.dtype(full)) == ((2, 3), "float32")


def test_to_numpy_is_a_copy(backend):
    B, x = backend.of, backend.array(np.ones(3))
    B.to_numpy(x)[0] = 5.0
    assert_array_equal(B.to_numpy(x), 1.0)
    assert B.is_concrete(x)


def test_argmax_isfinite_any(backend):
    B = backend.of
    assert_array_equal(B.to_numpy(B.argmax(backend.array([[1.0, 3.0, 3.0]]), axis=-1)), [1])
    assert_array_equal(B.to_numpy(B.isfinite(backend.array([0.0, np.nan, np.inf]))), [True, False, False])
    assert B.any(backend.array([False, True]))
    assert not B.any(backend.array([False]))


def test_logsumexp_neither_over_nor_underflows(backend):
    B = backend.of
    assert_allclose(B.to_numpy(B.logsumexp(backend.array([1e4, 1e4]), axis=0)), 1e4 + np.log(2.0))
    assert_allclose(B.to_numpy(B.logsumexp(backend.array([-1e4, -1e4]), axis=0)), -1e4 + np.log(2.0))
    assert_array_equal(B.to_numpy(B.logsumexp(backend.array(np.full((2, 2), -np.inf)), axis=1)), -np.inf)


def test_cholesky_solve_broadcasts_and_is_nan_only_where_not_definite(backend):
    B = backend.of
    single = B.cholesky_solve(backend.array(DEFINITE[0]), backend.array(RIGHT))
    assert_allclose(B.to_numpy(single), np.linalg.solve(DEFINITE[0], RIGHT))
    mixed = backend.array(np.stack([np.eye(2), -np.eye(2)]).astype(np.float32))
    solution = B.cholesky_solve(mixed, backend.array(np.ones((2, 2, 1), dtype=np.float32)))
    assert_array_equal(B.to_numpy(solution)[0], 1.0)
    assert np.isnan(B.to_numpy(solution)[1]).all()
    assert B.dtype(solution) == "float32"


def test_control_flow(backend):
    B = backend.of
    count, total = B.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, s[1] + s[0]), (0, backend.array(0.0)))
    assert (count, float(total)) == (5, 10.0)
    for predicate, expected in ((True, 2.0), (False, 1.0)):
        assert B.cond(backend.array(predicate), lambda x: 2 * x, lambda x: x, backend.array(1.0)) == expected


def test_stop_gradient_is_a_constant(backend):
    B = backend.of
    value, gradient = B.value_and_grad(lambda v: v["x"] * B.stop_gradient(v["x"]), {"x": backend.array(3.0)})
    assert (value, float(gradient["x"])) == (9.0, 3.0)


def test_custom_vjp_is_used(backend):
    # Twice the derivative of the cube, so that it shows which one is used; the second argument is constant.
    B = backend.of
    cube = B.custom_vjp(lambda x, y: x**3 + y, lambda g, output, x, y: (g * 6.0 * x**2, None))
    _, gradient = B.value_and_grad(lambda v: cube(v["x"], v["x"]), {"x": backend.array(2.0)})
    assert float(gradient["x"]) == 24.0


def test_a_variable_that_does_not_matter_has_gradient_zero(backend):
    B = backend.of
    x = {"a": backend.array(np.ones(2)), "b": backend.array(np.ones(3))}
    _, gradient = B.value_and_grad(lambda v: B.sum(v["a"] ** 2), x)
    assert_array_equal(B.to_numpy(gradient["b"]), np.zeros(3))


def run_adam(backend, fun, x, num_steps=200, stop_at=None):
    seen = []

    def callback(step, value, variables):
        seen.append((step, value, variables))
        return step == stop_at

    backend.of.minimise(fun, x, Adam(0.1), num_steps, callback)
    return seen


def test_adam_minimises_keeps_dtypes_and_shows_the_variables_before_each_step(backend):
    B = backend.of
    x = {"a": backend.array(np.full((2, 2), 3.0, dtype=np.float32)), "b": backend.array(-2.0)}
    before = {name: B.to_numpy(values) for name, values in x.items()}
    seen = run_adam(backend, lambda x, step: B.sum((x["a"] - 1.0) ** 2) + x["b"] ** 2, x)
    assert [step for step, _, _ in seen] == list(range(200))
    assert_array_equal(B.to_numpy(seen[0][2]["a"]), before["a"])
    assert isinstance(seen[0][1], float)
    assert seen[0][1] == 20.0
    assert seen[-1][1] < 1e-2
    assert (B.dtype(seen[-1][2]["a"]), B.shape(seen[-1][2]["b"])) == ("float32", ())
    for name, values in x.items():
        assert_array_equal(B.to_numpy(values), before[name])


def test_adam_takes_the_same_steps_in_both(torch_and_numpy):
    target = RNG.normal(size=(3, 4))
    paths = []
    for backend in torch_and_numpy:
        B, c = backend.of, backend.array(target)
        start = {"x": backend.array(np.zeros((3, 4)))}
        seen = run_adam(backend, lambda v, step, B=B, c=c: B.sum(B.exp(v["x"] * c) - v["x"]), start, num_steps=30)
        paths.append([B.to_numpy(variables["x"]) for _, _, variables in seen])
    assert_allclose(paths[0], paths[1], rtol=1e-9, atol=1e-12)


def test_adam_stops_when_told(backend):
    seen = run_adam(backend, lambda x, step: backend.of.sum(x["a"]), {"a": backend.array(np.ones(1))}, stop_at=3)
    assert len(seen) == 4


def test_adam_refuses_what_is_not_finite(backend):
    B, x = backend.of, {"a": backend.array(np.ones(1))}
    with pytest.raises(NonFiniteError, match="loss is nan at step 0"):
        run_adam(backend, lambda x, step: B.sum(x["a"]) * np.nan, x)
    infinite = B.custom_vjp(lambda x: B.sum(x), lambda g, output, x: (B.full((1,), np.inf, x),))
    with pytest.raises(NonFiniteError, match="gradient of 'a'"):
        run_adam(backend, lambda x, step: infinite(x["a"]), x)


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
def test_every_optimiser_follows_the_textbook(backend, name):
    B = backend.of
    x = np.array([1.0, -2.0, 0.5], np.float32)
    path = steps_of(B, lambda v, step: B.sum(v["a"] ** 2), {"a": backend.array(x)}, OPTIMIZERS[name])
    for found, wanted in zip(path, expected_steps(OPTIMIZERS[name], x, lambda x: 2 * x, 4), strict=True):
        assert_allclose(found["a"], wanted, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("second", ["decay", "momentum", "clipped"])
def test_two_optimisers_do_to_each_variable_what_they_do_alone(backend, second):
    B = backend.of
    first, other = OPTIMIZERS["adam"], OPTIMIZERS[second]
    x = {"a": backend.array(np.ones((2, 2), np.float32)), "b": backend.array(np.array([3.0, -4.0], np.float32))}

    def fun(v, step):
        return sum(B.sum(values**2) for values in v.values())

    both = steps_of(B, fun, x, {"a": first, "b": other})
    for name, optimizer in (("a", first), ("b", other)):
        alone = steps_of(B, fun, {name: x[name]}, optimizer)
        assert_allclose([here[name] for here in both], [here[name] for here in alone], rtol=1e-6)


def test_the_first_step_of_sgd_is_the_gradient_and_clipping_bounds_that_of_a_whole_group(backend):
    B = backend.of
    x = {"a": backend.array(np.array([3.0], np.float32)), "b": backend.array(np.array([4.0], np.float32))}

    def fun(v, step):
        return B.sum(v["a"] ** 2) + B.sum(v["b"] ** 2)

    _, after = steps_of(B, fun, x, SGD(0.25), 1)
    assert_allclose([after["a"][0], after["b"][0]], [3.0 - 0.25 * 6.0, 4.0 - 0.25 * 8.0], rtol=1e-6)
    _, after = steps_of(B, fun, x, SGD(0.25, clip=1.0), 1)
    assert_allclose([3.0 - after["a"][0], 4.0 - after["b"][0]], [0.25 * 0.6, 0.25 * 0.8], rtol=1e-5)
    _, after = steps_of(B, fun, x, {"a": SGD(0.25, clip=1.0), "b": SGD(0.5, clip=1.0)}, 1)
    assert_allclose([3.0 - after["a"][0], 4.0 - after["b"][0]], [0.25, 0.5], rtol=1e-5)


def test_what_is_returned_is_what_the_callback_would_see_next(backend):
    B = backend.of
    x = {"a": backend.array(np.ones(2, np.float32))}

    def fun(v, step):
        return B.sum(v["a"] ** 2)

    long, short = steps_of(B, fun, x, SGD(0.1), 5), steps_of(B, fun, x, SGD(0.1), 3)
    assert_array_equal(short[-1]["a"], long[3]["a"])
    stopped = B.minimise(fun, x, SGD(0.1), 5, lambda step, value, here: step == 2)
    assert_array_equal(B.to_numpy(stopped["a"]), long[2]["a"])


def test_every_variable_needs_an_optimiser_and_no_more(backend):
    B = backend.of
    x = {"a": backend.array(np.ones(1, np.float32))}
    for optimizer, message in (
        ({}, "no optimiser: 'a'"),
        ({"a": SGD(1.0), "c": SGD(1.0)}, "no variable: 'c'"),
        (0.1, "got 0.1"),
    ):
        with pytest.raises(SettingError, match=message):
            B.minimise(lambda v, step: B.sum(v["a"]), x, optimizer, 1, lambda *_: False)


# --- torch alone ------------------------------------------------------------------------------------------------------
B = get_backend(torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_has_its_name_and_survives_the_way_to_numpy(dtype):
    x = torch.tensor([0.5, -2.0], dtype=dtype, requires_grad=True)
    name = str(dtype).split(".")[1]
    assert B.dtype(x) == name
    assert B.asarray(np.array([1.0]), like=x).dtype == dtype
    assert B.astype(x.double(), name).dtype == dtype
    assert_array_equal(B.to_numpy(x), [0.5, -2.0])
    assert B.to_numpy(x).dtype == (np.float32 if dtype is torch.bfloat16 else name)


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


def test_half_precision_variables_take_small_steps():
    # In bfloat16 itself, 4 + 0.005 is 4: nothing would ever move.
    seen = []
    B.minimise(
        lambda v, step: B.sum(v["x"]),
        {"x": torch.full((1,), 4.0, dtype=torch.bfloat16)},
        Adam(0.005),
        20,
        lambda step, value, x: seen.append(x["x"]),
    )
    assert seen[-1].dtype == torch.bfloat16
    assert float(seen[-1]) < 3.95


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
