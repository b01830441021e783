"""Timing takes turns, counts what it should, and ends in time."""

import gc
import time

import pytest
from rebasin_bench.measure import Contestant, Measured, interleaved, time_limit


class Clock:
    """Advances only when a contestant works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def contestant(clock, log, name, seconds):
    def call(prepared):
        log.append(name)
        assert prepared == "ready"
        clock.now += seconds

    def prepare():
        clock.now += 100.0 if name == "slow to prepare" else 0.0
        return "ready"

    return Contestant(call, prepare)


def test_calls_alternate_and_medians_are_of_each():
    clock, log = Clock(), []
    players = {name: contestant(clock, log, name, taken) for name, taken in (("a", 0.1), ("b", 0.3))}
    times = interleaved(players, seconds=8.0, repeats=7, clock=clock)
    assert log == ["a", "b"] * (len(log) // 2)
    assert times["a"].median == pytest.approx(0.1)
    assert times["b"].median == pytest.approx(0.3)
    assert times["a"].repeats == times["b"].repeats == 7


def test_preparation_is_not_timed():
    clock, log = Clock(), []
    times = interleaved({"x": contestant(clock, log, "slow to prepare", 0.5)}, seconds=1e6, repeats=3, clock=clock)
    assert times["x"].median == 0.5


def test_the_budget_ends_the_rounds_but_not_before_three():
    clock, log = Clock(), []
    times = interleaved({"x": contestant(clock, log, "x", 1.0)}, seconds=10.0, repeats=1000, clock=clock)
    assert 3 <= times["x"].repeats <= 11
    clock, log = Clock(), []
    times = interleaved({"x": contestant(clock, log, "x", 1.0)}, seconds=0.5, repeats=1000, clock=clock)
    assert times["x"].repeats == 3
    assert len(log) == 3, "calls this long are not warmed up a second time"


def test_calls_of_minutes_are_made_once():
    clock, log = Clock(), []
    assert interleaved({"x": contestant(clock, log, "x", 60.0)}, 1.0, 1000, clock)["x"].repeats == 1


def test_warm_up_goes_on_until_times_are_stable():
    clock, log = Clock(), []
    falling = iter([8.0, 4.0, 2.0, 1.75])

    def call(_):
        log.append("x")
        clock.now += next(falling, 1.75)

    times = interleaved({"x": Contestant(call)}, seconds=100.0, repeats=4, clock=clock)
    assert times["x"] == Measured(1.75, 1.75, 1.75, 4)


def test_the_collector_is_off_inside_and_on_again_after_an_error():
    seen = []
    interleaved({"x": Contestant(lambda _: seen.append(gc.isenabled()))}, 0.1, 3)
    assert not any(seen)
    assert gc.isenabled()

    def fail(_):
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        interleaved({"x": Contestant(fail)}, 0.1, 3)
    assert gc.isenabled()


def test_quartiles():
    assert Measured.of([1.0, 2.0, 3.0, 4.0, 100.0]) == Measured(3.0, 2.0, 4.0, 5)


def test_a_peer_that_does_not_end_is_stopped():
    with pytest.raises(TimeoutError, match="the peer took more than"), time_limit(0.05, "the peer"):
        time.sleep(10.0)
    with time_limit(0.05, "the peer"):
        pass
    time.sleep(0.1)  # the alarm is off
