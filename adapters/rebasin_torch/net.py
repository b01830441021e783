"""A re-basin network to train by hand: a module whose parameters are the logits of a soft plan."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rebasin_core.errors import SettingError, SpecError, UnsupportedModelError
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.assignment import linear_assignment
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan, check_fits
from rebasin_core.symmetry.soft_plan import SoftPlan
from rebasin_torch.copies import rebuilt, skeleton
from rebasin_torch.dynamo import not_compiled
from rebasin_torch.functional import evaluation_skeleton, run
from rebasin_torch.state import every_tensor, parameters_of
from rebasin_torch.values import to_host

__all__ = ["RebasinNet"]


class RebasinNet(nn.Module):
    """A module re-based by a plan that is learned (the paper's re-basin network).

    Its parameters are the logits, one matrix per permutation group, and nothing else: hand ``net.parameters()`` to any
    optimiser. In train mode a call runs the module with its weights mixed by the soft plan, ``S_tau(logits)``, and
    gradients reach the logits by implicit differentiation; in eval mode it runs with the nearest hard plan, which is
    the function of the original. The module itself always computes as in its own eval mode.

    Use it where `rebasin_core.align` is too narrow: a training loop, a schedule or an objective of your own, continual
    learning, or several processes.

    Parameters
    ----------
    model : torch.nn.Module
        The network to re-base. Its weights are copied in as buffers: they move with ``.to(device)``, are saved with
        ``state_dict`` and are not trained.
    graph : PermutationGraph
        What may be permuted, as found by ``rebasin_core.permutation_graph(model, *example_inputs)``.
    tau : float, default 1.0
        Temperature of the Sinkhorn operator, in units of the logits.
    num_iters : int, default 20
        Iterations of the operator.
    init : Plan, optional
        Where to start; default: the identity.
    init_scale : float, default 0.5
        Height of the logits on that plan, in units of `tau`. The hard plan is `init` whatever the height; the soft plan
        starts near it only if `init_scale` is well above ``log(n)`` for a group of size n. A low start is meant: it
        lets the first steps see all plans at once.

    Raises
    ------
    UnsupportedModelError
        The module cannot be carried: lazy, on ``meta``, on several devices, or quantised.
    SpecError, ShapeError
        The graph is for another module, or there is nothing to permute.
    SettingError, PlanError
        A setting is out of range, or `init` is for another graph.

    Notes
    -----
    In float16 and bfloat16 the logits are float32, in float64 they are float64; ``.to(dtype)`` converts all alike. The
    hard plan is assigned anew in each call in eval mode; for many batches, take ``net.model()`` once.

    ``torch.compile`` compiles the module and leaves the plan, whose loops depend on values, to plain Python. Under
    ``DistributedDataParallel`` the gradients of the logits are averaged; pass ``broadcast_buffers=False`` there, since
    the buffers never change.

    Examples
    --------
    >>> import torch
    >>> import rebasin_core as rb
    >>> from rebasin_torch import RebasinNet
    >>> _ = torch.manual_seed(0)
    >>> a = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1))
    >>> x = torch.randn(32, 4)
    >>> graph = rb.permutation_graph(a, x)
    >>> b = rb.permute(a, rb.Plan.random(graph, seed=1), graph)
    >>> net = RebasinNet(b, graph)
    >>> optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    >>> for _ in range(20):
    ...     distance = sum(((a.get_parameter(n) - p) ** 2).sum() for n, p in net.soft_parameters().items())
    ...     optimiser.zero_grad()
    ...     distance.backward()
    ...     optimiser.step()
    >>> torch.equal(net.model()[0].weight, a[0].weight)
    True
    """

    _template: nn.Module
    _body: nn.Module

    def __init__(
        self,
        model: nn.Module,
        graph: PermutationGraph,
        tau: float = 1.0,
        num_iters: int = 20,
        *,
        init: Plan | None = None,
        init_scale: float = 0.5,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise UnsupportedModelError(f"expected a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(graph, PermutationGraph):
            raise SpecError(
                f"expected a PermutationGraph, got {type(graph).__name__}; make one with "
                f"rebasin_core.permutation_graph(model, *example_inputs)"
            )
        _check_number("tau", tau, positive=True)
        _check_number("init_scale", init_scale, positive=False)
        at_least(1, num_iters=num_iters)
        params = parameters_of(model)
        graph.check_params(params, "the model")
        if not graph.groups:
            raise SpecError("the graph has no permutation group: there is nothing to learn")
        start = Plan.identity(graph) if init is None else init
        check_fits(start, graph)
        self.graph, self.tau, self.num_iters = graph, float(tau), int(num_iters)
        self._names = tuple(params)
        self._called = tuple(every_tensor(model))
        self._state_buffers = frozenset(name for name, _ in model.named_buffers(remove_duplicate=False))
        for name, x in {**every_tensor(model), **params}.items():
            self.register_buffer(_key("model", name), x.detach().clone(), persistent=name in params)
        like = _logits_like(params, graph)
        for group, perm in start.items():
            height = init_scale * self.tau * np.eye(perm.shape[-1])[perm]
            values = torch.tensor(height, dtype=like.dtype, device=like.device)
            self.register_parameter(_key("logits", group), nn.Parameter(values))
        # Past nn.Module's own bookkeeping: their tensors, on meta, are neither parameters nor buffers of this network.
        object.__setattr__(self, "_template", skeleton(model))
        object.__setattr__(self, "_body", evaluation_skeleton(skeleton(model)))

    @property
    def logits(self) -> dict[str, nn.Parameter]:
        """The parameters, by group: shape (n, n), or (parent, n, n) for a group local to another."""
        return {group: self.get_parameter(_key("logits", group)) for group in self.graph.groups}

    def soft_plan(self) -> SoftPlan:
        """Return the doubly stochastic matrices ``S_tau(logits)``, differentiable."""
        return SoftPlan.from_logits(self.logits, self.graph.parents, self.tau, self.num_iters)

    def soft_parameters(self, deferred: bool = False) -> dict[str, Tensor]:
        """Return the module's tensors, buffers too, mixed by the soft plan (Eq. 6); differentiable in the logits.

        With ``deferred=True`` weights of linear layers and convolutions are mixed when they are used, or what goes in
        and comes out is, if that is cheaper: choose it when a network is computed with them, once. They pass for
        tensors: scaled, or with a tensor added, they stay deferred, and anything else computes them.
        """
        return self.soft_plan().apply(self._original(), self.graph, deferred)

    def plan(self) -> Plan:
        """Return the nearest hard plan: a linear assignment on the logits of every group."""
        hard = {group: linear_assignment(to_host(x).astype(np.float64)) for group, x in self.logits.items()}
        return Plan(hard, self.graph.parents)

    def model(self) -> nn.Module:
        """Return a copy of the module re-based by the hard plan: the same type, the same function, on this device."""
        hard = self.plan().apply(self._original(), self.graph)
        return rebuilt(self._template, {**self._all(), **hard})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module: softly re-based in train mode, by the hard plan in eval mode."""
        tensors = self._rebased()
        return run(self._body, {name: tensors[name] for name in self._called}, self._state_buffers, args, kwargs)

    def extra_repr(self) -> str:
        """Describe the settings."""
        groups = ", ".join(f"{group}: {n}" for group, n in self.graph.groups.items())
        return f"{type(self._template).__name__}, {{{groups}}}, tau={self.tau}, num_iters={self.num_iters}"

    # Its loops depend on values, and linear assignment runs on the host: nothing for a compiler.
    @not_compiled  # type: ignore[untyped-decorator,unused-ignore]
    def _rebased(self) -> dict[str, Tensor]:
        if self.training:
            return {**self._all(), **self.soft_parameters(deferred=not torch.compiler.is_compiling())}
        return {**self._all(), **self.plan().apply(self._original(), self.graph)}

    def _original(self) -> dict[str, Tensor]:
        """Tensors of the module's state dictionary, as the graph names them."""
        return {name: self.get_buffer(_key("model", name)) for name in self._names}

    def _all(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(_key("model", name)) for name in dict.fromkeys((*self._called, *self._names))}


def _key(kind: str, name: str) -> str:
    """Name for `nn.Module`, which keeps the dot for itself; the kind keeps it clear of the module's own attributes."""
    return f"{kind}:{name.replace('.', '/')}"


def _logits_like(params: Mapping[str, Tensor], graph: PermutationGraph) -> Tensor:
    """A tensor of the dtype and device that logits should have: that of the weights, but at least float32."""
    moving = [x for name, x in params.items() if graph.axes[name].groups and x.is_floating_point()]
    dtype = torch.float64 if any(x.dtype is torch.float64 for x in moving) else torch.float32
    return torch.empty((), dtype=dtype, device=next(iter(params.values())).device)


def _check_number(name: str, value: Any, positive: bool) -> None:
    valid = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    if not valid or value < 0 or (positive and value == 0):
        wanted = "a positive number" if positive else "a number of at least 0"
        raise SettingError(f"expected {name} as {wanted}, got {value!r}")
