"""`trace`: the permutation graph of a module."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch.export.graph_signature import InputKind, InputSpec

from rebasin_core.inference import Primitives, Tensor, build_graph, in_order
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_torch.tracing.export import export_program, split_inputs
from rebasin_torch.tracing.interpreter import Interpreter, is_known
from rebasin_torch.tracing.registry import Value

__all__ = ["trace"]

_STATISTICS = ("running_mean", "running_var")
_TABLE = "a buffer that is not learned"


def trace(model: torch.nn.Module, *example_inputs: Any, pin: Iterable[str] = ()) -> PermutationGraph:
    """Find the permutation graph of a module by tracing it.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is: its mode, weights, buffers, flags and the random state do not change, and nothing is computed.
        Its tensors may be on any device, ``meta`` included.
    *example_inputs : tensor, or nested tuples, lists and dicts of tensors
        What the model is called with; a last mapping holds keyword arguments. Prefer sizes that differ from each other
        and sequences of more than one element. Only shapes and dtypes are read.
    pin : iterable of str, optional
        Groups, or parameters all of whose groups, stay as they are.

    Returns
    -------
    PermutationGraph
        With an entry for every tensor of ``model.state_dict()``.

    Raises
    ------
    UnsupportedModelError
        torch.export cannot trace the module.
    SpecError
        `pin` names nothing.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = trace(model, torch.zeros(5, 3))
    >>> graph.groups
    {'layer0': 8}
    >>> graph.axes["2.weight"]
    AxesSpec(". layer0")
    """
    args, kwargs = split_inputs(example_inputs)
    program = export_program(model, args, kwargs)
    program.graph.eliminate_dead_code()
    p = Primitives()
    state = _State(model, p)
    state.declare(program)
    Interpreter(p, state.placeholders(program)).run(program.graph)
    graph = in_order(build_graph(p.recorder, fixed=state.fixed), state.names)
    graph = replace(graph, buffers=graph.buffers | (set(state.names) - state.learned))
    return graph.pin(pin) if pin else graph


class _State:
    """The tensors of a module: which are one parameter, which move without being learned, which are tables."""

    def __init__(self, model: torch.nn.Module, p: Primitives) -> None:
        self.model, self.p = model, p
        self.tensors: dict[str, torch.Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self.names = [name for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)]
        self.learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self.first: dict[int, str] = {}
        self.symbolic: dict[str, Tensor] = {}
        self.fixed: dict[str, tuple[tuple[int, ...], str]] = {}

    def owner(self, name: str) -> str:
        """The name under which a tensor was declared; another one for the second name of a tied tensor."""
        return self.first.get(id(self.tensors[name]), name)

    def declare(self, program: torch.export.ExportedProgram) -> None:
        """Declare every tensor of the state."""
        statistics = _read_as_statistics(program)
        for name in self.names:
            tensor = self.tensors.get(name)
            if tensor is None:
                # State that a module saves in a way of its own.
                self.fixed[name] = (
                    tuple(self.model.state_dict()[name].shape),
                    "state that is neither parameter nor buffer",
                )
                continue
            shape = tuple(tensor.shape)
            if id(tensor) in self.first:
                original = self.first[id(tensor)]
                if original in self.fixed:
                    self.fixed[name] = self.fixed[original]
                else:
                    self.p.alias(name, original)
                continue
            self.first[id(tensor)] = name
            if name in self.learned or name in statistics:
                self.symbolic[name] = self.p.param(name, shape, buffer=name not in self.learned)
            else:
                self.fixed[name] = (shape, _TABLE)

    def placeholders(self, program: torch.export.ExportedProgram) -> dict[str, Value]:
        """What every placeholder of the program holds that an operation reads."""
        specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        values: dict[str, Value] = {}
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.users:
                values[node.name] = self._placeholder(program, specs[node.name], node.meta.get("val"))
        return values

    def _placeholder(self, program: torch.export.ExportedProgram, spec: InputSpec, fake: Any) -> Value:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in self.tensors:
            known = self.symbolic.get(self.owner(spec.target))
            # Weights have no values here: only tables that are not learned are read, such as masks and indices.
            return self._table(self.tensors[spec.target]) if known is None else known
        if spec.kind == InputKind.CONSTANT_TENSOR:
            return self._table(program.constants[str(spec.target)])
        if isinstance(fake, torch.Tensor):
            return self.p.constant(tuple(fake.shape), reason="an input of the network")
        return getattr(spec.arg, "value", fake)

    def _table(self, tensor: torch.Tensor) -> Value:
        """Return the values of a buffer or a constant, where they are known."""
        if is_known(tensor):
            return tensor.detach().cpu()
        return self.p.constant(tuple(tensor.shape), reason="a constant whose values are not known")


def _read_as_statistics(program: torch.export.ExportedProgram) -> set[str]:
    """Buffers that move with their channels: what batch norms read, and the same stored under its usual name."""
    buffers = dict(program.graph_signature.inputs_to_buffers)
    found = {name for name in buffers.values() if name.rpartition(".")[2] in _STATISTICS}
    for node in program.graph.nodes:
        if node.op == "call_function" and "batch_norm" in str(node.target):
            found |= {buffers[n.name] for n in node.all_input_nodes if n.name in buffers}
    return found
