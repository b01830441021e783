"""The operator on Keras's framework against the one on NumPy: values, derivatives, compilation."""

import warnings

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rebasin_core as rb
from rebasin_core.backends import get_backend
from rebasin_core.errors import ConvergenceWarning, NonFiniteError, SettingError, ShapeError

RNG = np.random.default_rng(0)
X, G, H = RNG.normal(size=(3, 2, 5, 5))
STOPS = {"fixed": {"tau": 0.3, "num_iters": 20}, "tol": {"tau": 0.1, "tol": 1e-10}}
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(params=STOPS)
def stop(request):
    return STOPS[request.param]


def numpy(x):
    return get_backend(x).to_numpy(x)


def loss(framework, stop, G=G):
    """A square, so that the cotangent depends on the logits too."""
    weight = framework.array(G)
    return lambda X: framework.sum(rb.sinkhorn(X, **stop) ** 2 * weight)


def numpy_gradient(X, stop):
    return autograd.grad(lambda X: anp.sum(rb.sinkhorn(X, **stop) ** 2 * G))(X)


@pytest.fixture(params=["eager", "compiled"])
def run(request, framework):
    """Call a function as it is, or compiled."""
    if request.param == "eager":
        return lambda fun: fun
    if framework.jit is None:
        pytest.skip("torch runs eagerly here")
    return framework.jit


# --- values and derivatives in double precision -----------------------------------------------------------------------
@pytest.mark.usefixtures("wide")
def test_value_is_that_of_numpy(framework, stop, run):
    found = run(lambda X: rb.sinkhorn(X, **stop))(framework.array(X))
    assert_allclose(numpy(found), rb.sinkhorn(X, **stop), **EXACT)


@pytest.mark.usefixtures("wide")
def test_gradient_is_that_of_numpy(framework, stop, run):
    found = run(framework.grad(loss(framework, stop)))(framework.array(X))
    assert_allclose(numpy(found), numpy_gradient(X, stop), **EXACT)


@pytest.mark.usefixtures("wide")
def test_second_derivative_is_that_of_numpy(framework, stop, run):
    gradient, direction = framework.grad(loss(framework, stop)), framework.array(H)
    found = run(framework.grad(lambda X: framework.sum(gradient(X) * direction)))(framework.array(X))
    expected = autograd.grad(lambda X: anp.sum(numpy_gradient(X, stop) * H))(X)
    assert_allclose(numpy(found), expected, **EXACT)


@pytest.mark.usefixtures("wide")
def test_temperature_gradient_is_that_of_numpy(framework, stop, run):
    rest = {k: v for k, v in stop.items() if k != "tau"}
    logits, weight = framework.array(X), framework.array(G)
    found = run(framework.grad(lambda tau: framework.sum(rb.sinkhorn(logits, tau, **rest) * weight)))(
        framework.array(np.array(stop["tau"]))
    )
    expected = autograd.grad(lambda tau: anp.sum(rb.sinkhorn(X, tau, **rest) * G))(stop["tau"])
    assert_allclose(numpy(found), expected, **EXACT)


@pytest.mark.usefixtures("wide")
def test_third_derivative_is_refused(framework):
    stop, logits = {"num_iters": 5}, framework.array(X)

    def derivative(fun):
        return framework.grad(lambda X: framework.sum(fun(X) ** 2))

    second = derivative(derivative(lambda X: rb.sinkhorn(X, **stop)))
    assert np.isfinite(numpy(second(logits))).all()
    with pytest.raises(NotImplementedError, match="third"):
        derivative(second)(logits)


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_rectangles_and_marginals(framework, shape):
    rng = np.random.default_rng(1)
    logits, row, col = rng.normal(size=shape), rng.uniform(0.5, 1.0, shape[0]), rng.uniform(0.5, 1.0, shape[1])
    col *= row.sum() / col.sum()
    for settings in ({"marginals": (row, col), "tol": 1e-10}, {"num_iters": 7}):
        plan, error = rb.sinkhorn(framework.array(logits), return_error=True, **settings)
        expected, expected_error = rb.sinkhorn(logits, return_error=True, **settings)
        assert_allclose(numpy(plan), expected, **EXACT)
        assert_allclose(numpy(error), expected_error, atol=1e-10)


