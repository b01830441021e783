"""`check_backend`: every kind of wrong backend is caught, by the law it breaks."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from autograd.extend import primitive

from rebasin_core.backends.autograd_numpy import AutogradBackend
from rebasin_core.errors import LawError
from rebasin_core.testing import check_backend


def flawed(**methods):
    """NumPy's backend with some methods replaced; each is given the right backend first."""
    right = AutogradBackend()

    def method(flaw):
        return lambda self, *args, **kwargs: flaw(right, *args, **kwargs)

    return type("Flawed", (AutogradBackend,), {name: method(flaw) for name, flaw in methods.items()})()


def edits_its_argument(B, x):
    result = B.exp(x)
    if isinstance(x, np.ndarray):
        x += 1.0
    return result


class PlainSteps:
    """Steps against the gradient."""

    def __init__(self, B, optimizer, variables):
        self.rate, self.x = optimizer.learning_rate, {name: np.array(x) for name, x in variables.items()}

    def read(self):
        return {name: x.copy() for name, x in self.x.items()}

    def update(self, gradients):
        for name, x in self.x.items():
            x -= self.rate * gradients[name]


class ShowsWhatItEdits(PlainSteps):
    def read(self):
        return self.x


class StepsInHalfPrecision(PlainSteps):
    def read(self):
        return {name: x.astype(np.float16) for name, x in self.x.items()}

    def update(self, gradients):
        super().update(gradients)
        self.x = self.read()


def forgets_unused(B, fun, x):
    value, gradients = B.value_and_grad(fun, x)
    return value, {name: g for name, g in gradients.items() if np.any(g)}


