"""A weight that is mixed when it is used: the same numbers and gradients, by whichever way is cheaper."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from rebasin_torch import RebasinNet
from rebasin_torch.deferred import DeferredMix, deferred_mix
from torch import nn
from torch.nn import functional

import rebasin_core as rb
from rebasin_core.line.mean import lerp
from rebasin_core.models.model import open_model
from rebasin_core.symmetry.soft_plan import mix_when_used

KINDS = {1: (nn.Conv1d, functional.conv1d), 2: (nn.Conv2d, functional.conv2d), 3: (nn.Conv3d, functional.conv3d)}


def matrices(*sizes, seed=0):
    rng = torch.Generator().manual_seed(seed)
    logits = [torch.randn(n, n, generator=rng, dtype=torch.float64) for n in sizes]
    return [rb.sinkhorn(x).detach().requires_grad_() for x in logits]


def deferred(weight, rows=None, columns=None):
    """The weight, deferred, and how often it was computed."""
    calls = []

    def mix():
        calls.append(1)
        flat = weight.flatten(2) if weight.ndim > 2 else weight[..., None]
        flat = flat if rows is None else torch.einsum("po,oik->pik", rows, flat)
        flat = flat if columns is None else torch.einsum("qi,oik->oqk", columns, flat)
        return flat.reshape(weight.shape)

    return deferred_mix(weight, rows, columns, mix), calls


def check_same(compute, weight, rows, columns, x, computed):
    """`compute(weight)` gives one result and one set of gradients, deferred or not."""
    lazy, calls = deferred(weight, rows, columns)
    wanted = [t for t in (rows, columns, x) if t is not None and t.requires_grad]
    found = []
    for w in (lazy, deferred(weight, rows, columns)[0].compute()):
        y = compute(w)
        found.append([y, *torch.autograd.grad(torch.sin(y).sum(), wanted)])
    for mine, expected in zip(*found, strict=True):
        assert_allclose(mine.detach(), expected.detach(), rtol=1e-10, atol=1e-10)
    assert len(calls) == computed


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("moved", ["both", "rows", "columns"])
@pytest.mark.parametrize("input_gradient", [False, True])
@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1}, {"padding": "same", "dilation": 2}], ids=str)
def test_a_convolution_that_sees_few_places_mixes_what_goes_in_and_out(dims, moved, input_gradient, settings):
    torch.manual_seed(0)
    weight = torch.randn(14, 12, *[3] * dims, dtype=torch.float64)
    P, Q = matrices(14, 12)
    P, Q = P if moved != "columns" else None, Q if moved != "rows" else None
    x = torch.randn(1, 12, *[4] * dims if dims == 1 else [3] * dims, dtype=torch.float64, requires_grad=input_gradient)
    other, bias = torch.randn_like(weight), torch.randn(14, dtype=torch.float64)
    function = KINDS[dims][1]
    if dims == 1 and "dilation" in settings:
        settings = {"dilation": 1, "padding": "same"}
    for compute in (
        lambda w: function(x, w, bias, **settings),
        lambda w: function(x, 0.25 * other + 0.75 * w, None, **settings),
        lambda w: function(x, (other + w) / 2, bias, **settings),
    ):
        lazy, calls = deferred(weight, P, Q)
        compute(lazy)
        check_same(compute, weight, P, Q, x, len(calls))


@pytest.mark.parametrize(("places", "computed"), [(2, 0), (400, 1)])
def test_the_cheaper_way_depends_on_the_number_of_places(places, computed):
    torch.manual_seed(0)
    P, Q = matrices(16, 20)
    x = torch.randn(places, 20, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(16, dtype=torch.float64)
    check_same(lambda w: functional.linear(x, w, bias), torch.randn(16, 20, dtype=torch.float64), P, Q, x, computed)
    image = torch.randn(1, 20, places, 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(16, 20, 1, 1, dtype=torch.float64)
    check_same(lambda w: functional.conv2d(image, w, bias), weight, P, Q, image, computed)


@pytest.mark.parametrize(
    "compute",
    [
        lambda w: (w - 1.0).square(),
        lambda w: w.T @ w,
        lambda w: w[1:, ::2],
        lambda w: 2.0 * w * w,
        lambda w: w + w,
        lambda w: w + torch.arange(5.0, dtype=w.dtype),
        lambda w: w + 1.0,
        lambda w: torch.cat([w, w]),
        lambda w: w / torch.full_like(w, 3.0),
        lambda w: 1.0 / (2.0 + torch.tanh(w)),
        lambda w: functional.linear(w, torch.ones(3, 5, dtype=w.dtype), torch.ones(3, dtype=w.dtype)),
        lambda w: torch.einsum("oi,bi->bo", w, torch.ones(2, 5, dtype=w.dtype)),
    ],
)
def test_anything_else_computes_it_once(compute):
    weight = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check_same(compute, weight, *matrices(4, 5), None, 1)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.int64, torch.bool]
NUMBERS = [0, 1, -1, 2, 0.0, -0.0, 0.5, 1e-30, 3e38, 1e300, 10**400, float("inf"), float("nan"), np.float64(0.5)]
NO_NUMBERS = [True, 1j, None, "1", [1.0]]
OPERATIONS = {
    "mul": lambda w, x: w * x,
    "rmul": lambda w, x: x * w,
    "div": lambda w, x: w / x,
    "rdiv": lambda w, x: x / w,
    "add": lambda w, x: w + x,
    "radd": lambda w, x: x + w,
    "sub": lambda w, x: w - x,
    "torch.add": lambda w, x: torch.add(x, w, alpha=2),
    "torch.div": lambda w, x: torch.div(w, x, rounding_mode="floor"),
    "in place": lambda w, x: w.mul_(x) + w,
    "with itself": lambda w, x: w * x + w / 2,
    "a point of a line": lambda w, x: 0.25 * x + 0.75 * w,
    "linear": lambda w, x: functional.linear(x, w),
    "linear with a bias": lambda w, x: functional.linear(torch.ones(2, 5, dtype=w.dtype), w, x),
    "conv": lambda w, x: functional.conv1d(torch.ones(1, 5, 3, dtype=w.dtype), w[..., None], x),
}


def other_operands(dtype):
    shapes = [(), (4, 5), (2, 5), (5,), (4,), (1, 5), (4, 1), (2, 2, 5), (3, 4), (0, 5)]
    return [((1 + torch.arange(max(1, int(np.prod(s)))))[: int(np.prod(s))] / 7).reshape(s).to(dtype) for s in shapes]


def outcome(compute, *operands):
    try:
        y = compute(*operands)
    except Exception as error:
        return type(error)
    told = y.dtype, y.shape, y.device, y.ndim
    return (*told, y.clone())


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about complex numbers
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_it_behaves_as_the_plain_tensor_in_values_dtype_shape_and_errors(operation, dtype):
    compute = OPERATIONS[operation]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 5, dtype=torch.float64, generator=generator).to(dtype)
    P, Q = (m.detach().to(dtype) for m in matrices(4, 5))
    for x in [*NUMBERS, *NO_NUMBERS, *(x for kind in DTYPES for x in other_operands(kind))]:
        lazy, again = (deferred(weight, P.clone().requires_grad_(), Q.clone().requires_grad_())[0] for _ in range(2))
        found, expected = outcome(compute, lazy, x), outcome(compute, again.mix(), x)
        if isinstance(expected, type):
            assert found is expected, f"{x!r}: {found} instead of {expected}"
            continue
        assert found[:4] == expected[:4], f"{x!r}"
        assert found[4].dtype == expected[4].dtype, f"{x!r}"
        rtol = 16 * torch.finfo(dtype).eps
        assert_allclose(*(y[4].detach().to(torch.complex128) for y in (found, expected)), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("place", [0.5, 0.25, torch.tensor(0.25)], ids=["middle", "number", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_point_of_the_line_is_deferred_as_its_end_is(place, dtype):
    weight, (rows, columns) = torch.randn(4, 3, 2, 2, dtype=dtype), matrices(4, 3)
    lazy, calls = deferred(weight, rows.detach().to(dtype), columns.detach().to(dtype))
    point = lerp({"w": torch.zeros_like(weight)}, {"w": lazy}, place)["w"]
    assert isinstance(point, DeferredMix)
    assert calls == []
    torch.testing.assert_close(point.compute(), place * lazy.compute())


def test_under_autocast_it_computes_in_the_same_dtype():
    P, Q = (m.detach().float().requires_grad_() for m in matrices(6, 5))
    lazy, _ = deferred(torch.ones(6, 5), P, Q)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = functional.linear(torch.ones(1, 5), lazy, torch.ones(6))
        assert found.dtype == functional.linear(torch.ones(1, 5), lazy.mix(), torch.ones(6)).dtype == torch.bfloat16


def test_what_is_changed_in_place_changes_nothing_else():
    lazy, _ = deferred(torch.ones(4, 5), torch.eye(4), torch.eye(5))
    half = lazy / 2
    lazy.zero_()
    lazy[0] += 3
    assert lazy.sum() == 15
    assert functional.linear(torch.ones(1, 5), lazy).sum() == 15
    assert half.sum() == 10


def test_it_has_the_shape_dtype_and_device_of_its_weight_without_being_computed():
    weight = torch.zeros(4, 5, dtype=torch.float16)
    lazy, calls = deferred(weight)
    assert (lazy.shape, lazy.dtype, lazy.device, lazy.ndim) == (weight.shape, weight.dtype, weight.device, 2)
    assert lazy.size(1) == 5
    assert lazy.is_floating_point()
    assert not calls


def test_without_gradients_the_weight_is_mixed_once():
    P, Q = matrices(6, 5)
    lazy, calls = deferred(torch.ones(6, 5, dtype=torch.float64), P, Q)
    with torch.no_grad():
        for _ in range(3):
            functional.linear(torch.ones(1, 5, dtype=torch.float64), lazy)
    assert len(calls) == 1


class Net(nn.Module):
    """Convolutions with and without stride, groups and bias, a norm, a skip, and a linear layer after a flattening."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(12, 12, 3, groups=12, padding=1)
        self.skip = nn.Conv2d(12, 12, 1, padding="same")
        self.hidden = nn.Linear(12 * 4, 24)
        self.wide = nn.Linear(24, 24)
        self.last = nn.Linear(24, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.deep(x))
        x = x + self.skip(torch.relu(self.grouped(x)))
        x = torch.relu(self.hidden(x.flatten(1)))
        return self.last(torch.tanh(self.wide(x)))


