"""From a module to a graph of ATen operations, without computing anything and without touching the module.

The module is copied with its weights replaced by fake tensors (shape, dtype and device, no storage), put in eval mode
and exported. Decomposing into the empty set of operations makes the graph functional (no in-place writes, no views)
and keeps convolutions, linear layers, norms and attention whole.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from rebasin_core.errors import UnsupportedModelError
from rebasin_torch.dynamo import keep_triton_out

__all__ = ["export_program", "split_inputs"]


def split_inputs(example_inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split example inputs into positional and keyword arguments: a last mapping holds keyword arguments."""
    if example_inputs and isinstance(example_inputs[-1], Mapping):
        return example_inputs[:-1], dict(example_inputs[-1])
    return example_inputs, {}


def export_program(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.export.ExportedProgram:
    """Export a copy of a module in eval mode.

    Raises
    ------
    UnsupportedModelError
        The module cannot be exported; torch's reason is kept.
    """
    try:
        with _quiet(), keep_triton_out(), torch.no_grad():
            mode = FakeTensorMode(allow_non_fake_inputs=True)
            fake = _fake_copy(model, mode).eval()
            for module in fake.modules():
                if getattr(getattr(module, "config", None), "use_cache", False) is True:
                    # The cache of a language model is an output that only matters while text is generated.
                    module.config.use_cache = False  # type: ignore[union-attr]
            args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, (args, kwargs))
            program = torch.export.export(fake, args, kwargs, strict=False)
            functional: torch.export.ExportedProgram = program.run_decompositions({})
            return functional
    except Exception as error:  # torch.export raises errors of many kinds
        raise UnsupportedModelError(
            f"torch.export could not trace {type(model).__qualname__}: {_first_lines(error)}\n"
            f"Control flow that depends on data, and code that leaves torch, cannot be traced. Write the axes yourself "
            f"instead and pass graph=PermutationGraph.from_axes({{'fc1.weight': 'h .', 'fc1.bias': 'h', "
            f"'fc2.weight': '. h', ...}}, params), with an entry for every name in model.state_dict()"
        ) from error


def _fake_copy(model: torch.nn.Module, mode: FakeTensorMode) -> torch.nn.Module:
    """Copy a module; its parameters and buffers become fake tensors, tied ones stay tied."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for tensor in store.values():
                if tensor is None or id(tensor) in memo:
                    continue
                fake: torch.Tensor = mode.from_tensor(tensor.detach())
                memo[id(tensor)] = (
                    torch.nn.Parameter(fake, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else fake
                )
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:  # a module holds something that cannot be copied, such as a file or an operation
        return _copy_modules(model, memo)


def _copy_modules(module: torch.nn.Module, memo: dict[int, Any]) -> torch.nn.Module:
    """Copy modules one by one, sharing the attributes that cannot be copied."""
    if id(module) in memo:
        known: torch.nn.Module = memo[id(module)]
        return known
    new = memo[id(module)] = type(module).__new__(type(module))
    children = {name: child and _copy_modules(child, memo) for name, child in module._modules.items()}
    for name, value in module.__dict__.items():
        try:
            new.__dict__[name] = children if name == "_modules" else copy.deepcopy(value, memo)
        except Exception:  # shared instead: nothing writes to it while the module is traced
            new.__dict__[name] = value
    return new


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's own warnings, keep its random state, and keep fused layers off the paths that hide operations."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _first_lines(error: Exception, most: int = 6) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: " + "\n".join(lines[:most])
