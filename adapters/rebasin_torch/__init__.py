"""PyTorch, carried to and from rebasin-core: arrays, modules, tracing, and a re-basin network to train by hand."""

from rebasin_torch.adapter import TorchAdapter
from rebasin_torch.backend import TorchBackend
from rebasin_torch.net import RebasinNet

__all__ = ["RebasinNet", "TorchAdapter", "TorchBackend"]
