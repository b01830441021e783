"""One row times one matrix on all threads of a CPU: the product that the Sinkhorn operator is made of."""

import torch
from torch import Tensor

__all__ = ["WIDE", "row_times_matrix"]

WIDE = 768
"""Columns from which a second thread saves more than it costs."""


def row_times_matrix(x: Tensor, y: Tensor) -> Tensor:
    """``x @ y`` for shapes (1, 1, m) and (1, m, n).

    The libraries below torch give such a product to one thread. A batch of products they share out: the matrix is cut
    into as many blocks as there are threads, along the axis in which its rows lie in memory.
    """
    blocks = torch.get_num_threads() if y.device.type == "cpu" and not torch.compiler.is_compiling() else 1
    _, m, n = y.shape
    if blocks > 1 and m % blocks == 0 and y.is_contiguous():
        parts = torch.bmm(x.reshape(blocks, 1, m // blocks), y.view(blocks, m // blocks, n))
        return parts.sum(0, keepdim=True)
    if blocks > 1 and n % blocks == 0 and y.mT.is_contiguous():
        return torch.bmm(x.expand(blocks, 1, m), y.mT.view(blocks, n // blocks, m).mT).view(1, 1, n)
    return torch.bmm(x, y)