# What is wrong, the law that must be among the broken ones, and words of what was found.
FLAWS = {
    "a sum that ignores keepdims": (
        {"sum": lambda B, x, axis=None, keepdims=False: B.sum(x, axis)},
        "sum, axes kept (float64)",
        r"shape (2, 4), expected (2, 1, 4)",
    ),
    "the wrong axis": ({"argmax": lambda B, x, axis: B.argmax(x, 0)}, "argmax, isfinite and any", "shape (3,)"),
    "a result in double precision": (
        {"sqrt": lambda B, x: B.astype(B.sqrt(x), "float64")},
        "sqrt (float32)",
        "it made float64 of float32",
    ),
    "a wrong value": ({"log": lambda B, x: 1.001 * B.log(x)}, "log (float64)", "the result is off by up to"),
    "a gradient that is cut": (
        {"exp": lambda B, x: B.exp(B.stop_gradient(x)) + 0.0 * x},
        "exp (float64)",
        "the gradient",
    ),
    "an edited argument": ({"exp": edits_its_argument}, "exp (float64)", "the argument, afterwards,"),
    "a method that is missing": ({"moveaxis": None}, "moveaxis (float64)", "TypeError"),
    "an overflow": (
        {"logsumexp": lambda B, x, axis, keepdims=False: B.log(B.sum(B.exp(x), axis, keepdims))},
        "logsumexp neither over- nor underflows",
        "",
    ),
    "ties that go to the first": (
        {"max": lambda B, x, axis=None, keepdims=False: B.max(x - 1e-9 * np.arange(x.shape[-1]), axis, keepdims)},
        "ties share the derivative",
        "the derivative of max",
    ),
    "an exception for a matrix that is not definite": (
        {"cholesky_solve": lambda B, A, rhs: np.linalg.solve(np.linalg.cholesky(A), rhs)},
        "cholesky_solve gives NaN where a matrix is not definite",
        "LinAlgError",
    ),
    "a view instead of a copy": ({"to_numpy": lambda B, x: B.stop_gradient(x)}, "to_numpy copies", "edited"),
    "autograd's own where, whose gradient forgets broadcasting": (
        {"where": lambda B, condition, x, y: anp.where(condition, x, y)},
        "where, broadcast (float64)",
        "",
    ),
    "a transpose that is forgotten": (
        {"matmul": lambda B, x, y, transpose_y=False: B.matmul(x, B.reshape(y, (*y.shape[:-2], y.shape[-1], -1)))},
        "matmul, transposed (float64)",
        "off by",
    ),
    "a loop that runs once": (
        {"while_loop": lambda B, condition, body, state: body(state)},
        "control flow",
        "a loop and a branch",
    ),
    "a constant that is not": ({"stop_gradient": lambda B, x: x}, "stop_gradient is a constant", "[6.], expected [3.]"),
    "a derivative that is not used": (
        {"custom_vjp": lambda B, primal, vjp: primal},
        "custom_vjp is used",
        "[13.], expected [24.]",
    ),
    "variables without a gradient": ({"value_and_grad": forgets_unused}, "value_and_grad takes a dictionary", "unused"),
    "an optimizer without momentum": (
        {"stepper": lambda B, optimizer, x: B.stepper(type(optimizer)(optimizer.learning_rate), x)},
        "minimize: SGD with momentum is the textbook's",
        "before step 2",
    ),
    "a stepper that edits what it has shown": (
        {"stepper": ShowsWhatItEdits},
        "minimize: SGD is the textbook's",
        "the variable before step 0",
    ),
    "a stepper in half precision": (
        {"stepper": StepsInHalfPrecision},
        "minimize: half precision takes small steps",
        "led from 6 to 6",
    ),
    "asarray that ignores like": (
        {"asarray": lambda B, values, like=None, dtype=None: B.asarray(values, dtype=dtype)},
        "asarray and full follow like and dtype",
        "beside float32, it made",
    ),
    "a deferred product the other way round": (
        {"deferred_mix": lambda B, x, rows, columns, mix: x if rows is None else B.matmul(B.matrix_transpose(rows), x)},
        "deferred_mix stands for the product",
        "the product is off by",
    ),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # what flawed backends cause in NumPy
@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_caught_by_its_law(flaw):
    methods, law, words = FLAWS[flaw]
    backend = flawed(**{name: method for name, method in methods.items() if method is not None})
    for name in (name for name, method in methods.items() if method is None):
        setattr(type(backend), name, None)
    with pytest.raises(LawError) as caught:
        check_backend(backend, np.asarray)
    assert law in caught.value.laws, sorted(caught.value.laws)
    assert words in caught.value.laws[law]
    assert f"    {law}: " in str(caught.value)


def test_a_flaw_of_one_operation_breaks_few_laws():
    backend = flawed(sum=lambda B, x, axis=None, keepdims=False: B.sum(x, axis, False if axis == -2 else keepdims))
    with pytest.raises(LawError, match=r"the backend 'numpy' breaks 2 of \d+ laws") as caught:
        check_backend(backend)
    assert set(caught.value.laws) == {"sum, axes kept (float64)", "sum, axes kept (float32)"}


def test_second_derivatives_are_checked_where_a_transformation_is_given():
    def opaque(B, x):
        """A vjp that is right, but hides from autograd what it depends on."""
        hidden = primitive(lambda x: np.exp(x))
        values = np.exp(B.stop_gradient(x))
        return B.custom_vjp(hidden, lambda g, output, x: (g * values,))(x)

    def grad(fun):
        return autograd.grad(lambda x: fun(x) + 0.0 * B.sum(x))

    B = AutogradBackend()
    assert "exp (float64)" in check_backend(flawed(exp=opaque))
    with pytest.raises(LawError) as caught:
        check_backend(flawed(exp=opaque), grad=grad)
    assert "exp, second derivative" in caught.value.laws


def test_compilation_is_checked_where_a_transformation_is_given():
    laws = check_backend(flawed(is_concrete=lambda B, x: not compiling), jit=pretended)
    assert {"all operations, compiled", "control flow, compiled", "nothing is concrete under compilation"} <= {*laws}
    with pytest.raises(LawError) as caught:
        check_backend(AutogradBackend(), jit=pretended)
    assert set(caught.value.laws) == {"nothing is concrete under compilation"}


compiling = []


def pretended(fun):
    """A compiler that does nothing, but says so."""

    def compiled(x):
        compiling.append(True)
        try:
            return fun(x)
        finally:
            compiling.pop()

    return compiled


def test_a_backend_without_double_precision_is_checked_in_single():
    laws = check_backend(
        AutogradBackend(), lambda values: np.asarray(values, np.float32) if values.dtype == float else values
    )
    assert "exp (float32)" in laws
    assert "exp (float64)" not in laws
