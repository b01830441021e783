"""The model adapter: a ``torch.nn.Module`` in, one of the same kind out."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rebasin_core.errors import SettingError, UnsupportedModelError
from rebasin_core.models.adapter import Forward, Loss
from rebasin_core.models.batch_norms import BatchNorms
from rebasin_core.models.unit_layers import UnitLayers
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_torch.activations import collector
from rebasin_torch.batch_norms import batch_norms
from rebasin_torch.copies import rebuild_module
from rebasin_torch.functional import forward_function, to_tensors
from rebasin_torch.losses import loss_function, metric_function
from rebasin_torch.pairs import check_pair
from rebasin_torch.state import check_initialized, every_tensor, parameters_of
from rebasin_torch.unit_layers import unit_layers

__all__ = ["TorchAdapter"]


class TorchAdapter:
    """Carries modules of PyTorch.

    The parameters are the tensors of ``model.state_dict()``: learned ones and buffers, tied ones under each name.
    Nothing of the user's module changes: every computation runs on a private copy in eval mode, every result is a copy.

    Examples
    --------
    >>> import torch
    >>> import rebasin_core as rb
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.ones(5, 3)
    >>> graph = rb.permutation_graph(model, x)
    >>> other = rb.permute(model, rb.Plan.random(graph, seed=0), graph)
    >>> torch.allclose(model(x), other(x)), torch.equal(model[0].weight, other[0].weight)
    (True, False)
    """

    name = "torch"

    def params(self, model: Any) -> dict[str, Tensor]:
        """Return the tensors of the state dictionary, detached, sharing the module's memory."""
        return parameters_of(model)

    def forward(self, model: Any) -> Forward:
        """Return the module as a function of (params, inputs)."""
        return forward_function(model)

    def rebuild(self, model: Any, params: Mapping[str, Any]) -> Any:
        """Return a copy of the module that holds these parameters, on its device, in its dtypes and its mode."""
        return rebuild_module(model, params)

    def graph(self, model: Any, *example_inputs: Any, pin: Iterable[str] = ()) -> PermutationGraph:
        """Trace the module; the values of its weights are not read, so that it may be on ``meta``."""
        # Loading the exporter takes as long as loading the rest of torch: not before it is needed.
        from rebasin_torch.tracing import trace

        check_initialized(model)
        inputs = example_inputs or self.example_inputs(model)
        if not inputs:
            raise SettingError(
                f"a torch module does not say what shape its inputs have, and {type(model).__name__} is traced by "
                f"following some; pass example inputs, as in permutation_graph(model, torch.zeros(1, 784)) or "
                f"align(model_a, model_b, torch.zeros(1, 784)), or graph="
            )
        return trace(model, *to_tensors(inputs, every_tensor(model)), pin=pin)

    def example_inputs(self, model: Any) -> tuple[Any, ...] | None:
        """Return ``model.dummy_inputs``, which models of Hugging Face have; other modules do not tell their inputs."""
        dummy = getattr(model, "dummy_inputs", None)
        return (dict(dummy),) if isinstance(dummy, Mapping) else None

    def loss(self, model: Any, loss: Any) -> Loss:
        """Return the loss: a callable, a name of ``torch.nn.functional``, or None where the outputs hold one."""
        return loss_function(loss)

    def metric(self, model: Any, metric: Any) -> Loss:
        """Return the metric: a callable or ``"accuracy"``."""
        return metric_function(metric)

    def check_pair(self, model_a: Any, model_b: Any) -> None:
        """Raise unless both have one module tree, one dtype per tensor, and one device."""
        for model, what in ((model_a, "A"), (model_b, "B")):
            if isinstance(model, torch.jit.ScriptModule):
                raise UnsupportedModelError(
                    f"model {what} is a compiled ScriptModule; pass the module it was made from"
                )
        check_pair(model_a, model_b)

    def activations(self, model: Any, graph: PermutationGraph) -> Any:
        """Return ``collect(params, inputs)``: per group, what every layer that produces it gives, (samples, units)."""
        return collector(model, graph)

    def batch_norms(self, model: Any) -> BatchNorms | None:
        """Return the passes in which batch normalization layers use the statistics of the batch."""
        return batch_norms(model)

    def unit_layers(self, model: Any, graph: PermutationGraph) -> UnitLayers:
        """Return the layers that can be scaled and shifted unit by unit."""
        return unit_layers(model, graph)

    @contextmanager
    def keep_random_state(self, seed: int | None = None) -> Iterator[None]:
        """Give torch its random state back afterwards; with a seed, start from that in between.

        Loaders draw from the global generator whenever they are read, and some models whenever they are called. In
        between, inference mode is off: its tensors can take no part in a gradient.
        """
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call,unused-ignore]
        with torch.random.fork_rng(devices=devices), torch.inference_mode(False):
            if seed is not None:
                torch.manual_seed(seed)
            yield
