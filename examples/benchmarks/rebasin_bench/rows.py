"""What a benchmark finds: one row per comparison, and the JSON that keeps it."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rebasin_bench.measure import Measured
from rebasin_bench.peers import Peers

__all__ = ["TAUS", "Row", "Settings", "Task", "from_json", "to_json", "why"]

TAUS = (1.0, 0.1, 0.01)

Case = dict[str, str | int | float]


@dataclass(frozen=True)
class Row:
    """One implementation of ours against one peer on one case.

    Attributes
    ----------
    group : str
        The table it belongs to.
    case : dict
        What is computed: network, n, dtype, tau, mode.
    ours, peer : str
        Names of the implementations, with their settings; `peer` is empty where nobody else does it.
    unit : str
        Of both measurements: seconds, or an amount of memory. Less is better.
    figures : dict
        What was reached and how far the results differ: errors, distances.
    note : str
        Why there is no ratio, or what to know about it.
    agrees : bool
        Whether the results agree, without which there is no ratio.
    """

    group: str
    case: Case
    ours: str
    peer: str = ""
    unit: str = "s"
    ours_measured: Measured | None = None
    peer_measured: Measured | None = None
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""
    agrees: bool = True

    @property
    def key(self) -> str:
        """Name of the row in a baseline."""
        case = (f"{name}={x:g}" if isinstance(x, float) else f"{name}={x}" for name, x in self.case.items())
        return " | ".join((self.group, *case, self.ours, self.peer or "alone"))

    @property
    def ratio(self) -> float | None:
        """The peer's cost over ours: above one, ours is cheaper."""
        if not self.agrees or self.ours_measured is None or self.peer_measured is None:
            return None
        if self.ours_measured.median <= 0.0:
            return None
        return self.peer_measured.median / self.ours_measured.median

    def filled(self, times: dict[str, Measured], figures: dict[str, float], note: str, agrees: bool) -> "Row":
        """Return the row with what was found; `times` has "ours", and "theirs" where the peer could be measured."""
        mine, theirs = times["ours"], times.get("theirs")
        return replace(self, ours_measured=mine, peer_measured=theirs, figures=figures, note=note, agrees=agrees)

    def alone(self, note: str) -> "Row":
        """Return the row without the peer; the peer stays in its name, so that a guard misses it."""
        return replace(self, peer_measured=None, note=note)

    def failed(self, error: BaseException | str) -> "Row":
        """Return the row with nothing but the reason why it could not be measured."""
        note = error if isinstance(error, str) else why(error)
        return replace(self, ours_measured=None, peer_measured=None, note=note, agrees=False)


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    Attributes
    ----------
    seconds : float
        Budget of the timing of one task.
    repeats : int
        At most so many calls are counted.
    largest : int
        Matrices of more columns are left out.
    taus : tuple of float
        Temperatures that are measured.
    """

    peers: Peers
    frameworks: tuple[str, ...]
    seconds: float = 2.0
    repeats: int = 100
    quick: bool = False
    largest: int = 4096
    taus: tuple[float, ...] = TAUS


@dataclass(frozen=True)
class Task:
    """A case: rows that are measured together.

    Attributes
    ----------
    rows : tuple of Row
        The rows as planned, not measured yet.
    run : callable
        Measures them: the same rows, in any order.
    """

    title: str
    rows: tuple[Row, ...]
    run: Callable[[], list[Row]]


def why(error: BaseException) -> str:
    """An error as one short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def to_json(row: Row) -> dict[str, Any]:
    """Plain data: dictionaries, strings, finite numbers."""
    data = asdict(row) | {"key": row.key, "ratio": row.ratio}
    data["figures"] = {name: x if math.isfinite(x) else str(x) for name, x in row.figures.items()}
    return data


def from_json(data: dict[str, Any]) -> Row:
    """Inverse of `to_json`."""
    fields = {name: value for name, value in data.items() if name not in ("key", "ratio")}
    for name in ("ours_measured", "peer_measured"):
        fields[name] = None if fields[name] is None else Measured(**fields[name])
    fields["figures"] = {name: float(value) for name, value in fields["figures"].items()}
    return Row(**fields)
