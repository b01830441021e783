"""A re-basin network to train by hand: a module whose parameters are the logits of a soft plan."""

from typing import Any

import torch
from torch import Tensor, nn

from rebasin_core.errors import UnsupportedModelError
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.learned_plan import LearnedPlan, check_graph, initial_logits
from rebasin_core.symmetry.plan import Plan
from rebasin_core.symmetry.soft_plan import SoftPlan, mix_when_used
from rebasin_torch.copies import rebuild_module, skeleton
from rebasin_torch.dynamo import not_compiled
from rebasin_torch.functional import evaluation_skeleton, run
from rebasin_torch.state import every_tensor, parameters_of, weights_device

__all__ = ["RebasinNet"]


class RebasinNet(LearnedPlan, nn.Module):
    """A module re-based by a plan that is learned (the paper's re-basin network).

    Its parameters are the logits, one matrix per permutation group, and nothing else: hand ``net.parameters()`` to any
    optimizer. In train mode a call runs the module with its weights mixed by the soft plan, ``S_tau(logits)``, and
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
        The module cannot be carried: lazy, on ``meta``, on several devices, or quantized.
    SpecError, ShapeError
        The graph is for another module, or there is nothing to permute.
    SettingError, PlanError
        A setting is out of range, or `init` is for another graph.

    Notes
    -----
    In float16 and bfloat16 the logits are float32, in float64 they are float64; ``.to(dtype)`` converts all alike. The
    hard plan is assigned again in each call in eval mode; for many batches, take ``net.model()`` once.

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
    >>> optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    >>> for _ in range(20):
    ...     distance = sum(((a.get_parameter(n) - p) ** 2).sum() for n, p in net.soft_parameters().items())
    ...     optimizer.zero_grad()
    ...     distance.backward()
    ...     optimizer.step()
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
        params = parameters_of(model)
        check_graph(graph, params, "permutation_graph(model, *example_inputs)")
        logits = initial_logits(graph, params, tau, num_iters, init, init_scale)
        self.graph, self.tau, self.num_iters = graph, float(tau), int(num_iters)
        self._names = tuple(params)
        self._called = tuple(every_tensor(model))
        self._state_buffers = frozenset(name for name, _ in model.named_buffers(remove_duplicate=False))
        for name, x in {**every_tensor(model), **params}.items():
            self.register_buffer(_key("model", name), x.detach().clone(), persistent=name in params)
        device = weights_device(params)
        for group, values in logits.items():
            self.register_parameter(_key("logits", group), nn.Parameter(torch.tensor(values, device=device)))
        # Past nn.Module's own bookkeeping: their tensors, on meta, are neither parameters nor buffers of this network.
        object.__setattr__(self, "_template", skeleton(model))
        object.__setattr__(self, "_body", evaluation_skeleton(skeleton(model)))

    @property
    def logits(self) -> dict[str, nn.Parameter]:
        """The parameters, by group: shape (n, n), or (parent, n, n) for a group local to another."""
        return {group: self.get_parameter(_key("logits", group)) for group in self.graph.groups}

    def model(self) -> nn.Module:
        """Return a copy of the module re-based by the hard plan: the same type, the same function, on this device."""
        hard = self.plan().apply(self._original(), self.graph)
        return rebuild_module(self._template, {**self._all(), **hard})

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
        if not self.training:
            return {**self._all(), **self.plan().apply(self._original(), self.graph)}
        mix = SoftPlan.apply if torch.compiler.is_compiling() else mix_when_used
        return {**self._all(), **mix(self.soft_plan(), self._original(), self.graph)}

    def _logit_values(self) -> dict[str, nn.Parameter]:
        return self.logits

    def _original(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(_key("model", name)) for name in self._names}

    def _all(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(_key("model", name)) for name in dict.fromkeys((*self._called, *self._names))}


def _key(kind: str, name: str) -> str:
    """Name for `nn.Module`, which keeps the dot for itself: another for every name, readable for the usual ones.

    The kind keeps it clear of the module's own attributes. The dot is written as a slash, and what would then read
    alike is escaped, as in a JSON pointer.
    """
    return f"{kind}:{name.replace('~', '~0').replace('/', '~1').replace('.', '/')}"
