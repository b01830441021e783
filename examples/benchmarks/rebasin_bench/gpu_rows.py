"""The operator on a CUDA device: against the authors', and against what the device's memory can deliver."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

import rebasin_core as rb
from rebasin_bench.comparison import MODES, Entry, Opponent, compare, outcome
from rebasin_bench.implementations import Case, authors_function, inputs
from rebasin_bench.measure import Contestant, Measured, interleaved
from rebasin_bench.operators import Operator, torch_operator
from rebasin_bench.peers import AUTHORS, PeerAbsentError
from rebasin_bench.rows import Row, Settings, Task, why

__all__ = ["tasks"]

ITERATIONS = 20
SIZES = (128, 512, 1024, 2048, 4096)
BANDWIDTH_SIZES = (4096, 8192)
_PASSES = 2 * ITERATIONS + 4
"""Reads and writes of n² numbers that cannot be avoided: a kernel made and scaled (4), two products an iteration."""


def tasks(settings: Settings) -> list[Task]:
    """Every case; none where there is no CUDA device."""
    if not torch.cuda.is_available():
        return []
    sizes = SIZES[:2] if settings.quick else SIZES
    found = [_comparison(settings, Case(n, tau=tau)) for n in sizes for tau in (1.0, 0.1)]
    found += [_comparison(settings, Case(n, dtype="float64")) for n in sizes[1:4]]
    found += [_comparison(settings, Case(n, batch=16)) for n in sizes[:3]]
    found += [_bandwidth(settings, Case(n)) for n in (() if settings.quick else BANDWIDTH_SIZES)]
    return found


def _columns(case: Case) -> dict[str, str | int | float]:
    return {"n": case.n, "batch": case.batch, "dtype": case.dtype, "tau": case.tau}


def _ours(case: Case, **stop: Any) -> Operator:
    return torch_operator(lambda x: rb.sinkhorn(x, case.tau, **stop), *inputs(case), device="cuda")


def _comparison(settings: Settings, case: Case) -> Task:
    entries = (
        Entry(f"torch, {ITERATIONS} iterations", lambda error: _ours(case, num_iters=ITERATIONS), True),
        *((Entry("torch, tol=", lambda error: _ours(case, tol=error), False),) if case.tau == 1.0 else ()),
    )
    peer = f"{AUTHORS}, {ITERATIONS} iterations"
    rows = tuple(Row("gpu", {**_columns(case), "mode": mode}, entry.label, peer) for entry in entries for mode in MODES)
    return Task(f"CUDA n={case.n}", rows, partial(_run_comparison, settings, case, entries, rows))


def _run_comparison(settings: Settings, case: Case, entries: tuple[Entry, ...], rows: tuple[Row, ...]) -> list[Row]:
    opponent, note = None, ""
    try:
        function = authors_function(settings.peers, case, ITERATIONS, "cuda")
        operator = torch_operator(function, *inputs(case), device="cuda")
        opponent = Opponent(operator, outcome(operator), ITERATIONS)
    except PeerAbsentError:
        note = f"{AUTHORS} is absent"
    except Exception as error:  # a peer's own
        note = f"{AUTHORS} failed, {why(error)}"
    done = compare(rows, case, opponent, entries, settings, 1e-5)
    done = [_with_peak_memory(row, case, entries) for row in done]
    return [row if opponent else row.alone(note) for row in done]


def _with_peak_memory(row: Row, case: Case, entries: tuple[Entry, ...]) -> Row:
    """Add the peak in units of the input, for rows of the whole work."""
    if row.case["mode"] != "both":
        return row
    operator = next(entry for entry in entries if entry.label == row.ours).build(1e-5)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    operator.both()
    peak = torch.cuda.max_memory_allocated() - before
    unit = case.batch * case.n**2 * (8 if case.dtype == "float64" else 4)
    return replace(row, figures={**row.figures, "our peak, n² floats": peak / unit})


def _bandwidth(settings: Settings, case: Case) -> Task:
    row = Row("gpu", {**_columns(case), "mode": "forward"}, f"torch, {ITERATIONS} iterations", "copy at full bandwidth")
    return Task(f"CUDA bandwidth n={case.n}", (row,), partial(_run_bandwidth, settings, case, row))


def _run_bandwidth(settings: Settings, case: Case, row: Row) -> list[Row]:
    """The peer is the time in which plain copies move as many bytes: the ratio is the share of the bandwidth."""
    operator = _ours(case, num_iters=ITERATIONS)
    source = torch.tensor(inputs(case)[0], device="cuda")
    destination = torch.empty_like(source)

    def copy_once() -> None:
        destination.copy_(source)
        torch.cuda.synchronize()

    operator.forward()
    copy_once()
    times = interleaved(
        {"ours": Contestant(lambda _: operator.forward()), "copy": Contestant(lambda _: copy_once())},
        settings.seconds,
        settings.repeats,
    )
    scale = _PASSES / 2.0  # a copy is one read and one write
    copied = times["copy"]
    peer = Measured(scale * copied.median, scale * copied.lower, scale * copied.upper, copied.repeats)
    share = peer.median / times["ours"].median
    bandwidth = 2.0 * source.numel() * source.element_size() / copied.median / 1e9
    figures = {"share of copy bandwidth": share, "copy bandwidth, GB/s": bandwidth}
    return [replace(row, ours_measured=times["ours"], peer_measured=peer, figures=figures)]
