"""One training step of a re-basin network: ours against the authors', with the midpoint loss."""

import copy
import warnings
from collections.abc import Callable
from functools import partial

import torch
from rebasin_torch import RebasinNet
from torch import Tensor, nn

import rebasin_core as rb
from rebasin_bench.comparison import PATIENCE
from rebasin_bench.measure import Contestant, interleaved, time_limit
from rebasin_bench.networks import NETWORKS, pair
from rebasin_bench.peers import AUTHORS, PeerAbsentError, Peers
from rebasin_bench.rows import Row, Settings, Task, why
from rebasin_core.models.model import open_model
from rebasin_core.symmetry.soft_plan import mix_when_used

__all__ = ["authors_step", "our_step", "tasks"]

NAMES = ("MLP", "VGG-11", "ResNet-18")
_LEARNING_RATE = 0.1
_CHECKED_STEPS = 3
_TOLERANCE = 1e-3
"""Relative, between losses of the same step: Adam divides by the size of gradients, some of them close to rounding."""

Step = Callable[[], float]
"""Zero the gradients, compute the loss, go back, move the logits; returns the loss before the step."""


def our_step(name: str) -> Step:
    """Ours: the midpoint objective on a `RebasinNet`'s soft plan, as the solvers compute it."""
    network, (a, b), batch = NETWORKS[name], pair(name), _batch(name)
    graph = rb.permutation_graph(b, network.example(2))
    net = RebasinNet(b, graph, tau=1.0, num_iters=20, init_scale=1.0)
    objective = rb.objectives.Midpoint("cross_entropy", batch).bind(open_model(b), graph)
    params_a, params_b = open_model(a).params, open_model(b).params
    optimizer = torch.optim.Adam(net.parameters(), lr=_LEARNING_RATE)

    def step() -> float:
        optimizer.zero_grad()
        loss: Tensor = objective.value(params_a, mix_when_used(net.soft_plan(), params_b, graph), batch)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        optimizer.step()
        return loss.item()

    return step


def authors_step(peers: Peers, name: str) -> Step:
    """Theirs: their RebasinNet and MidLoss, from the same weights and the same logits, the unit matrix."""
    theirs = peers.get(AUTHORS)
    network, (a, b), (x, y) = NETWORKS[name], pair(name), _batch(name)
    net = theirs.RebasinNet(b, (2, *network.shape))
    net.identity_init()
    net.train()
    criterion = theirs.loss.MidLoss(copy.deepcopy(a), nn.CrossEntropyLoss())
    optimizer = torch.optim.Adam(list(net.p), lr=_LEARNING_RATE)

    def step() -> float:
        optimizer.zero_grad()
        loss: Tensor = criterion(net(), x, y)
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        optimizer.step()
        return loss.item()

    return step


def tasks(settings: Settings) -> list[Task]:
    """A step on every network."""
    found = []
    for name in ("MLP", "ResNet-18") if settings.quick else NAMES:
        case: dict[str, str | int | float] = {"network": name, "batch": NETWORKS[name].batch, "dtype": "float32"}
        row = Row("training", case, "torch", AUTHORS)
        found.append(Task(name, (row,), partial(_run, settings, name, row)))
    return found


def _run(settings: Settings, name: str, row: Row) -> list[Row]:
    mine = our_step(name)
    losses = [mine() for _ in range(_CHECKED_STEPS)]
    try:
        with warnings.catch_warnings(), time_limit(PATIENCE, AUTHORS):
            warnings.simplefilter("ignore")
            theirs = authors_step(settings.peers, name)
            difference = max(abs(theirs() - loss) / abs(loss) for loss in losses)
    except Exception as error:  # a peer's own
        absent = isinstance(error, PeerAbsentError)
        times = interleaved({"ours": Contestant(lambda _: mine())}, settings.seconds, settings.repeats)
        note = f"{AUTHORS} is absent" if absent else f"{AUTHORS} failed, {why(error)}"
        return [row.filled(times, {"loss": losses[-1]}, note, True)]
    times = interleaved(
        {"ours": Contestant(lambda _: mine()), "theirs": Contestant(lambda _: theirs())},
        settings.seconds,
        settings.repeats,
    )
    agrees = difference <= _TOLERANCE
    note = "" if agrees else f"losses of {_CHECKED_STEPS} steps differ by {difference:.0e}"
    return [row.filled(times, {"loss": losses[-1], "losses differ by": difference}, note, agrees)]


def _batch(name: str) -> tuple[Tensor, Tensor]:
    network = NETWORKS[name]
    x = network.example(network.batch)
    generator = torch.Generator().manual_seed(1)
    return x, torch.randint(4 if name == "MLP-tiny" else 10, (len(x),), generator=generator)
