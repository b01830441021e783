"""Programs over the primitives that run twice: on arrays, with NumPy, and symbolically, with the primitives.

`Machine` keeps both values of every intermediate result. It is the reference that the fuzzer and the trap cases
compare a permutation graph with: the arrays know nothing of axes and groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rebasin_core.inference import Primitives, Tensor, build_graph
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["Machine", "Node", "relative_error"]


@dataclass(frozen=True)
class Node:
    """One intermediate result: its shape, and how to compute it from the parameters."""

    tensor: Tensor
    step: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def ndim(self) -> int:
        return self.tensor.ndim


class Machine:
    """A program under construction."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.p = Primitives()
        self.params: dict[str, np.ndarray] = {}
        self.steps = []
        self.outputs: list[Node] = []
        self.log: list[str] = []

    def _node(self, tensor: Tensor, step, text: str = "") -> Node:
        self.steps.append(step)
        self.log.append(f"{len(self.steps) - 1}: {text} -> {tensor.shape}")
        return Node(tensor, len(self.steps) - 1)

    def param(self, *shape: int, name: str | None = None) -> Node:
        name = name or f"w{len(self.params)}"
        self.params[name] = self.rng.normal(size=shape)
        return self._node(self.p.param(name, shape), lambda env, params: params[name], f"param {name}")

    def constant(self, values) -> Node:
        values = np.asarray(values, dtype=float)
        return self._node(self.p.literal(values), lambda env, params: values, "constant")

    def input(self, *shape: int) -> Node:
        return self.constant(self.rng.normal(size=shape))

    def ein(self, operands: Sequence[Node], labels: Sequence[str], out: str) -> Node:
        def step(env, params):
            # Axes of length 1 are broadcast, which np.einsum does not do: drop them, and insert them again.
            sizes = dict.fromkeys(out, 1)
            arrays, names = [], []
            for node, label in zip(operands, labels, strict=True):
                x = env[node.step]
                arrays.append(x.reshape([n for n in x.shape if n != 1]))
                names.append("".join(c for c, n in zip(label, x.shape, strict=True) if n != 1))
                sizes |= {c: n for c, n in zip(label, x.shape, strict=True) if n != 1}
            kept = "".join(c for c in out if sizes[c] != 1)
            return np.einsum(",".join(names) + "->" + kept, *arrays).reshape([sizes[c] for c in out])

        tensor = self.p.ein([n.tensor for n in operands], labels, out)
        return self._node(tensor, step, f"ein {','.join(labels)}->{out} of {[n.step for n in operands]}")

    def add(self, *operands: Node) -> Node:
        def step(env, params):
            total = 0.0
            for k, node in enumerate(operands):
                total = total + (0.5 + k) * env[node.step]
            return np.tanh(total)

        tensor = self.p.elementwise(*(n.tensor for n in operands))
        return self._node(tensor, step, f"add {[n.step for n in operands]}")

    def unary(self, x: Node) -> Node:
        return self._node(
            x.tensor, lambda env, params: np.tanh(env[x.step]) + 0.1 * env[x.step] ** 2, f"unary {x.step}"
        )

    def reduce(self, x: Node, axes: Sequence[int], keepdims: bool = False) -> Node:
        tensor = self.p.reduce(x.tensor, axes, keepdims=keepdims)
        return self._node(
            tensor, lambda env, params: env[x.step].max(axis=tuple(axes), keepdims=keepdims), f"max {x.step} {axes}"
        )

    def normalize(self, x: Node, axes: Sequence[int]) -> Node:
        def step(env, params):
            e = env[x.step] - env[x.step].max(axis=tuple(axes), keepdims=True)
            return np.exp(e) / np.exp(e).sum(axis=tuple(axes), keepdims=True)

        return self._node(self.p.normalize(x.tensor, axes), step, f"softmax {x.step} {axes}")

    def reshape(self, x: Node, shape: Sequence[int]) -> Node:
        return self._node(
            self.p.reshape(x.tensor, shape), lambda env, params: env[x.step].reshape(shape), f"reshape {x.step}"
        )

    def permute(self, x: Node, order: Sequence[int]) -> Node:
        return self._node(
            self.p.permute(x.tensor, order),
            lambda env, params: env[x.step].transpose(order),
            f"permute {x.step} {order}",
        )

    def gather(self, x: Node, axis: int, index: Sequence[int]) -> Node:
        return self._node(
            self.p.gather(x.tensor, axis, index),
            lambda env, params: np.take(env[x.step], index, axis),
            f"gather {x.step} axis {axis} {list(index)}",
        )

    def select(self, x: Node, axis: int, place: int) -> Node:
        return self._node(
            self.p.select(x.tensor, axis, place),
            lambda env, params: np.take(env[x.step], place, axis),
            f"select {x.step} axis {axis} place {place}",
        )

    def cat(self, nodes: Sequence[Node], axis: int) -> Node:
        return self._node(
            self.p.cat([n.tensor for n in nodes], axis),
            lambda env, params: np.concatenate([env[n.step] for n in nodes], axis),
            f"cat {[n.step for n in nodes]} axis {axis}",
        )

    def stack(self, nodes: Sequence[Node], axis: int) -> Node:
        return self._node(
            self.p.stack([n.tensor for n in nodes], axis),
            lambda env, params: np.stack([env[n.step] for n in nodes], axis),
            f"stack {[n.step for n in nodes]} axis {axis}",
        )

    def expand(self, x: Node, shape: Sequence[int]) -> Node:
        return self._node(
            self.p.expand(x.tensor, shape),
            lambda env, params: np.broadcast_to(env[x.step], shape),
            f"expand {x.step}",
        )

    def repeat(self, x: Node, axis: int, times: int, inner: bool) -> Node:
        def step(env, params):
            if inner:
                return np.repeat(env[x.step], times, axis)
            return np.concatenate([env[x.step]] * times, axis)

        return self._node(
            self.p.repeat(x.tensor, axis, times, inner=inner), step, f"repeat {x.step} {axis} {times} {inner}"
        )

    def cumsum(self, x: Node, axis: int) -> Node:
        tensor = self.p.window(x.tensor, [axis], [x.shape[axis]], "an order that matters")
        return self._node(tensor, lambda env, params: np.cumsum(env[x.step], axis), f"cumsum {x.step} {axis}")

    def output(self, x: Node) -> None:
        self.outputs.append(x)
        self.p.pin([x.tensor], "reaches the output")

    def run(self, params) -> list[np.ndarray]:
        env: list[np.ndarray] = []
        for step in self.steps:
            env.append(step(env, params))
        return [env[node.step] for node in self.outputs]

    def graph(self) -> PermutationGraph:
        return build_graph(self.p.recorder)

    def error(self, plan: Plan, graph: PermutationGraph) -> float:
        """Largest relative difference of any output under a plan (dimensionless)."""
        return relative_error(self.run(self.params), self.run(plan.apply(self.params, graph)))


def relative_error(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    scales = [max(float(np.abs(a).max()), 1e-30) for a in before]
    return max(float(np.abs(a - b).max()) / s for a, b, s in zip(before, after, scales, strict=True))
