"""One row times one matrix on all threads of a CPU: the product that the Sinkhorn operator is made of."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["WIDE", "row_products", "row_times_matrix"]

WIDE = 768
"""Columns from which a second thread saves more than it costs."""


def row_products(A: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Return ``x -> x @ A`` and ``x -> x @ A^T`` for rows of shape (batch, 1, size).

    For few units the calls are what costs: nothing is asked in them that is known here.
    """
    AT = A.mT
    if A.shape[0] == 1 and A.shape[2] >= WIDE:
        return lambda x: row_times_matrix(x, A), lambda x: row_times_matrix(x, AT)
    return lambda x: torch.bmm(x, A), lambda x: torch.bmm(x, AT)


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
