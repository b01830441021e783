"""What the experiments share: options, independent pairs in parallel, tables."""

import argparse
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

__all__ = ["deviation", "options", "parallel", "save_table", "table"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def options(description: str | None, pairs: int) -> argparse.ArgumentParser:
    """Return a parser with the options every experiment has."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=pairs, help=f"independent pairs of networks (default {pairs})")
    parser.add_argument("--seed", type=int, default=0, help="of the first pair; the others count on from it")
    parser.add_argument("--workers", type=int, default=1, help="processes; pairs run in parallel (default 1)")
    parser.add_argument("--quick", action="store_true", help="one pair, little training: to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for tables and pictures")
    return parser


def parallel(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int = 1, executor: Executor | None = None
) -> list[Result]:
    """Return ``[function(job) for job in jobs]``, computed side by side, with a progress bar.

    Parameters
    ----------
    function : callable
        Of one job; importable by the workers.
    jobs : sequence
        Independent of each other; whatever they need is in them.
    workers : int, default 1
        Processes on this machine, each with one thread.
    executor : concurrent.futures.Executor, optional
        Any other: of ``mpi4py.futures``, or ``dask.distributed.Client(...).get_executor()``.
    """
    pool: AbstractContextManager[Executor | None] = nullcontext(executor)
    if executor is None and workers > 1:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))
    with pool as running, tqdm(total=len(jobs)) as bar:
        if running is None:
            results = []
            for job in jobs:
                results.append(function(job))
                bar.update()
            return results
        futures = [running.submit(function, job) for job in jobs]
        for _ in as_completed(futures):
            bar.update()
        return [future.result() for future in futures]


def deviation(values: Iterable[float], digits: int = 3) -> str:
    """Mean ± standard deviation, as text."""
    array = np.array(list(values), dtype=float)
    return f"{array.mean():.{digits}f} ± {array.std():.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown, with columns of even width."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def save_table(text: str, file: Path) -> None:
    """Print a table and write it to a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nwritten to {file}")
