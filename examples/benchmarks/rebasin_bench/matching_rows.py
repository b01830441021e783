"""Weight matching to its end: ours against snimu's, to an L2 distance at least as low."""

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
from rebasin_bench.rows import Row, Settings, Task, why

__all__ = ["distance", "our_matching", "snimu_matching", "tasks"]

NAMES = ("ResNet-18", "ResNet-50", "MLP-4096")
WITH, WITHOUT = "with the graph", "without the graph"


def distance(a: nn.Module, b: nn.Module) -> float:
    """Euclidean distance between the learned parameters of two networks."""
    with torch.no_grad():
        squares = (
            float(((x.double() - y.double()) ** 2).sum()) for x, y in zip(a.parameters(), b.parameters(), strict=True)
        )
        return math.sqrt(sum(squares))


def our_matching(name: str, timing: str = WITH) -> Contestant:
    """Ours: `align` as a user calls it, from the models to the verified copy."""
    a, b = pair(name)
    x = NETWORKS[name].example(2)
    graph = rb.permutation_graph(b, x) if timing == WITHOUT else None

    def call(_: object) -> nn.Module:
        solver = rb.solvers.WeightMatching()
        result = rb.align(a, b, x, graph=graph, objective=rb.objectives.L2(), solver=solver, progress=False)
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
    """Both timings of every network."""
    found = []
    for name in ("MLP", "ResNet-18") if settings.quick else NAMES:
        for timing in (WITH, WITHOUT):
            row = Row("matching", {"network": name, "timing": timing}, "torch", SNIMU)
            found.append(Task(f"{name} {timing}", (row,), partial(_run, settings, name, timing, row)))
    return found


def _run(settings: Settings, name: str, timing: str, row: Row) -> list[Row]:
    a, b = pair(name)
    mine = our_matching(name, timing)
    figures = {"distance before": distance(a, b), "our distance": distance(a, _once(mine))}
    playing = {"ours": mine}
    note, agrees = "", True
    try:
        with warnings.catch_warnings(), time_limit(PATIENCE, SNIMU), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)  # it draws the order of the groups from the global state
            theirs = snimu_matching(settings.peers, name, timing)
            rebased = _once(theirs)
            figures["their distance"] = distance(a, rebased)
            figures["their outputs differ by"] = _change(b, rebased, name)
        playing["theirs"] = theirs
        agrees = figures["our distance"] <= figures["their distance"] * (1.0 + 1e-6)
        note = "" if agrees else "their distance is lower"
    except PeerAbsentError:
        note = f"{SNIMU} is absent"
    except Exception as error:  # a peer's own
        note = f"{SNIMU} failed, {why(error)}"
    times = interleaved(playing, settings.seconds, settings.repeats)
    return [row.filled(times, figures, note, agrees)]


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
