"""Laws of the Backend protocol beyond values and derivatives of single operations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rebasin_core.backends.protocol import Array, Backend, HasDeferredMix
from rebasin_core.testing.laws import Law, require, same
from rebasin_core.testing.operations import DEFINITE, RIGHT, X

__all__ = ["corner_laws"]

Vector = np.ndarray[Any, Any]
Transformation = Callable[[Callable[[Array], Array]], Callable[[Array], Array]]


def corner_laws(
    B: Backend, array: Callable[[Vector], Array], grad: Transformation | None, jit: Transformation | None
) -> dict[str, Law]:
    """All of them, by name."""
    laws = _Laws(B, array)
    found: dict[str, Law] = {
        "it has a name, and a key in caches": laws.identity,
        "asarray and full follow like and dtype": laws.making,
        "to_numpy copies": laws.copying,
        "astype converts, gradients too": laws.converting,
        "numbers of Python keep the dtype": laws.numbers,
        "ties share the derivative": laws.ties,
        "argmax, isfinite and any": laws.predicates,
        "logsumexp neither over- nor underflows": laws.logsumexp,
        "cholesky_solve gives NaN where a matrix is not definite": laws.cholesky,
        "control flow": lambda: laws.control_flow(lambda fun: fun),
        "stop_gradient is a constant": laws.constants,
        "custom_vjp is used": laws.custom_vjp,
        "value_and_grad takes a dictionary": laws.dictionary,
    }
    if grad is not None:
        transformation = grad
        found["custom_vjp is differentiated"] = lambda: laws.custom_vjp_twice(transformation)
    if jit is not None:
        compiled = jit
        found["control flow, compiled"] = lambda: laws.control_flow(compiled)
        found["nothing is concrete under compilation"] = lambda: laws.abstract(compiled)
    if isinstance(B, HasDeferredMix):
        found["deferred_mix stands for the product"] = partial(laws.deferred, B)
    return found


class _Laws:
    def __init__(self, B: Backend, array: Callable[[Vector], Array]) -> None:
        self.B, self.make = B, array

    def array(self, values: Any, dtype: Any = np.float32) -> Array:
        return self.make(np.asarray(values, dtype))

    def numpy(self, x: Array) -> Vector:
        return self.B.to_numpy(x)

    def slope(self, fun: Callable[[Array], Array], x: Array) -> Vector:
        return self.numpy(self.B.value_and_grad(lambda v: fun(v["x"]), {"x": x})[1]["x"])

    def identity(self) -> None:
        B = self.B
        require(isinstance(B.name, str) and B.name, f"expected a name, got {B.name!r}")
        require(hash(B) == hash(B) and B in {B: None}, "it must serve as a key")
        require(isinstance(B.vectorizes, bool), f"expected vectorizes as True or False, got {B.vectorizes!r}")

    def making(self) -> None:
        B, like = self.B, self.array(np.zeros(2))
        for values in ([1, 2], np.arange(3.0), range(1, 7, 2), 0.5, 1):
            made = B.asarray(values, like=like)
            require(B.dtype(made) == "float32", f"of {values!r}, beside float32, it made {B.dtype(made)}")
            same(self.numpy(made), np.asarray(list(values) if isinstance(values, range) else values), f"{values!r}")
        whole = B.asarray([1, 2], like=like, dtype="int64")
        require("int" in B.dtype(whole), f"asked for int64, it made {B.dtype(whole)}")
        order = np.arange(4)
        order.setflags(write=False)
        same(self.numpy(B.asarray(order[::-1], like=like, dtype="int64")), order[::-1], "a reversed, read-only array")
        full = B.full((2, 3), 0.5, like)
        require(B.dtype(full) == "float32", f"full made {B.dtype(full)} beside float32")
        same(self.numpy(full), np.full((2, 3), 0.5), "full")

    def copying(self) -> None:
        x = self.array(np.ones(3))
        values = self.numpy(x)
        require(type(values) is np.ndarray, f"expected an array of NumPy's, got {type(values).__name__}")
        values[0] = 5.0
        same(self.numpy(x), np.ones(3), "the array whose copy was edited")
        require(self.B.is_concrete(x), "the values of an array can be read, but is_concrete denies it")
        seen: list[Vector] = []

        def fun(y: Array) -> Array:
            seen.append(self.numpy(y))
            return self.B.sum(y * y)

        self.slope(fun, x)
        same(seen[0], np.ones(3), "what to_numpy reads inside of a gradient")

    def converting(self) -> None:
        B, x = self.B, self.array([1.0, 2.0])
        half = B.astype(x, "float16")
        require(B.dtype(half) == "float16", f"asked for float16, it made {B.dtype(half)}")
        require(self.numpy(half).dtype == np.float16, "float16 must stay so in NumPy")
        slope = B.value_and_grad(lambda v: B.sum(B.astype(v["x"], "float32") ** 2), {"x": half})[1]["x"]
        require(B.dtype(slope) == "float16", f"the gradient of an array of float16 is {B.dtype(slope)}")
        same(self.numpy(slope), [2.0, 4.0], "the gradient of an array of float16")

    def numbers(self) -> None:
        for dtype in ("float16", "float32"):
            x = self.B.astype(self.array([1.0, 2.0]), dtype)
            found = {self.B.dtype(y) for y in (x + 0.5, 0.5 - x, x * 2.0, x / 3.0, x**2, -x)}
            require(found == {dtype}, f"arithmetic of {dtype} with numbers gave {sorted(found)}")
        same(self.numpy((x > 1.0) & ~(x >= 3.0) | (x < 0.0)), [False, True], "a condition")

    def ties(self) -> None:
        B, x = self.B, self.array([1.0, 1.0, 0.0])
        same(self.slope(B.max, x), [0.5, 0.5, 0.0], "the derivative of max")
        same(self.slope(B.min, -x), [0.5, 0.5, 0.0], "the derivative of min")
        same(self.slope(lambda y: B.sum(B.abs(y)), x)[2], 0.0, "the derivative of abs at 0")

    def predicates(self) -> None:
        B = self.B
        same(self.numpy(B.argmax(self.array([[1.0, 3.0, 3.0]]), axis=-1)), [1], "argmax")
        odd = B.isfinite(self.array([0.0, np.nan, np.inf]))
        same(self.numpy(odd), [True, False, False], "isfinite")
        require(bool(B.any(odd)), "any of True, False, False must be True")
        require(not bool(B.any(self.array([False], bool))), "any of False must be False")

    def logsumexp(self) -> None:
        for shift in (1e4, -1e4):
            found = self.numpy(self.B.logsumexp(self.array([shift, shift]), axis=0))
            same(found, shift + np.log(2.0), f"of {shift:.0e} twice", rtol=1e-6)
        same(self.numpy(self.B.logsumexp(self.array(np.full((2, 2), -np.inf)), axis=1)), [-np.inf] * 2, "of nothing")

    def cholesky(self) -> None:
        B = self.B
        mixed = self.array(np.stack([np.eye(2), -np.eye(2)]))
        found = self.numpy(B.cholesky_solve(mixed, self.array(np.ones((2, 2, 1)))))
        same(found[0], np.ones((2, 1)), "the solution of the definite matrix")
        same(found[1], np.full((2, 1), np.nan), "the solution of the one that is not")
        single = self.numpy(B.cholesky_solve(self.array(DEFINITE[0]), self.array(RIGHT)))
        same(single, np.linalg.solve(DEFINITE[0], RIGHT), "one matrix for several right-hand sides", 1e-4, 1e-5)

    def control_flow(self, compiled: Transformation) -> None:
        B = self.B

        def fun(x: Array) -> Array:
            count, (total, _) = B.while_loop(
                lambda state: (state[0] < 5) & B.any(state[1][0] >= 0.0),
                lambda state: (state[0] + 1, (state[1][0] + x, state[1][1])),
                (0, (x * 0.0, x)),
            )
            doubled = B.cond(B.any(total > 3.0), lambda y: 2.0 * y, lambda y: y, total)
            return doubled + B.asarray(count, like=x)

        for x, expected in ((2.0, 25.0), (0.5, 7.5)):
            same(self.numpy(compiled(fun)(self.array(x))), expected, "the result of a loop and a branch", rtol=1e-6)

    def constants(self) -> None:
        B = self.B
        slope = self.slope(lambda x: B.sum(x * B.stop_gradient(x)), self.array([3.0]))
        same(slope, [3.0], "the derivative of x * stop_gradient(x) at 3")

    def cube(self) -> Callable[..., Array]:
        """Twice the derivative of the cube, so that it shows which one is used; the second argument is constant."""
        return self.B.custom_vjp(lambda x, y: x**3 + y, lambda g, output, x, y: (g * 6.0 * x**2, None))

    def custom_vjp(self) -> None:
        B, cube = self.B, self.cube()
        same(self.slope(lambda x: B.sum(cube(x, x)), self.array([2.0])), [24.0], "the derivative")
        exp = B.custom_vjp(lambda x: B.exp(x), lambda g, output, x: (g * output,))
        same(self.slope(lambda x: B.sum(exp(x)), self.array([0.5])), [np.exp(0.5)], "one that uses its output", 1e-6)

    def custom_vjp_twice(self, grad: Transformation) -> None:
        B, cube = self.B, self.cube()
        exp = B.custom_vjp(lambda x: B.exp(x), lambda g, output, x: (g * output,))

        def twice(fun: Callable[[Array], Array]) -> Callable[[Array], Array]:
            return grad(lambda x: B.sum(grad(lambda y: B.sum(fun(y)))(x)))

        one = self.array([1.0])
        same(self.numpy(twice(lambda x: cube(x, one))(self.array([2.0]))), [24.0], "the second derivative", 1e-6)
        same(self.numpy(twice(exp)(self.array([0.5]))), [np.exp(0.5)], "the second of one that uses its output", 1e-6)

    def dictionary(self) -> None:
        B = self.B
        x = {"a": self.array([1.0, 1.0]), "b": self.array(np.full((1, 3), 2.0)), "unused": self.array([1.0])}
        value, slopes = B.value_and_grad(lambda v: B.sum(v["a"] ** 2) + B.sum(v["b"]), x)
        require(isinstance(value, float), f"expected the value as a float, got {type(value).__name__}")
        same(value, 8.0, "the value")
        for name, expected in {"a": [2.0, 2.0], "b": np.ones((1, 3)), "unused": [0.0]}.items():
            same(self.numpy(slopes[name]), expected, f"the gradient of {name!r}")

    def abstract(self, jit: Transformation) -> None:
        constant = self.array(np.ones(3))
        seen: list[bool] = []

        def fun(x: Array) -> Array:
            seen.extend(map(self.B.is_concrete, (x, constant, constant > 0, x + constant)))
            return x

        jit(fun)(constant)
        require(seen and not any(seen), f"is_concrete of four arrays in a compiled function: {seen}")

    def deferred(self, deferring: HasDeferredMix) -> None:
        B, rng = self.B, np.random.default_rng(3)
        weight, rows, columns = X[0], rng.normal(size=(3, 3)), rng.normal(size=(4, 4))
        for P, Q in ((rows, columns), (rows, None), (None, columns)):
            W, left, right = self.array(weight), *(None if M is None else self.array(M) for M in (P, Q))

            def mix(W: Array = W, left: Any = left, right: Any = right) -> Array:
                mixed = W if left is None else B.matmul(left, W)
                return mixed if right is None else B.matmul(mixed, right, transpose_y=True)

            expected = (np.eye(3) if P is None else P) @ weight @ (np.eye(4) if Q is None else Q).T
            deferred = deferring.deferred_mix(W, left, right, mix)
            require(B.shape(deferred) == expected.shape, f"it has shape {B.shape(deferred)}, expected {expected.shape}")
            same(self.numpy(deferred), expected, "the product", 1e-4, 1e-5)
