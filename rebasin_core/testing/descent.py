"""Laws of `Backend.stepper`: the optimizers are those of the textbook, whichever framework steps."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from rebasin_core.backends.descent import minimize
from rebasin_core.backends.optimizers import SGD, Adam, Optimizer
from rebasin_core.backends.protocol import Array, Backend
from rebasin_core.errors import NonFiniteError, SettingError
from rebasin_core.testing.laws import Law, refused, require, same

__all__ = ["descent_laws"]

Vector = np.ndarray[Any, Any]
MakeArray = Callable[[Vector], Array]
Variables = dict[str, Array]

OPTIMIZERS: dict[str, Optimizer] = {
    "Adam": Adam(0.1),
    "Adam with decay": Adam(0.1, weight_decay=0.5),
    "SGD": SGD(0.1),
    "SGD with momentum": SGD(0.1, momentum=0.9),
    "SGD, clipped": SGD(0.1, momentum=0.5, clip=0.7),
}


def descent_laws(B: Backend, array: MakeArray) -> dict[str, Law]:
    """All of them, by name."""
    laws = _Laws(B, array)
    textbook = {f"minimize: {name} is the textbook's": partial(laws.textbook, name) for name in OPTIMIZERS}
    pairs = {
        f"minimize: Adam beside {name} is as alone": partial(laws.beside, name)
        for name in ("Adam with decay", "SGD with momentum", "SGD, clipped")
    }
    return {
        "minimize: ends low, keeps dtypes and arguments": laws.ends_low,
        **textbook,
        **pairs,
        "minimize: clips a whole parameter group": laws.clips_groups,
        "minimize: clips gradients that share memory": laws.clips_shared,
        "minimize: half precision takes small steps": laws.takes_small_steps,
        "minimize: returns what the callback would see next": laws.returns_the_next,
        "minimize: refuses what is not finite": laws.refuses_infinity,
        "minimize: wants one optimizer per variable": laws.wants_optimizers,
    }


class _Laws:
    def __init__(self, B: Backend, array: MakeArray) -> None:
        self.B, self.array = B, array

    def variables(self, **values: Any) -> Variables:
        return {name: self.array(np.asarray(value, np.float32)) for name, value in values.items()}

    def squares(self, v: Variables, step: int) -> Array:
        total = None
        for x in v.values():
            square = self.B.sum(x**2)
            total = square if total is None else total + square
        return total

    def path(
        self, x: Variables, optimizer: Optimizer | Mapping[str, Optimizer], num_steps: int = 4
    ) -> list[dict[str, Vector]]:
        """The variables before every step, and after the last."""
        seen: list[Variables] = []

        def callback(step: int, value: float, here: Variables) -> bool:
            seen.append(here)
            return False

        last = minimize(self.B, self.squares, x, optimizer, num_steps, callback)
        return [{name: self.B.to_numpy(values) for name, values in here.items()} for here in (*seen, last)]

    def ends_low(self) -> None:
        B, steps, seen = self.B, [], []
        x = self.variables(a=np.full((2, 2), 3.0), b=-2.0)

        def fun(v: Variables, step: int) -> Array:
            steps.append(step)
            return B.sum((v["a"] - 1.0) ** 2) + v["b"] ** 2

        def callback(step: int, value: float, here: Variables) -> bool:
            seen.append((step, value, here))
            return False

        last = minimize(B, fun, x, Adam(0.1), 150, callback)
        require([step for step, _, _ in seen] == list(range(150)), "the callback must see every step, counted from 0")
        require(sorted(set(steps)) == list(range(150)), "the function must be given the step, counted from 0")
        require(all(isinstance(value, float) for _, value, _ in seen), "the callback must see the value as a float")
        same(seen[0][1], 20.0, "the value at the first step")
        same(B.to_numpy(seen[0][2]["a"]), np.full((2, 2), 3.0), "the variable before the first step")
        require(seen[-1][1] < 1e-2, f"after 150 steps of Adam the value is {seen[-1][1]:.1e}, expected below 1e-2")
        found = {name: (B.dtype(values), B.shape(values)) for name, values in last.items()}
        require(found == {"a": ("float32", (2, 2)), "b": ("float32", ())}, f"dtypes and shapes must stay, got {found}")
        same(B.to_numpy(x["a"]), np.full((2, 2), 3.0), "the variable that was handed in")

    def textbook(self, name: str) -> None:
        x = np.array([1.0, -2.0, 0.5])
        found = self.path(self.variables(a=x), OPTIMIZERS[name])
        for step, (here, wanted) in enumerate(zip(found, _textbook(OPTIMIZERS[name], x, 4), strict=True)):
            same(here["a"], wanted, f"the variable before step {step}", rtol=2e-5, atol=1e-5)

    def beside(self, name: str) -> None:
        x = self.variables(a=np.ones((2, 2)), b=[3.0, -4.0])
        both = self.path(x, {"a": OPTIMIZERS["Adam"], "b": OPTIMIZERS[name]})
        for variable, optimizer in (("a", OPTIMIZERS["Adam"]), ("b", OPTIMIZERS[name])):
            alone = self.path({variable: x[variable]}, optimizer)
            for here, wanted in zip(both, alone, strict=True):
                same(here[variable], wanted[variable], f"variable {variable!r}", rtol=1e-6)

    def clips_groups(self) -> None:
        x = self.variables(a=[3.0], b=[4.0])
        together: Mapping[str, Optimizer] = {"a": SGD(0.25, clip=1.0), "b": SGD(0.5, clip=1.0)}
        for optimizer, steps in (
            (SGD(0.25), (1.5, 2.0)),
            (SGD(0.25, clip=1.0), (0.15, 0.2)),
            (together, (0.25, 0.5)),
        ):
            _, after = self.path(x, optimizer, 1)
            taken = [3.0 - after["a"][0], 4.0 - after["b"][0]]
            same(taken, steps, f"the first step of {optimizer}", rtol=1e-5)

    def clips_shared(self) -> None:
        """The gradients of both are one number, and may be one array; their norm is 2."""
        B, x = self.B, self.variables(a=np.zeros(2), b=np.zeros(2))
        for optimizer, step in ((SGD(1.0, clip=1.0), 0.5), (SGD(1.0, clip_value=0.25), 0.25)):
            after = minimize(B, lambda v, step: B.sum(v["a"] + v["b"]), x, optimizer, 1, lambda *_: False)
            for name, values in after.items():
                same(B.to_numpy(values), [-step, -step], f"variable {name!r} after {optimizer}", rtol=1e-5)

    def takes_small_steps(self) -> None:
        """In float16 itself, 6 - 0.001 is 6: nothing would ever move."""
        B, x = self.B, {"a": self.B.astype(self.variables(a=6.0)["a"], "float16")}
        last = minimize(B, lambda v, step: B.astype(v["a"], "float32"), x, Adam(0.001), 20, lambda *_: False)
        require(B.dtype(last["a"]) == "float16", f"the dtype must stay float16, got {B.dtype(last['a'])}")
        require(float(B.to_numpy(last["a"])) < 5.99, f"20 steps of 0.001 led from 6 to {B.to_numpy(last['a'])}")

    def returns_the_next(self) -> None:
        x = self.variables(a=np.ones(2))
        long, short = self.path(x, SGD(0.1), 5), self.path(x, SGD(0.1), 3)
        same(short[-1]["a"], long[3]["a"], "what is returned after 3 steps", rtol=1e-6)
        stopped = minimize(self.B, self.squares, x, SGD(0.1), 5, lambda step, value, here: step == 2)
        same(
            self.B.to_numpy(stopped["a"]), long[2]["a"], "what is returned when the callback ends at step 2", rtol=1e-6
        )

    def refuses_infinity(self) -> None:
        B, x = self.B, self.variables(a=np.ones(1))
        infinite = B.custom_vjp(lambda x: B.sum(x), lambda g, output, x: (x * np.inf,))

        def run(fun: Callable[[Variables, int], Array]) -> Callable[[], Any]:
            return lambda: minimize(B, fun, x, Adam(0.1), 2, lambda *_: False)

        refused(NonFiniteError, "nan at step 0", run(lambda v, step: B.sum(v["a"]) * np.nan))
        refused(NonFiniteError, "'a'", run(lambda v, step: infinite(v["a"])))

    def wants_optimizers(self) -> None:
        x = self.variables(a=np.ones(1))
        cases: list[tuple[Any, str]] = [({}, "'a'"), ({"a": SGD(1.0), "c": SGD(1.0)}, "'c'"), (0.1, "got 0.1")]
        for optimizer, words in cases:
            refused(SettingError, words, partial(self.path, x, optimizer, 1))


def _textbook(optimizer: Optimizer, x: Vector, num_steps: int) -> list[Vector]:
    """The variables of ``sum(x ** 2)`` before every step and after the last, in NumPy."""
    path, v, m, s = [x], np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for t in range(1, num_steps + 1):
        g = 2.0 * x
        if isinstance(optimizer, SGD):
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
