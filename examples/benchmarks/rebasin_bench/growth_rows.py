"""How the cost of ours grows: with the size of a group, with the number of groups, with the size of the model."""

from functools import partial

import rebasin_core as rb
from rebasin_bench.implementations import Case, inputs
from rebasin_bench.matching_rows import WITHOUT, our_matching
from rebasin_bench.measure import Contestant, interleaved
from rebasin_bench.operators import torch_operator
from rebasin_bench.rows import Row, Settings, Task
from rebasin_bench.training_rows import our_step

__all__ = ["tasks"]

SIZES = (128, 256, 512, 1024, 2048, 4096)
GROUPS = (1, 2, 4, 8, 16)
WIDTHS = ("MLP-2x256", "MLP-2x512", "MLP-2x1024", "MLP-2x2048")
DEPTHS = ("MLP-2x512", "MLP-4x512", "MLP-8x512", "MLP-16x512")
ITERATIONS = 20


def tasks(settings: Settings) -> list[Task]:
    """The operator by n and by groups of 512 units; a training step and a matching by width and by depth."""
    sizes = [n for n in (SIZES[:2] if settings.quick else SIZES) if n <= settings.largest]
    found = [_task(settings, {"what": "operator, one group", "n": n}, partial(_operator, n, 1)) for n in sizes]
    groups = GROUPS[:2] if settings.quick else GROUPS
    found += [_task(settings, {"what": "operator, n 512", "groups": g}, partial(_operator, 512, g)) for g in groups]
    for name in dict.fromkeys(() if settings.quick else WIDTHS + DEPTHS):
        found.append(_task(settings, {"what": "training step", "network": name}, partial(_step, name)))
        found.append(_task(settings, {"what": "matching", "network": name}, partial(our_matching, name, WITHOUT)))
    return found


def _task(settings: Settings, case: dict[str, str | int | float], make: "partial[Contestant]") -> Task:
    row = Row("growth", case, "torch")
    return Task(str(case["what"]), (row,), partial(_run, settings, row, make))


def _run(settings: Settings, row: Row, make: "partial[Contestant]") -> list[Row]:
    contestant = make()
    contestant.call(contestant.prepare())
    return [row.filled(interleaved({"ours": contestant}, settings.seconds, settings.repeats), {}, "", True)]


def _operator(n: int, groups: int) -> Contestant:
    operator = torch_operator(lambda x: rb.sinkhorn(x, 1.0, num_iters=ITERATIONS), *inputs(Case(n, batch=groups)))
    return Contestant(lambda _: operator.both())


def _step(name: str) -> Contestant:
    step = our_step(name)
    return Contestant(lambda _: step())
