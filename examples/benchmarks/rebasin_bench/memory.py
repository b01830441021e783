"""Peak memory of one piece of work, in a process of its own: ``python -m rebasin_bench.memory '{"work": ...}'``.

In a process that has done other things before, freed memory that the allocator keeps would hide what the work needs.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rebasin_bench.implementations import Case, ours, peer_operator
from rebasin_bench.peers import Peers

__all__ = ["Order", "peak_of_process", "run_order"]

_TIME_LIMIT = 600.0
_TINY = 8
_COMPILED = ("jax", "OTT-JAX")
"""Compiled anew for every shape: what the compiler needs is not the operator's. TensorFlow's allocator keeps what was
freed, so that a call before would hide everything; its graphs are small instead."""


@dataclass(frozen=True)
class Order:
    """What to measure.

    Attributes
    ----------
    work : str
        Of operator, training, matching, tracing.
    who : str
        A way of ours, such as torch, or the name of a peer; "ours" where there is one way only.
    what : str
        The mode of the operator, or the name of a network.
    """

    work: str
    who: str
    what: str
    n: int = 0
    dtype: str = "float32"
    iterations: int = 20
    peers: str = ""


def run_order(order: Order) -> float:
    """Bytes that the work needs at its peak, beyond its inputs.

    Raises
    ------
    RuntimeError
        The process failed; the message is the last line it wrote.
    """
    # Every array of its own pages, given back once freed: the resident set then is what is alive.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "rebasin_bench.memory", json.dumps(asdict(order))]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_TIME_LIMIT, env=environment, cwd=Path.cwd()
    )
    if done.returncode:
        raise RuntimeError(([line for line in done.stderr.splitlines() if line.strip()] or ["no output"])[-1])
    return float(json.loads(done.stdout.splitlines()[-1]))


def peak_of_process(call: Callable[[], Any]) -> int:
    """Run `call`; return by how many bytes the resident set grew at its peak."""
    if not _reset_peak():
        before = _largest_resident_set()
        call()
        return max(_largest_resident_set() - before, 0)
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def _reset_peak() -> bool:
    """Let the kernel forget the peak so far, such as that of the imports; False where it cannot."""
    if sys.platform != "linux":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"the kernel does not tell {name}")


def _largest_resident_set() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _prepare(order: Order, tiny: bool) -> Callable[[], Any]:
    """Make the inputs, and return the work."""
    peers = Peers.find(Path(order.peers) if order.peers else None)
    mine = order.who == "ours"
    if order.work == "operator":
        return _operator(order, peers, _TINY if tiny else order.n)
    name = "MLP-tiny" if tiny else order.what
    if order.work == "training":
        from rebasin_bench.training_rows import authors_step, our_step

        return our_step(name) if mine else authors_step(peers, name)
    if order.work == "tracing":
        from rebasin_bench.tracing_rows import PEERS, our_tracing

        return our_tracing(name) if mine else PEERS[order.who](peers, name)
    from rebasin_bench.matching_rows import our_matching, snimu_matching

    contestant = our_matching(name) if mine else snimu_matching(peers, name)
    prepared = contestant.prepare()
    return lambda: contestant.call(prepared)


def _operator(order: Order, peers: Peers, n: int) -> Callable[[], Any]:
    from rebasin_bench.operators import OPERATORS

    case = Case(n, dtype=order.dtype)
    if order.who in OPERATORS:
        operator = ours(order.who, case, num_iters=order.iterations)
    else:
        operator = peer_operator(order.who, peers, case, order.iterations)
    return operator.forward if order.what == "forward" else operator.both


def _main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    _prepare(order, tiny=True)()
    call = _prepare(order, tiny=False)
    if order.who in _COMPILED:
        call()
    print(peak_of_process(call))


if __name__ == "__main__":
    _main()