# --- single and half precision ----------------------------------------------------------------------------------------
# 300 columns go the way of conjugate gradients; 16 that of the factorisation.
@pytest.mark.parametrize(("n", "tau"), [(16, 1.0), (16, 0.03), (16, 0.001), (300, 0.1)])
def test_single_precision_is_accurate(framework, n, tau):
    rng = np.random.default_rng(5)
    logits, weight = rng.normal(size=(2, n, n)).astype(np.float32)
    plan, error = rb.sinkhorn(framework.array(logits), tau=tau, tol=1e-4, return_error=True)
    gradient = framework.grad(lambda X: framework.sum(rb.sinkhorn(X, tau=tau, tol=1e-4) * framework.array(weight)))(
        framework.array(logits)
    )
    assert get_backend(plan).dtype(plan) == get_backend(gradient).dtype(gradient) == "float32"
    assert numpy(error) <= 1e-4
    exact = autograd.grad(lambda X: anp.sum(rb.sinkhorn(X, tau=tau, tol=1e-10) * weight))(logits.astype(float))
    assert np.linalg.norm(tau * (numpy(gradient) - exact)) <= 1e-4


def test_low_temperatures_fall_back_to_the_log_domain(framework):
    logits = np.random.default_rng(6).normal(size=(12, 12)).astype(np.float32)
    plan = numpy(rb.sinkhorn(framework.array(logits), tau=0.005, num_iters=10))
    assert_allclose(plan, rb.sinkhorn(logits.astype(float), tau=0.005, num_iters=10), atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_computes_in_single(framework, dtype):
    backend = get_backend(framework.array(X))
    logits = backend.asarray(X, like=framework.array(np.float32(0)), dtype=dtype)
    plan = rb.sinkhorn(logits, tau=0.5)
    gradient = framework.grad(lambda X: framework.sum(rb.sinkhorn(X, tau=0.5)[..., 0]))(logits)
    assert backend.dtype(plan) == backend.dtype(gradient) == dtype
    assert_allclose(backend.to_numpy(plan), rb.sinkhorn(X, tau=0.5), atol=1e-2)


# --- the whole range of exponents ------------------------------------------------------------------------------------
@pytest.mark.parametrize("stop", [{"num_iters": 7}, {"tol": 1e-3}], ids=["iterations", "tolerance"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_any_finite_logits_give_finite_numbers_and_derivatives(framework, dtype, stop):
    rng, like = np.random.default_rng(7), framework.array(np.float32(0))
    backend = get_backend(like)
    highest = 15.9 if dtype == "float16" else 127.9
    size = 2.0 ** rng.uniform(-highest, highest, size=(2, 3, 4)) * rng.choice([-1.0, 1.0], size=(2, 3, 4))
    values = np.where(rng.random((2, 3, 4)) < 0.5, rng.normal(size=(2, 3, 4)), size).astype(np.float32)
    logits = backend.asarray(values, like=like, dtype=dtype)
    found = []

    def loss(X):
        plan, info = rb.sinkhorn(X, 2.0**-20, **stop, info=True)
        found.extend((backend.stop_gradient(plan), *info.potentials, info.error))
        return framework.sum(plan[..., 0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        gradient = numpy(framework.grad(loss)(logits))
    assert all(np.isfinite(numpy(values)).all() for values in found)
    assert_allclose(numpy(found[0]).astype(float).sum(axis=-1), 1.0, rtol=2e-2)
    assert not np.isnan(gradient).any()
    assert np.isfinite(gradient).all() or dtype == "float16"


@pytest.mark.usefixtures("wide")
def test_what_is_told_beside_a_plan_is_that_of_numpy(framework, stop, run):
    found, info = run(lambda X: rb.sinkhorn(X, **stop, info=True))(framework.array(X))
    plan, told = rb.sinkhorn(X, **stop, info=True)
    assert_allclose(numpy(found), plan, **EXACT)
    for there, here in zip(info.potentials, told.potentials, strict=True):
        assert_allclose(
            numpy(there) - numpy(there).mean(-1, keepdims=True), here - here.mean(-1, keepdims=True), atol=1e-7
        )
    assert int(info.iterations) == told.iterations
    again = run(lambda X, start: rb.sinkhorn(X, **stop, start=start))(framework.array(X), info.potentials)
    assert_allclose(numpy(again), rb.sinkhorn(X, **stop, start=told.potentials), **EXACT)


@pytest.mark.usefixtures("wide")
def test_mixed_derivative_in_temperature_is_that_of_numpy(framework, stop):
    rest = {k: v for k, v in stop.items() if k != "tau"}
    weight, tau = framework.array(G), framework.array(np.array(stop["tau"]))

    def by_tau(X):
        return framework.grad(lambda tau: framework.sum(rb.sinkhorn(X, tau, **rest) * weight))(tau)

    expected = autograd.grad(
        lambda X: autograd.grad(lambda tau: anp.sum(rb.sinkhorn(X, tau, **rest) * G))(stop["tau"])
    )(X)
    assert_allclose(numpy(framework.grad(by_tau)(framework.array(X))), expected, rtol=1e-7, atol=1e-8)


# --- arguments --------------------------------------------------------------------------------------------------------
def test_logits_are_left_as_they_are_and_checked(framework):
    values = X.astype(np.float32)
    logits = framework.array(values)
    framework.grad(lambda X: framework.sum(rb.sinkhorn(X)))(logits)
    assert_array_equal(numpy(logits), values)
    values[0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError):
        rb.sinkhorn(framework.array(values))
    with pytest.raises(SettingError, match="tau"):
        rb.sinkhorn(logits, tau=framework.array(np.float32(-1.0)))


def test_what_came_in_under_compilation_is_not_read(framework):
    if framework.jit is None:
        pytest.skip("torch runs eagerly here")
    constant = framework.array(X.astype(np.float32))
    compiled = framework.jit(lambda tau: rb.sinkhorn(constant, tau, tol=1e-5))
    assert_allclose(numpy(compiled(framework.array(np.float32(0.5)))), rb.sinkhorn(X, 0.5, tol=1e-9), atol=1e-5)


def test_tf_function_converts_the_code_too(framework):
    tf = pytest.importorskip("tensorflow")
    if framework.name != "tensorflow":
        pytest.skip("of TensorFlow alone")
    logits = tf.Variable(X)
    compiled = tf.function(lambda: rb.sinkhorn(logits, tau=0.1, tol=1e-6))
    assert_allclose(compiled().numpy(), rb.sinkhorn(X, tau=0.1, tol=1e-6), atol=1e-6)
    by_xla = tf.function(lambda: rb.sinkhorn(logits, tau=0.3), autograph=False, jit_compile=True)
    assert_allclose(by_xla().numpy(), rb.sinkhorn(X, tau=0.3), **EXACT)
    unknown = tf.function(lambda x: rb.sinkhorn(x), input_signature=[tf.TensorSpec((None, 3, 3))], autograph=False)
    with pytest.raises(ShapeError, match="sizes are known"):
        unknown(np.zeros((2, 3, 3), "float32"))


def test_eager_tensorflow_compiles_what_is_called_often(framework):
    tf = pytest.importorskip("tensorflow")
    if framework.name != "tensorflow":
        pytest.skip("of TensorFlow alone")
    from rebasin_keras.tensorflow_gradients import custom_vjp

    runs = []

    def primal(x):
        runs.append(x)
        return x * x

    square = custom_vjp(primal, lambda cotangent, output, x: (2.0 * x * cotangent,))
    for value in range(40):
        x = tf.constant([float(value)])
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = square(x)
            slope = inner.gradient(y, x)
        assert (y.numpy().item(), slope.numpy().item()) == (value**2, 2 * value)
        assert outer.gradient(slope, x).numpy().item() == 2.0
    assert len(runs) == 20 + 1  # eager calls, and the one that builds the graph
    square(tf.constant([1.0, 2.0]))
    assert len(runs) == 22


def test_the_compiled_operator_is_the_eager_one(framework):
    tf = pytest.importorskip("tensorflow")
    if framework.name != "tensorflow":
        pytest.skip("of TensorFlow alone")
    logits, G = tf.constant(X), tf.constant(X[::-1].copy())

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.reduce_sum(rb.sinkhorn(logits, tau=0.3, num_iters=17) * G)
        return tape.gradient(loss, logits).numpy()

    eager, *_, compiled = (gradients() for _ in range(25))
    assert_allclose(compiled, eager, **EXACT)
