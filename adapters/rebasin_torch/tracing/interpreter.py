"""Walk an exported graph, operation by operation, with the rules of the table.

Nothing is guessed. An operation without a rule, a rule that raises, and a rule whose shapes are not those that torch
reports pin everything the operation touches, with a reason that names it. Operations on constants are executed, so that
masks and index tables are known by value.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from rebasin_core.errors import UnsupportedModelError
from rebasin_core.inference import Primitives, Tensor
from rebasin_torch.tracing.registry import RULES, Call, Value

__all__ = ["Interpreter"]

# Creating values at random is not executed: it would move the random state, and the values mean nothing.
_RANDOM = frozenset({"aten.rand", "aten.randn", "aten.randint", "aten.bernoulli", "aten.normal", "aten.randperm"})
# Checks that torch puts into a graph: they read shapes and ranges, and nothing reads them.
_CHECKS = frozenset(
    {
        "aten._assert_tensor_metadata",
        "aten._assert_async",
        "aten._assert_scalar",
        "aten.sym_constrain_range",
        "aten.sym_constrain_range_for_size",
    }
)
_LARGEST_CONSTANT = 1 << 24


class Interpreter:
    """Runs a graph of operations symbolically.

    Parameters
    ----------
    p : Primitives
        Where operations are recorded.
    placeholders : mapping of str to value
        What the placeholders of the graph hold; those that nothing reads may be left out.
    """

    def __init__(self, p: Primitives, placeholders: Mapping[str, Value]) -> None:
        self.p = p
        self.values: dict[torch.fx.Node, Any] = {}
        self.placeholders = placeholders

    def run(self, graph: torch.fx.Graph) -> None:
        """Record every operation; whatever the graph returns is pinned."""
        for node in graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.placeholders.get(node.name)
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                results = torch.fx.node.map_arg(node.args, lambda n: self.values[n])
                self.p.pin(_symbolic_tensors(results), "reaches the output")
            else:
                self.values[node] = self._unsupported(node, f"the graph holds a {node.op}, for which there is no rule")

    def _call(self, node: torch.fx.Node) -> Any:
        args: Any = torch.fx.node.map_arg(node.args, lambda n: self.values[n])
        kwargs: Any = torch.fx.node.map_arg(node.kwargs, lambda n: self.values[n])
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not isinstance(node.target, torch._ops.OpOverload):
            if not _symbolic_tensors((args, kwargs)):
                return node.target(*args, **kwargs) if callable(node.target) else None
            return self._unsupported(node, f"no rule for {node.target}")
        name = str(node.target.overloadpacket)
        if name in _CHECKS:
            return None
        if not _symbolic_tensors((args, kwargs)):
            known = self._execute(node, name, args, kwargs)
            if known is not None:
                return known
        call = Call(self.p, name, _bind(node.target, args, kwargs), _shapes(node), _used(node))
        rule = RULES.get(name)
        if rule is None:
            return self._unsupported(node, f"no rule for {name}", call)
        try:
            with self.p.recorder.during(_title(node, name)):
                result = rule(self.p, call)
        except Exception as error:  # a rule of a user's, or one that met an argument it does not know
            return self._unsupported(node, f"the rule for {name} failed: {type(error).__name__}: {error}", call)
        results = [result] if isinstance(result, Tensor) else list(result)
        results += [None] * (len(call.shapes) - len(results))
        for got, shape, used in zip(results, call.shapes, call.used, strict=True):
            if got is None and shape is not None and used:
                return self._unsupported(node, f"the rule for {name} leaves out a result that is read", call)
            if got is not None and got.shape != shape:
                reason = f"the rule for {name} gives shape {got.shape}, torch {shape}"
                return self._unsupported(node, reason, call)
        return results[0] if isinstance(result, Tensor) else results

    def _execute(self, node: torch.fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        """Compute an operation on constants for real; None where that cannot be done."""
        sizes = [torch.Size(shape).numel() for shape in _shapes(node) if shape is not None]
        if name in _RANDOM or sum(sizes) > _LARGEST_CONSTANT:
            return None
        kwargs = dict(kwargs)
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        try:
            return node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:  # values that only another device has, or an operation that needs symbolic values
            return None

    def _unsupported(self, node: torch.fx.Node, reason: str, call: Call | None = None) -> Any:
        """Pin whatever an operation reads, and let its results stay."""
        read = call.tensors() if call else _symbolic_tensors([self.values[n] for n in node.all_input_nodes])
        self.p.pin(read, reason)
        moving = any(x.blocks() for x in read)
        if not moving:
            reasons = [atom.reason for x in read for atom in x.atoms() if atom.reason]
            reason = reasons[0] if reasons else reason
        results = [None if shape is None else self.p.constant(shape, reason=reason) for shape in _shapes(node)]
        return results if isinstance(node.meta.get("val"), (tuple, list)) else results[0]


def _title(node: torch.fx.Node, name: str) -> str:
    """The operation and the module in which it stands, as in ``conv2d layer1.0.conv1``."""
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    name = name.removeprefix("aten.").removeprefix("_").removeprefix("native_").removesuffix("_legit_no_training")
    return " ".join([name, *modules[-1:]]).strip()


def _symbolic_tensors(values: Any) -> list[Tensor]:
    """Every symbolic tensor in nested lists, tuples and mappings."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return [x for value in values for x in _symbolic_tensors(value)]
    return []


def _bind(target: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, with the defaults of the schema."""
    bound: dict[str, Any] = {}
    for k, argument in enumerate(target._schema.arguments):
        if k < len(args):
            bound[argument.name] = args[k]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound


def _shapes(node: torch.fx.Node) -> list[tuple[int, ...] | None]:
    value = node.meta.get("val")
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    shapes = [tuple(v.shape) if isinstance(v, torch.Tensor) else None for v in values]
    if any(isinstance(n, torch.SymInt) for shape in shapes for n in shape or ()):
        raise UnsupportedModelError(
            f"the shape of the result of {node.target} depends on the data, so that its axes cannot be followed. Write "
            f"the axes yourself and pass graph=PermutationGraph.from_axes(...)"
        )
    return [None if shape is None else tuple(int(n) for n in shape) for shape in shapes]


def _used(node: torch.fx.Node) -> list[bool]:
    """Which results of an operation something reads."""
    count = len(_shapes(node))
    if not isinstance(node.meta.get("val"), (tuple, list)):
        return [bool(node.users)]
    read = {user.args[1] for user in node.users if user.target is operator.getitem and user.users}
    others = any(user.target is not operator.getitem for user in node.users)
    return [others or k in read for k in range(count)]


def is_known(tensor: torch.Tensor | None) -> bool:
    """Whether the values of a tensor are there to be read."""
    return tensor is not None and not isinstance(tensor, FakeTensor) and tensor.device.type != "meta"
