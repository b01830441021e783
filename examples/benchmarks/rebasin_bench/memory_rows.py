"""Peak memory of each: the operator in units of its input, the rest in MiB."""

from dataclasses import replace
from functools import partial

import numpy as np

from rebasin_bench.measure import Measured
from rebasin_bench.memory import Order, run_order
from rebasin_bench.operators import FRAMEWORK, OPERATORS
from rebasin_bench.peers import AUTHORS, OTT, POT, SNIMU, PeerAbsentError
from rebasin_bench.rows import Row, Settings, Task, why

__all__ = ["tasks"]

MEBIBYTE = 2**20
_PEERS = {"torch": (AUTHORS, f"{POT} log"), "jax": (AUTHORS, OTT)}


def tasks(settings: Settings) -> list[Task]:
    """The operator at one size, and the work of the other groups on the largest networks they use."""
    found = []
    n, iterations = (512, 20) if settings.quick else (2048, 200)
    for way in OPERATORS:
        framework = FRAMEWORK.get(way, way)
        if framework in settings.frameworks:
            for peer in _PEERS.get(way, (AUTHORS,)):
                for mode in ("forward", "both"):
                    order = Order("operator", way, mode, n, iterations=iterations)
                    found.append(_task(settings, {**_columns(order), "mode": mode}, way, peer, order))
    if "torch" in settings.frameworks and not settings.quick:
        for work, name, peer in (
            ("training", "MLP", AUTHORS),
            ("training", "VGG-11", AUTHORS),
            ("training", "ResNet-18", AUTHORS),
            ("matching", "ResNet-18", SNIMU),
            ("matching", "MLP-4096", SNIMU),
            ("tracing", "ResNet-152", AUTHORS),
            ("tracing", "ResNet-152", SNIMU),
            ("tracing", "ViT-B/16", SNIMU),
        ):
            found.append(_task(settings, {"work": work, "network": name}, "torch", peer, Order(work, "ours", name)))
    return found


def _columns(order: Order) -> dict[str, str | int | float]:
    return {"work": order.work, "n": order.n, "dtype": order.dtype, "iterations": order.iterations}


def _task(settings: Settings, case: dict[str, str | int | float], way: str, peer: str, order: Order) -> Task:
    folder = "" if settings.peers.folder is None else str(settings.peers.folder.resolve())
    row = Row("memory", case, way, peer, unit="n² floats" if order.n else "MiB")
    return Task(f"{order.work} {way}", (row,), partial(_run, settings, row, replace(order, peers=folder)))


def _run(settings: Settings, row: Row, order: Order) -> list[Row]:
    unit = order.n**2 * np.dtype(order.dtype).itemsize if order.n else MEBIBYTE
    row = replace(row, ours_measured=Measured.of([run_order(order) / unit]))
    try:
        settings.peers.get(row.peer.partition(" ")[0])
        theirs = run_order(replace(order, who=row.peer)) / unit
    except PeerAbsentError:
        return [row.alone(f"{row.peer} is absent")]
    except Exception as error:  # a peer's own
        return [row.alone(f"{row.peer} failed, {why(error)}")]
    return [replace(row, peer_measured=Measured.of([theirs]))]
