"""What every family of the zoo must pass: a random plan moves nearly all parameters and keeps the outputs."""

import copy
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rebasin_torch.tracing import trace
from torch.utils import _pytree as pytree

from rebasin_core.backends import get_backend
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.axes import AxesSpec, Fixed
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["Report", "check_family", "max_relative_error", "negative_control", "outputs_of", "permuted", "randomize"]


@dataclass(frozen=True)
class Report:
    """Figures of one family."""

    graph: PermutationGraph
    error: float
    moved: float
    seconds: float

    @property
    def counts(self) -> tuple[int, int]:
        """Number of groups, and of local ones among them."""
        return len(self.graph.groups), len(self.graph.parents)


def randomize(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give a model random norms, statistics and biases of a useful size, so that a wrong axis shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            if p.ndim < 2 or float(p.abs().max()) < 1e-3 or float(p.std()) < 1e-5:
                # Vectors (biases, scales) and initializations that are zero, constant or tiny.
                p.copy_((1.0 if name.endswith("weight") and p.ndim < 2 else 0.0) + 0.3 * noise)
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(0.3 * torch.randn(b.shape, generator=generator, dtype=b.dtype))
            elif name.endswith("running_var"):
                b.copy_(0.5 + torch.rand(b.shape, generator=generator, dtype=b.dtype))
    return model


def outputs_of(model: torch.nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """Every floating-point output, in eval mode."""
    args, kwargs = _call_arguments(inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytree.tree_leaves(model.eval()(*args, **kwargs))
    return [x for x in found if isinstance(x, torch.Tensor) and x.is_floating_point()]


def permuted(state: dict[str, torch.Tensor], plan: Plan, graph: PermutationGraph) -> dict[str, torch.Tensor]:
    """Reorder a state dictionary."""
    new = copy.copy(state)  # keeps the metadata that some modules look for while they load
    arrays = {name: value.detach().numpy() for name, value in state.items()}
    for name, x in plan.apply(arrays, graph).items():
        new[name] = torch.from_numpy(np.array(x))
    return new


def max_relative_error(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Largest difference of any output, relative to the largest value of that output (dimensionless)."""
    assert len(before) == len(after) > 0
    errors = []
    for a, b in zip(before, after, strict=True):
        scale = float(a[torch.isfinite(a)].abs().max())
        assert scale > 0, "an output is zero: it would hide every error"
        errors.append(float((a - b).nan_to_num().abs().max()) / scale)
    return max(errors)


def check_family(
    model: torch.nn.Module, *inputs: Any, tolerance: float = 1e-9, moved: float = 0.9, seed: int = 0
) -> Report:
    """Trace a model, apply a random plan over all groups, and compare: same outputs, other parameters."""
    model = randomize(model.double().eval())
    start = time.perf_counter()
    graph = trace(model, *inputs)
    seconds = time.perf_counter() - start
    state = model.state_dict()
    for name, value in state.items():
        state[name] = value.clone()
    assert list(graph.axes) == list(state)
    assert all(graph.shapes[name] == tuple(value.shape) for name, value in state.items())
    before = outputs_of(model, inputs)
    new = permuted(state, Plan.random(graph, seed), graph)
    model.load_state_dict(new)
    after = outputs_of(model, inputs)
    model.load_state_dict(state)
    learned = dict(model.named_parameters()).keys()
    total = sum(state[name].numel() for name in learned)
    changed = sum(int((state[name] != new[name]).sum()) for name in learned)
    report = Report(graph, max_relative_error(before, after), changed / total, seconds)
    assert report.error <= tolerance, (
        f"outputs differ by {report.error:.1e} (relative), at most {tolerance:.0e} is allowed"
    )
    assert report.moved >= moved, f"only {report.moved:.1%} of the parameters moved\n{graph}"
    return report


def negative_control(model: torch.nn.Module, *inputs: Any) -> list[str]:
    """Permute every axis alone, with all of its groups, and return the axes that the outputs do not notice."""
    graph = trace(model, *inputs)
    state = model.state_dict()
    before = outputs_of(model, inputs)
    blind = []
    for name, spec in graph.axes.items():
        for i, axis in enumerate(spec.axes):
            alone = AxesSpec.of(*(axis if k == i else Fixed() for k in range(len(spec))))
            if not alone.groups:
                continue
            actions = {group: _shifted(graph, group) for group in alone.groups}
            x = state[name].detach().numpy()
            moved = torch.from_numpy(np.array(act(get_backend(x), x, alone, graph.groups, actions)))
            after = torch.func.functional_call(model, {name: moved}, *_call_arguments(inputs))
            if max_relative_error(before, [after.detach()]) < 1e-7:
                blind.append(f"{name}[{i}]")
    return blind


def _shifted(graph: PermutationGraph, group: str) -> np.ndarray[Any, Any]:
    """Shift a group by one place; a local one, everywhere alike."""
    perm = np.roll(np.arange(graph.groups[group]), 1)
    if group not in graph.parents:
        return perm
    return np.tile(perm, (graph.groups[graph.parents[group]], 1))


def _call_arguments(inputs: tuple[Any, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (inputs[:-1], dict(inputs[-1])) if isinstance(inputs[-1], Mapping) else (inputs, {})
