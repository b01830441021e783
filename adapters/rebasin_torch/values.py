"""Reading the values of tensors: whether that is possible, and how they reach NumPy."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["NARROW", "can_be_read", "to_host"]

NARROW = frozenset(
    kind
    for name in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if (kind := getattr(torch, name, None)) is not None
)
"""Floating dtypes in which sums and small steps get lost."""


def can_be_read(x: Tensor) -> bool:
    """Whether the values of a tensor are there and may be looked at.

    Not while ``torch.compile`` traces, not of fake tensors (``torch.export``), and not of tensors on ``meta``.
    """
    return not (
        torch.compiler.is_compiling()
        or isinstance(x, FakeTensor)
        or x.device.type == "meta"
        or torch._is_functional_tensor(x)
    )


def to_host(x: Tensor) -> np.ndarray[Any, Any]:
    """Copy values to a NumPy array that shares no memory with the tensor; narrow floats NumPy lacks as float32."""
    x = x.detach()
    if x.dtype in NARROW and x.dtype is not torch.float16:
        x = x.float()
    return np.array(x.numpy(force=True))
