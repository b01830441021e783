"""Weight matching: ours against snimu's, to its end, and to an L2 distance at least as low as theirs."""

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import rebasin_core as rb
from rebasin_bench.comparison import PATIENCE
from rebasin_bench.measure import Contestant, interleaved, time_limit
from rebasin_bench.networks import NETWORKS, pair
from rebasin_bench.peers import SNIMU, PeerAbsentError, Peers
from rebasin_bench.rows import Case, Row, Settings, Task, why

__all__ = ["distance", "our_matching", "snimu_matching", "tasks"]

NAMES = ("ResNet-18", "ResNet-50", "MLP-4096")
WITH, WITHOUT = "with the graph", "without the graph"
TO_THE_END, TO_THEIRS = "torch", "torch, to their distance"
MOST_SWEEPS = 20


def distance(a: nn.Module, b: nn.Module) -> float:
    """Euclidean distance between the learned parameters of two networks."""
    with torch.no_grad():
        squares = (
            float(((x.double() - y.double()) ** 2).sum()) for x, y in zip(a.parameters(), b.parameters(), strict=True)
        )
        return math.sqrt(sum(squares))


def our_matching(name: str, timing: str = WITH, solver: rb.solvers.WeightMatching | None = None) -> Contestant:
    """Ours: `align` as a user calls it, from the models to the verified copy; by default until nothing improves."""
    a, b = pair(name)
    x = NETWORKS[name].example(2)
    graph = rb.permutation_graph(b, x) if timing == WITHOUT else None

    def call(_: object) -> nn.Module:
        chosen = solver or rb.solvers.WeightMatching()
        result = rb.align(a, b, x, graph=graph, objective=rb.objectives.L2(), solver=chosen, progress=False)
        model: nn.Module = result.model
        return model

    return Contestant(call)


def snimu_matching(peers: Peers, name: str, timing: str = WITH) -> Contestant:
    """Theirs: a copy to permute is made outside of the time, and so is the graph where it is not to be counted."""
    descent = peers.get(SNIMU).PermutationCoordinateDescent
    a, b = pair(name)
    x = NETWORKS[name].example(2)

    def finish(work: Any) -> nn.Module:
        work.calculate_permutations()
        work.apply_permutations()
        model: nn.Module = work.model_b
        return model

    def prepare() -> Any:
        return descent(a, copy.deepcopy(b), x)

    if timing == WITHOUT:
        return Contestant(finish, prepare)
    return Contestant(lambda model: finish(descent(a, model, x)), lambda: copy.deepcopy(b))


def tasks(settings: Settings) -> list[Task]:
    """Both timings of every network, to the end and to the peer's distance."""
    found = []
    for name in ("MLP", "ResNet-18") if settings.quick else NAMES:
        for timing in (WITH, WITHOUT):
            case: Case = {"network": name, "timing": timing}
            rows = tuple(Row("matching", case, ours, SNIMU) for ours in (TO_THE_END, TO_THEIRS))
            found.append(Task(f"{name} {timing}", rows, partial(_run, settings, name, timing, rows)))
    return found


def _run(settings: Settings, name: str, timing: str, rows: tuple[Row, ...]) -> list[Row]:
    a, b = pair(name)
    mine = our_matching(name, timing)
    figures = {"distance before": distance(a, b)}
    reached = {TO_THE_END: distance(a, _once(mine))}
    playing, note = {TO_THE_END: mine}, ""
    try:
        with warnings.catch_warnings(), time_limit(PATIENCE, SNIMU), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)  # it draws the order of the groups from the global state
            theirs = snimu_matching(settings.peers, name, timing)
            rebased = _once(theirs)
            figures["their distance"] = distance(a, rebased)
            figures["their outputs differ by"] = _change(b, rebased, name)
        playing[SNIMU] = theirs
    except PeerAbsentError:
        note = f"{SNIMU} is absent"
    except Exception as error:  # a peer's own
        note = f"{SNIMU} failed, {why(error)}"
    # Ours, so neither under the peer's limit of time nor among its failures; not timed, as it knows the peer's result.
    for sweeps in range(1, MOST_SWEEPS + 1) if SNIMU in playing else ():
        fewest = our_matching(name, timing, rb.solvers.WeightMatching(num_starts=1, max_sweeps=sweeps))
        reached[TO_THEIRS] = distance(a, _once(fewest))
        if reached[TO_THEIRS] <= figures["their distance"]:
            playing[TO_THEIRS], figures["sweeps to their distance"] = fewest, float(sweeps)
            break
    times = interleaved(playing, settings.seconds, settings.repeats)
    filled = []
    for row in rows:
        if row.ours not in times:
            filled.append(row.failed(note or "their distance is lower"))
            continue
        mine_is_lower = SNIMU not in times or reached[row.ours] <= figures["their distance"] * (1.0 + 1e-6)
        found = {"ours": times[row.ours]} | ({"theirs": times[SNIMU]} if SNIMU in times else {})
        told = note or ("" if mine_is_lower else "their distance is lower")
        filled.append(row.filled(found, figures | {"our distance": reached[row.ours]}, told, mine_is_lower))
    return filled


def _once(contestant: Contestant) -> nn.Module:
    call: Callable[[Any], Any] = contestant.call
    model: nn.Module = call(contestant.prepare())
    return model


def _change(before: nn.Module, after: nn.Module, name: str) -> float:
    """Relative change of the outputs; a permutation changes nothing."""
    x = NETWORKS[name].example(2)
    with torch.no_grad():
        y, z = (copy.deepcopy(model).eval()(x).double() for model in (before, after))
    return float((y - z).norm() / y.norm())
