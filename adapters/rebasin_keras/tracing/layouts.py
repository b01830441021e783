"""Channels first or last: bring a tensor to channels second, which the convolutions of the core expect, and back."""

from rebasin_core.inference import Primitives, Tensor

__all__ = ["from_channels_second", "places", "to_channels_second"]


def to_channels_second(p: Primitives, x: Tensor, data_format: str) -> Tensor:
    """Permute ``(batch, *places, channels)`` to ``(batch, channels, *places)``."""
    return x if data_format == "channels_first" else p.permute(x, [0, x.ndim - 1, *range(1, x.ndim - 1)])


def from_channels_second(p: Primitives, x: Tensor, data_format: str) -> Tensor:
    """Permute ``(batch, channels, *places)`` to the layout of the layer."""
    return x if data_format == "channels_first" else p.permute(x, [0, *range(2, x.ndim), 1])


def places(ndim: int, data_format: str) -> list[int]:
    """The axes of an image, a series or a volume that are neither batch nor channels."""
    return list(range(2, ndim)) if data_format == "channels_first" else list(range(1, ndim - 1))
