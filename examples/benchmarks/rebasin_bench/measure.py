"""Timing: contestants take turns, call by call, so that whatever disturbs the machine disturbs all of them alike."""

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Contestant", "Measured", "interleaved", "time_limit"]

_LEAST_REPEATS = 3
_MOST_WARM_UPS = 10
_STABLE = 0.2


@dataclass(frozen=True)
class Measured:
    """Median and quartiles of repeated measurements, in the unit of the row."""

    median: float
    lower: float
    upper: float
    repeats: int

    @classmethod
    def of(cls, values: list[float]) -> "Measured":
        """Summarize."""
        lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
        return cls(float(median), float(lower), float(upper), len(values))


@dataclass(frozen=True)
class Contestant:
    """Something to time.

    Attributes
    ----------
    call : callable
        What is timed; it takes what `prepare` returned. It must have finished its work when it returns.
    prepare : callable
        Done anew before every call, outside of the time.
    """

    call: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


def interleaved(
    contestants: dict[str, Contestant],
    seconds: float,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Measured]:
    """Time contestants in turns: A B A B, and so on.

    Parameters
    ----------
    contestants : dict
        By name; each must have been called before, so that nothing is compiled or allocated for the first time here.
    seconds : float
        Budget of all contestants together. What a few rounds cost may exceed it.
    repeats : int
        At most so many rounds are counted.
    clock : callable
        For tests.

    Returns
    -------
    dict
        Seconds of a call, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}

    def play() -> dict[str, float]:
        taken = {}
        for name, contestant in contestants.items():
            prepared = contestant.prepare()
            started = clock()
            contestant.call(prepared)
            taken[name] = clock() - started
        return taken

    collecting = gc.isenabled()
    gc.collect(1)  # the young ones; a whole collection takes longer than most of what is timed here
    gc.disable()
    try:
        started = clock()
        last = play()
        long = clock() - started > seconds
        if long:  # a warm-up would be a third of the work, and calls this long need none
            for name, taken in last.items():
                times[name].append(taken)
        for _ in range(0 if long else _MOST_WARM_UPS):
            previous, last = last, play()
            if all(abs(last[name] - previous[name]) <= _STABLE * previous[name] for name in last):
                break
            if clock() - started > 0.5 * seconds:
                break
        least = min(repeats, 1 if clock() - started > 10.0 * seconds else _LEAST_REPEATS)
        started = started if long else clock()
        done = int(long)
        while done < least or (done < repeats and clock() - started < seconds):
            for name, taken in play().items():
                times[name].append(taken)
            done += 1
    finally:
        if collecting:
            gc.enable()
    return {name: Measured.of(values) for name, values in times.items()}


@contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise `TimeoutError` in Python code that takes longer; of no effect outside of the main thread or on Windows."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"{what} took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
