"""Extracting the permutation graph: ours against both peers."""

import warnings
from collections.abc import Callable
from functools import partial

import rebasin_core as rb
from rebasin_bench.comparison import PATIENCE
from rebasin_bench.measure import Contestant, interleaved, time_limit
from rebasin_bench.networks import NETWORKS, pair
from rebasin_bench.peers import AUTHORS, SNIMU, PeerAbsentError, Peers
from rebasin_bench.rows import Row, Settings, Task, why

__all__ = ["PEERS", "our_tracing", "tasks"]

NAMES = ("ResNet-18", "ResNet-50", "ResNet-152", "ViT-B/16")

Sizes = list[int]
"""Of the groups found, sorted."""
Tracing = Callable[[], Sizes]


def our_tracing(name: str) -> Tracing:
    """Ours: `permutation_graph`."""
    model, x = pair(name)[0], NETWORKS[name].example(2)
    return lambda: sorted(rb.permutation_graph(model, x).groups.values())


def authors_tracing(peers: Peers, name: str) -> Tracing:
    """Theirs: their RebasinNet, whose constructor is what finds the graph; it copies the weights twice."""
    net = peers.get(AUTHORS).RebasinNet
    model, network = pair(name)[0], NETWORKS[name]
    return lambda: sorted(len(p) for p in net(model, (2, *network.shape)).p)


def snimu_tracing(peers: Peers, name: str) -> Tracing:
    """Theirs: the constructor of their coordinate descent, which cannot but trace both networks."""
    descent = peers.get(SNIMU).PermutationCoordinateDescent
    (a, b), x = pair(name), NETWORKS[name].example(2)

    def trace() -> Sizes:
        found = descent(a, b, x).pinit.model_graph.permutation_to_info
        return sorted(len(permutation.perm_indices) for permutation, _ in found)

    return trace


PEERS: dict[str, Callable[[Peers, str], Tracing]] = {AUTHORS: authors_tracing, SNIMU: snimu_tracing}


def tasks(settings: Settings) -> list[Task]:
    """Every network with every peer."""
    found = []
    for name in NAMES[:1] if settings.quick else NAMES:
        for peer in PEERS:
            row = Row("tracing", {"network": name}, "torch", peer)
            found.append(Task(f"{name}, {peer}", (row,), partial(_run, settings, name, peer, row)))
    return found


def _run(settings: Settings, name: str, peer: str, row: Row) -> list[Row]:
    mine = our_tracing(name)
    sizes = mine()
    figures = {"our groups": float(len(sizes))}
    playing = {"ours": mine}
    note, agrees = "", True
    try:
        with warnings.catch_warnings(), time_limit(PATIENCE, peer):
            warnings.simplefilter("ignore")
            theirs = PEERS[peer](settings.peers, name)
            found = theirs()
        playing["theirs"] = theirs
        figures["their groups"] = float(len(found))
        agrees = found == sizes
        note = "" if agrees else "they find other groups"
    except PeerAbsentError:
        note = f"{peer} is absent"
    except Exception as error:  # a peer's own
        note = f"{peer} failed, {why(error)}"
    contestants = {who: Contestant(_ignoring(trace)) for who, trace in playing.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = interleaved(contestants, settings.seconds, settings.repeats)
    return [row.filled(times, figures, note, agrees)]


def _ignoring(trace: Tracing) -> Callable[[object], Sizes]:
    return lambda _: trace()
