"""Operators against one peer: first whether they agree, then how long they take."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rebasin_bench.agreement import Outcome, agree, marginal_error
from rebasin_bench.implementations import Case
from rebasin_bench.measure import Contestant, Measured, interleaved, time_limit
from rebasin_bench.operators import Operator
from rebasin_bench.rows import Row, Settings, why
from rebasin_core.backends import get_backend

__all__ = ["MODES", "Entry", "Opponent", "calibrated", "compare", "outcome"]

MODES = ("forward", "backward", "both")
PATIENCE = 300.0
"""Seconds after which a peer's first call is given up."""
_MOST_ITERATIONS = 10_000
_PEER = "the peer"


@dataclass(frozen=True)
class Entry:
    """One of ours.

    Attributes
    ----------
    label : str
        As the rows name it.
    build : callable
        Makes the operator; it is told the marginal error to reach.
    same_iterations : bool
        Whether it does the same iterations as the peer, and must agree with it to rounding.
    """

    label: str
    build: Callable[[float], Operator]
    same_iterations: bool


@dataclass(frozen=True)
class Opponent:
    """The peer, after so many iterations."""

    operator: Operator
    outcome: Outcome
    iterations: int


def outcome(operator: Operator, who: str = _PEER) -> Outcome:
    """Run an operator once; a backward pass that fails is an outcome too."""
    with warnings.catch_warnings(), time_limit(PATIENCE, who):
        warnings.simplefilter("ignore")
        try:
            plan, gradient = operator.both()
        except Exception as error:  # of a peer's, whatever it may be
            return Outcome(_numpy(operator.forward()), why(error))
    return Outcome(_numpy(plan), _numpy(gradient))


def _numpy(x: Any) -> Any:
    return get_backend(x).to_numpy(x)


def calibrated(build: Callable[[int], Operator], target: float, seconds: float) -> Opponent:
    """Double a peer's iterations until its marginal error is at most `target`.

    Ends earlier where more iterations are not worth waiting for: after ten thousand, where the error has stopped to
    fall, or where one call takes longer than `seconds`. Whatever it then has reached is what ours has to reach.
    """
    iterations, best, stalled = 20, float("inf"), 0
    while True:
        operator = build(iterations)
        with warnings.catch_warnings(), time_limit(PATIENCE, _PEER):
            warnings.simplefilter("ignore")
            started = time.perf_counter()
            reached = marginal_error(_numpy(operator.forward()))
            taken = time.perf_counter() - started
        # At low temperatures the largest error stays where it is for a while before it falls.
        stalled = 0 if reached < 0.99 * best else stalled + 1
        hopeless = stalled == 3 or not math.isfinite(reached)
        exhausted = 2 * iterations > _MOST_ITERATIONS or taken > seconds or hopeless
        if reached <= target or exhausted:
            return Opponent(operator, outcome(operator), iterations)
        iterations, best = 2 * iterations, min(best, reached)


def compare(
    rows: tuple[Row, ...],
    case: Case,
    opponent: Opponent | None,
    entries: tuple[Entry, ...],
    settings: Settings,
    tolerance: float,
) -> list[Row]:
    """Fill in rows, one per entry and mode.

    Parameters
    ----------
    rows : tuple of Row
        As planned.
    opponent : Opponent or None
        Without one, ours is measured alone.
    tolerance : float
        The marginal error to reach where there is no opponent to equal.
    """
    wanted = opponent.outcome.error if opponent else tolerance
    # Beyond rounding nothing can be asked for, and a plan without marginals says nothing.
    wanted = min(max(wanted, 4.0 * case.eps), 1.0) if math.isfinite(wanted) else tolerance
    operators = {entry.label: entry.build(wanted) for entry in entries}
    figures: dict[str, dict[str, float]] = {}
    objections: dict[str, dict[str, str]] = {}
    for entry in entries:
        mine = outcome(operators[entry.label], entry.label)
        if opponent is None:
            figures[entry.label], objections[entry.label] = {"our error": mine.error}, {}
        else:
            found = agree(case, mine, opponent.outcome, entry.same_iterations)
            figures[entry.label] = found[0] | {"their iterations": float(opponent.iterations)}
            objections[entry.label] = found[1]
    filled: list[Row] = []
    for mode in MODES:
        planned = [row for row in rows if row.case["mode"] == mode]
        if not planned:
            continue
        times = _times(mode, {row.ours: operators[row.ours] for row in planned}, opponent, settings)
        for row in planned:
            objection = objections[row.ours].get(mode, "")
            filled.append(
                replace(
                    row,
                    ours_measured=times.get(row.ours),
                    peer_measured=times.get(_PEER),
                    figures=figures[row.ours],
                    note=row.note or objection,
                    agrees=not objection,
                )
            )
    return filled


def _times(
    mode: str, operators: dict[str, Operator], opponent: Opponent | None, settings: Settings
) -> dict[str, Measured]:
    playing = dict(operators)
    if opponent is not None and (mode == "forward" or not isinstance(opponent.outcome.gradient, str)):
        playing[_PEER] = opponent.operator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        contestants = {name: Contestant(_call(mode, operator)) for name, operator in playing.items()}
        return interleaved(contestants, settings.seconds, settings.repeats)


def _call(mode: str, operator: Operator) -> Callable[[object], Any]:
    if mode == "backward":
        assert operator.prepare_backward is not None
        backward = operator.prepare_backward()
        return lambda _: backward()
    whole: Callable[[], Any] = operator.forward if mode == "forward" else operator.both
    return lambda _: whole()
