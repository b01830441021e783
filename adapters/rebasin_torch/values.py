"""Reading the values of tensors: whether that is possible, and how they reach NumPy."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from rebasin_core.backends.dtypes import is_narrow

__all__ = ["can_be_read", "dtype_name", "to_host"]


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


def dtype_name(x: Tensor) -> str:
    """Name of the dtype, without the module."""
    return str(x.dtype).removeprefix("torch.")


def to_host(x: Tensor) -> np.ndarray[Any, Any]:
    """Copy values to a NumPy array that shares no memory with the tensor; narrow floats NumPy lacks as float32."""
    x = x.detach()
    if is_narrow(dtype_name(x)) and x.dtype is not torch.float16:
        x = x.float()
    return np.array(x.numpy(force=True))
