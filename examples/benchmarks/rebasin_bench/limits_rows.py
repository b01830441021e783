"""What the machine can do, and which share of it the operator and a training step reach.

A matrix product is as fast as the cores multiply, a copy or a product with a vector as fast as memory delivers. The
operator reads and writes n² numbers again and again, so that the second is its limit; a training step multiplies.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

import rebasin_core as rb
from rebasin_bench.implementations import Case, inputs
from rebasin_bench.measure import Contestant, interleaved
from rebasin_bench.operators import torch_operator
from rebasin_bench.rows import Row, Settings, Task
from rebasin_bench.training_rows import our_step

__all__ = ["tasks"]

SIZES = (512, 1024, 2048, 4096)
STEPS = ("MLP", "VGG-11", "ResNet-18")
ITERATIONS = 20
FORWARD_PASSES = 2 + 2 + 2
"""Times that n² numbers are read or written, products left aside: their extremes twice, exp, the plan."""
BACKWARD_PASSES = 3 + 5 + 4 + 3
"""The same: ``P * G``, five sums and extremes, the residual, ``P * R``."""


def tasks(settings: Settings) -> list[Task]:
    """The machine's rates, then the shares."""
    sizes = [n for n in (SIZES[:1] if settings.quick else SIZES) if n <= settings.largest]
    steps = () if settings.quick else STEPS
    found = [_task(settings, {"what": what, "n": n}, partial(make, n)) for what, make in _RATES.items() for n in sizes]
    found += [_task(settings, {"what": "operator, both", "n": n}, partial(_operator, n)) for n in sizes]
    return found + [_task(settings, {"what": f"training step, {name}"}, partial(_step, name)) for name in steps]


Work = tuple[Callable[[], object], str, float]
"""What to call, the name of a rate, and how much of it, in billions, one call does."""


def _task(settings: Settings, case: dict[str, str | int | float], make: Callable[[], Work]) -> Task:
    row = Row("limits", case, "torch")
    return Task(str(case["what"]), (row,), partial(_run, settings, row, make))


def _run(settings: Settings, row: Row, make: Callable[[], Work]) -> list[Row]:
    call, rate, amount = make()
    call()
    times = interleaved({"ours": Contestant(lambda _: call())}, settings.seconds, settings.repeats)
    return [row.filled(times, {rate: amount / times["ours"].median}, "", True)]


def _product(n: int) -> Work:
    a = torch.randn(n, n)
    return partial(torch.mm, a, a), "GFLOP/s", 2.0 * n**3 / 1e9


def _copy(n: int) -> Work:
    source = torch.randn(n, n)
    return partial(torch.empty_like(source).copy_, source), "GB/s", 2.0 * _bytes(n)


def _vector(n: int) -> Work:
    a, x = torch.randn(1, n, n), torch.randn(1, 1, n)
    return partial(torch.bmm, x, a), "GB/s", _bytes(n)


_RATES: dict[str, Callable[[int], Work]] = {"product": _product, "copy": _copy, "matrix times vector": _vector}


def _operator(n: int) -> Work:
    operator = torch_operator(lambda x: rb.sinkhorn(x, 1.0, num_iters=ITERATIONS), *inputs(Case(n)))
    # How many products there are depends on the logits: iterations and terms end where they change nothing.
    with FlopCounterMode(display=False) as counter:
        operator.both()
    products = counter.get_total_flops() / (2 * n**2)
    return operator.both, "GB/s", (FORWARD_PASSES + BACKWARD_PASSES + products) * _bytes(n)


def _step(name: str) -> Work:
    step = our_step(name)
    with FlopCounterMode(display=False) as counter:
        step()
    return step, "GFLOP/s", counter.get_total_flops() / 1e9


def _bytes(n: int) -> float:
    return 4.0 * n**2 / 1e9