@pytest.fixture
def nets():
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(Net().double())
    return made


@pytest.fixture
def batch():
    torch.manual_seed(2)
    return torch.randn(3, 3, 4, 4, dtype=torch.float64), torch.randint(4, (3,))


@pytest.mark.parametrize("objective", [rb.objectives.Midpoint, rb.objectives.RandomPoint])
@pytest.mark.parametrize("normalization", ["batch", "running"])
def test_a_whole_network_has_the_same_loss_and_gradients(nets, batch, objective, normalization):
    a, b = nets
    graph = rb.permutation_graph(b, batch[0])
    net = RebasinNet(b, graph)
    bound = objective("cross_entropy", batch, normalization=normalization).bind(open_model(b), graph)
    assert bound.computes_once
    sample = next(bound.stream(np.random.default_rng(0)))
    found = []
    for lazily in (False, True):
        mix = mix_when_used if lazily else rb.SoftPlan.apply
        params = mix(net.soft_plan(), open_model(b).params, graph)
        assert any(isinstance(x, DeferredMix) for x in params.values()) == lazily
        value = bound.value(open_model(a).params, params, sample)
        found.append([value, *torch.autograd.grad(value, list(net.logits.values()))])
    for plain, mine in zip(*found, strict=True):
        assert_allclose(mine.detach(), plain.detach(), rtol=1e-9, atol=1e-12)


def test_a_call_in_train_mode_is_the_module_with_its_soft_parameters(nets, batch):
    b = nets[1]
    net = RebasinNet(b, rb.permutation_graph(b, batch[0]))
    mixed = {name: x.detach() for name, x in net.soft_parameters().items()}
    expected = torch.func.functional_call(b.eval(), mixed, (batch[0],))
    assert_allclose(net(batch[0]).detach(), expected.detach(), rtol=1e-9, atol=1e-12)


def test_several_starts_agree_with_one_after_the_other(nets, batch):
    """Deferred weights under ``vmap``: plans of several starts at once."""
    a, b = nets
    settings = {"max_steps": 3, "init": "identity", "max_swaps": 0, "num_rounds": 1}
    results = [
        rb.align(
            a,
            b,
            batch[0],
            objective=rb.objectives.Midpoint("cross_entropy", batch),
            solver=rb.solvers.Sinkhorn(num_starts=n, **settings),
            progress=False,
        )
        for n in (1, 3)
    ]
    assert results[1].objective <= results[0].objective + 1e-9
