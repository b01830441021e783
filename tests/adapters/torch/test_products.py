"""A product cut into blocks for the threads is the product."""

import pytest

torch = pytest.importorskip("torch")

from rebasin_torch import TorchBackend  # noqa: E402
from rebasin_torch.products import WIDE, row_times_matrix  # noqa: E402


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("m", "n"), [(WIDE, WIDE), (6, WIDE + 6), (7, WIDE + 1), (WIDE + 5, 800)])
@pytest.mark.parametrize("transposed", [False, True])
def test_row_times_matrix_is_matmul_with_its_derivatives(threads, m, n, transposed):
    generator = torch.Generator().manual_seed(0)
    stored = torch.randn((1, n, m) if transposed else (1, m, n), generator=generator, dtype=torch.float64)
    arguments = torch.randn(1, 1, m, generator=generator, dtype=torch.float64), stored
    weight = torch.randn(1, 1, n, generator=generator, dtype=torch.float64)
    found = []
    for product in (row_times_matrix, torch.matmul):
        x, y = (z.clone().requires_grad_() for z in arguments)
        out = product(x, y.mT if transposed else y)
        assert out.shape == (1, 1, n)
        found.append((out.detach(), *torch.autograd.grad((out * weight).sum(), (x, y))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_backend_takes_it_for_wide_matrices(threads, monkeypatch):
    taken = []
    monkeypatch.setattr("rebasin_torch.backend.row_times_matrix", lambda x, y: taken.append(y.shape) or x @ y)
    x, wide, narrow = torch.ones(1, 1, 8), torch.ones(1, 8, WIDE), torch.ones(1, 8, WIDE - 1)
    backend = TorchBackend()
    backend.matmul(x, narrow)
    backend.matmul(x.expand(2, 1, 8), wide.expand(2, 8, WIDE))
    assert taken == []
    assert backend.matmul(x, wide).shape == backend.matmul(x, wide.mT.contiguous(), transpose_y=True).shape
    assert len(taken) == 2
