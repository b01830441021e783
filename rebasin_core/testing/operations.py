"""Operations of the Backend protocol, each with the same in NumPy: the table that every backend is compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from rebasin_core.backends.protocol import Array, Backend

__all__ = ["OPERATIONS", "Operation", "gradient", "second_difference"]

Vector: TypeAlias = np.ndarray[Any, Any]

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(2, 3, 4))
Y = _RNG.normal(size=(3, 1))
SQUARE = _RNG.normal(size=(2, 3, 3))
DEFINITE = SQUARE @ np.swapaxes(SQUARE, -1, -2) + 3.0 * np.eye(3)
RIGHT = _RNG.normal(size=(2, 3, 2))
INDICES = _RNG.integers(0, 4, size=(2, 3, 2))
INSIDE = INDICES[:, :1].repeat(2, -1) % 3


@dataclass(frozen=True)
class Operation:
    """A function of one array.

    Attributes
    ----------
    compute : callable
        ``compute(B, x, c)``: with the backend `B`; ``c(values)`` makes a constant array beside `x`.
    expected : callable
        The same in NumPy, of a float64 array.
    x : array
        Where to compute it; no kink is near.
    """

    compute: Callable[[Backend, Array, Callable[[Vector], Array]], Array]
    expected: Callable[[Vector], Any]
    x: Vector


def _indices(B: Backend, x: Array, values: Any) -> Array:
    return B.asarray(np.asarray(values), like=x, dtype="int64")


# fmt: off
_TABLE: dict[str, tuple[Any, Any, Vector]] = {
    "asarray of an array": (lambda B, x, c: B.asarray(x, like=x), lambda x: x, X),
    "exp": (lambda B, x, c: B.exp(x), np.exp, X),
    "log": (lambda B, x, c: B.log(B.exp(x) + 1.0), lambda x: np.log1p(np.exp(x)), X),
    "abs": (lambda B, x, c: B.abs(x), np.abs, X),
    "sqrt": (lambda B, x, c: B.sqrt(x * x + 1.0), lambda x: np.sqrt(x * x + 1.0), X),
    "maximum": (lambda B, x, c: B.maximum(x, c(Y)), lambda x: np.maximum(x, Y), X),
    "maximum with a number": (lambda B, x, c: B.maximum(x, 0.1), lambda x: np.maximum(x, 0.1), X),
    "maximum, broadcast": (lambda B, x, c: B.maximum(x, c(X)), lambda x: np.maximum(x, X), Y),
    "minimum": (lambda B, x, c: B.minimum(c(Y), x), lambda x: np.minimum(x, Y), X),
    "minimum with a number": (lambda B, x, c: B.minimum(x, 0.1), lambda x: np.minimum(x, 0.1), X),
    "where": (lambda B, x, c: B.where(c(X) > 0, x, 2.0), lambda x: np.where(X > 0, x, 2.0), X),
    "where, broadcast": (lambda B, x, c: B.where(c(X) > 0, 0.0, x), lambda x: np.where(X > 0, 0.0, x), Y),
    "sum": (lambda B, x, c: B.sum(x, axis=(0, -1)), lambda x: x.sum((0, 2)), X),
    "sum along one axis": (lambda B, x, c: B.sum(x, axis=1), lambda x: x.sum(1), X),
    "sum of all": (lambda B, x, c: B.sum(x), np.sum, X),
    "sum, axes kept": (lambda B, x, c: B.sum(x, axis=-2, keepdims=True), lambda x: x.sum(-2, keepdims=True), X),
    "sum of all, axes kept": (lambda B, x, c: B.sum(x, keepdims=True), lambda x: x.sum(keepdims=True), X),
    "max": (lambda B, x, c: B.max(x, axis=-1), lambda x: x.max(-1), X),
    "max, axes kept": (lambda B, x, c: B.max(x, axis=-2, keepdims=True), lambda x: x.max(-2, keepdims=True), X),
    "max over axes": (lambda B, x, c: B.max(x, axis=(-2, -1)), lambda x: x.max((-2, -1)), X),
    "max of all": (lambda B, x, c: B.max(x), np.max, X),
    "min": (lambda B, x, c: B.min(x, axis=-1), lambda x: x.min(-1), X),
    "min, axes kept": (lambda B, x, c: B.min(x, axis=-2, keepdims=True), lambda x: x.min(-2, keepdims=True), X),
    "min of all": (lambda B, x, c: B.min(x), np.min, X),
    "logsumexp": (lambda B, x, c: B.logsumexp(x, axis=-1), lambda x: np.log(np.exp(x).sum(-1)), X),
    "logsumexp, axes kept": (lambda B, x, c: B.logsumexp(x, axis=1, keepdims=True),
                             lambda x: np.log(np.exp(x).sum(1, keepdims=True)), X),
    "reshape": (lambda B, x, c: B.reshape(x, (4, -1)), lambda x: x.reshape(4, 6), X),
    "moveaxis": (lambda B, x, c: B.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1), X),
    "moveaxis back": (lambda B, x, c: B.moveaxis(x, -1, 1), lambda x: np.moveaxis(x, -1, 1), X),
    "matrix_transpose": (lambda B, x, c: B.matrix_transpose(x), lambda x: np.swapaxes(x, -1, -2), X),
    "concat": (lambda B, x, c: B.concat([x, 2.0 * x], axis=1), lambda x: np.concatenate([x, 2 * x], axis=1), X),
    "split": (lambda B, x, c: B.split(x, [1, 3], axis=-1)[1], lambda x: x[..., 1:], X),
    "stack": (lambda B, x, c: B.stack([x, x * x], axis=1), lambda x: np.stack([x, x * x], axis=1), X),
    "take": (lambda B, x, c: B.take(x, _indices(B, x, [2, 0, 2]), axis=-2), lambda x: np.take(x, [2, 0, 2], -2), X),
    "take along the first axis": (lambda B, x, c: B.take(x, _indices(B, x, [1, 1]), axis=0),
                                  lambda x: np.take(x, [1, 1], 0), X),
    "take_along_axis": (lambda B, x, c: B.take_along_axis(x, _indices(B, x, INDICES), axis=-1),
                        lambda x: np.take_along_axis(x, INDICES, axis=-1), X),
    "take_along_axis inside": (lambda B, x, c: B.take_along_axis(x, _indices(B, x, INSIDE), axis=1),
                               lambda x: np.take_along_axis(x, INSIDE, axis=1), X),
    "matmul": (lambda B, x, c: B.matmul(c(SQUARE), x), lambda x: SQUARE @ x, X),
    "matmul, broadcast": (lambda B, x, c: B.matmul(c(SQUARE), x), lambda x: SQUARE @ x, Y),
    "matmul, transposed": (lambda B, x, c: B.matmul(x, c(X), transpose_y=True), lambda x: x @ X.swapaxes(-1, -2), X),
    "matmul with itself": (lambda B, x, c: B.matmul(x[:1], x[:1], transpose_y=True),
                           lambda x: x[:1] @ x[:1].swapaxes(-1, -2), X),
    "row_products": (lambda B, x, c: B.row_products(x)[0](c(X[:, :1, :3])), lambda x: X[:, :1, :3] @ x, X),
    "row_products, transposed": (lambda B, x, c: B.row_products(x)[1](c(X[:, :1])),
                                 lambda x: X[:, :1] @ x.swapaxes(-1, -2), X),
    "cholesky_solve": (lambda B, x, c: B.cholesky_solve(c(DEFINITE), x), lambda x: np.linalg.solve(DEFINITE, x), RIGHT),
    "cholesky_solve, broadcast": (lambda B, x, c: B.cholesky_solve(c(DEFINITE[:1]), x),
                                  lambda x: np.linalg.solve(DEFINITE[:1], x), RIGHT),
    "cholesky_solve in the matrix": (
        lambda B, x, c: B.cholesky_solve(B.matmul(x, x, transpose_y=True) + c(3.0 * np.eye(3)), c(RIGHT)),
        lambda x: np.linalg.solve(x @ x.swapaxes(-1, -2) + 3.0 * np.eye(3), RIGHT), SQUARE),
    "vmap": (lambda B, x, c: B.vmap(lambda row: B.sum(row["x"] * row["y"] ** 2, axis=-1), {"x": x, "y": c(X)}),
             lambda x: (x * X**2).sum(-1), X),
    "operators of Python": (lambda B, x, c: (2.0 - x) / 3.0 + 0.5 * x**2 - (-x) * c(Y),
                            lambda x: (2.0 - x) / 3.0 + 0.5 * x**2 + x * Y, X),
}
# fmt: on

OPERATIONS = {name: Operation(*entry) for name, entry in _TABLE.items()}


def gradient(fun: Callable[[Vector], Any], x: Vector, weight: Vector, step: float = 1e-6) -> Vector:
    """Central differences of ``sum(weight * fun(x))``: accurate to about 1e-9."""
    found = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        shift = np.zeros(x.shape)
        shift[index] = step
        found[index] = np.sum(weight * (fun(x + shift) - fun(x - shift))) / (2 * step)
    return found


def second_difference(
    fun: Callable[[Vector], Any], x: Vector, weight: Vector, one: Vector, two: Vector, step: float = 1e-4
) -> float:
    """Second derivative of ``sum(weight * fun(x))`` along two directions: accurate to about 1e-6."""

    def value(s: float, t: float) -> float:
        return float(np.sum(weight * fun(x + s * step * one + t * step * two)))

    return (value(1, 1) - value(1, -1) - value(-1, 1) + value(-1, -1)) / (4 * step**2)
