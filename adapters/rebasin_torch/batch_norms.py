"""Batch normalisation layers of a module: run with the statistics of the batch, and these statistics measured.

On a private copy, the layers lose their running statistics. torch's own rule then applies: a layer without running
statistics normalises by the batch, in eval mode too, where nothing is written, counted or synchronised between
processes. Nothing happens in place, so that the pass can be differentiated and run under ``torch.func.vmap``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebasin_core.backends.dtypes import is_narrow
from rebasin_core.errors import DataError
from rebasin_core.models.batch_norms import BatchNorms
from rebasin_torch.copies import skeleton
from rebasin_torch.functional import as_arguments, evaluation_skeleton, run
from rebasin_torch.state import every_tensor
from rebasin_torch.values import dtype_name

__all__ = ["batch_norms"]


def batch_norms(model: nn.Module) -> BatchNorms | None:
    """Return the passes over the batch normalisation layers that have running statistics; None where there are none.

    These are ``BatchNorm1d`` to ``3d``, ``SyncBatchNorm`` (which then sees the batch of its own process) and classes
    derived from them. Instance norms that track statistics normalise by these in eval mode and are left at that; so are
    layers without statistics, which normalise by the batch as it is.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.BatchNorm1d(2)
    >>> found = batch_norms(layer)
    >>> found.measure(layer.state_dict(), torch.tensor([[1.0, 2.0], [3.0, 6.0]]))["running_var"]
    tensor([2., 8.])
    """
    # A layer that a module holds under several names has statistics under each of them.
    names = [name for name, module in model.named_modules(remove_duplicate=False) if _tracks(module)]
    if not names:
        return None
    body = evaluation_skeleton(skeleton(model))
    layers: dict[_BatchNorm, list[str]] = {}
    for name in names:
        layer = body.get_submodule(name)
        assert isinstance(layer, _BatchNorm)
        layers.setdefault(layer, []).append(f"{name}." if name else "")
    for layer in layers:
        layer.running_mean = layer.running_var = None
        layer.register_forward_pre_hook(_check_count, with_kwargs=True)
    kept = {**dict(body.named_parameters(remove_duplicate=False)), **dict(body.named_buffers(remove_duplicate=False))}
    own = {name: x.detach() for name, x in every_tensor(model).items() if name in kept}
    buffers = frozenset(name for name, _ in body.named_buffers(remove_duplicate=False))

    def forward(params: Mapping[str, Tensor], inputs: Any) -> Any:
        args, kwargs = as_arguments(inputs)
        return run(body, {name: params.get(name, x) for name, x in own.items()}, buffers, args, kwargs)

    def measure(params: Mapping[str, Tensor], inputs: Any) -> dict[str, Tensor]:
        seen: dict[_BatchNorm, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
        hooks = [layer.register_forward_pre_hook(_keep(seen[layer]), with_kwargs=True) for layer in layers]
        try:
            with torch.no_grad():
                forward(params, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return {
            prefix + name: x
            for layer, calls in seen.items()
            if calls  # one that this pass did not reach has nothing to report
            for name, x in _statistics(layer, calls).items()
            for prefix in layers[layer]
        }

    return BatchNorms(forward, measure)


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None


def _statistics(layer: _BatchNorm, calls: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Mean over the calls of a layer, and their count, by the names of its buffers."""
    variances, means = (torch.stack(x).mean(0) for x in zip(*calls, strict=True))
    found = {"running_mean": means, "running_var": variances}
    if layer.num_batches_tracked is not None:
        found["num_batches_tracked"] = torch.tensor(len(calls), device=means.device)
    return found


def _keep(calls: list[tuple[Tensor, Tensor]]) -> Callable[..., None]:
    """Hook that notes variance and mean per channel of what a layer is given."""

    def hook(layer: nn.Module, args: Any, kwargs: Any) -> None:
        x = _input(args, kwargs)
        x = x.float() if is_narrow(dtype_name(x)) else x
        calls.append(torch.var_mean(x, [0, *range(2, x.ndim)], correction=1))

    return hook


def _check_count(layer: nn.Module, args: Any, kwargs: Any) -> None:
    x = _input(args, kwargs)
    # Of inputs of a wrong shape, the layer itself says what is wrong.
    if x.ndim >= 2 and x.numel() <= x.shape[1]:
        raise DataError(
            f"batch normalisation by the batch needs more than one value per channel, and got {list(x.shape)}; use "
            f"larger batches (batch_size=, or a loader that drops its last batch), or normalization='running' in an "
            f"objective"
        )


def _input(args: Any, kwargs: Any) -> Tensor:
    x = args[0] if args else kwargs["input"]
    assert isinstance(x, Tensor)
    return x
