"""The operator: ours in every framework against the authors' on torch, POT's and OTT's."""

from collections.abc import Callable, Iterator
from functools import partial

from rebasin_bench.comparison import MODES, Entry, Opponent, calibrated, compare, outcome
from rebasin_bench.implementations import Case, ours, peer_operator
from rebasin_bench.operators import FRAMEWORK, Operator
from rebasin_bench.peers import AUTHORS, OTT, POT, PeerAbsentError
from rebasin_bench.rows import TAUS, Row, Settings, Task

__all__ = ["cases", "tasks"]

ITERATIONS = 20
"""What the authors' RebasinNet does unless told otherwise, at any temperature."""

SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_TARGETS = {1.0: {"float32": 1e-5, "float64": 1e-10}, 0.1: {}, 0.01: {}}
"""Marginal error that peers iterate to; at low temperatures, where they converge slowly, 1e-3 and 1e-2."""


def target(case: Case) -> float:
    """Marginal error that a peer is iterated to."""
    return _TARGETS[case.tau].get(case.dtype, 1e-3 if case.tau == 0.1 else 1e-2)


def cases(way: str, quick: bool) -> Iterator[Case]:
    """What is computed by ours in one framework."""
    if quick:
        for n in (16, 128, 512) if way == "torch" else (128, 512):
            yield Case(n)
        if way == "torch":
            yield Case(128, tau=0.1)
            yield Case(16, batch=16)
    elif way == "torch":
        for tau in TAUS:
            yield from (Case(n, tau=tau) for n in SIZES)
            yield from (Case(n, dtype="float64", tau=tau) for n in SIZES[::2])
            yield from (Case(n, batch=16, tau=tau) for n in (16, 64, 256, 512, 1024))
            yield from (Case(n, batch=16, dtype="float64", tau=tau) for n in (16, 64, 256))
    else:
        yield from (Case(n) for n in (16, 128, 512, 1024, 2048))
        yield from (Case(n, tau=tau) for n in (128, 512) for tau in TAUS[1:])
        yield Case(512, dtype="float64")
        yield Case(128, batch=16)


def tasks(settings: Settings) -> list[Task]:
    """Every comparison, by size."""
    found: list[tuple[int, Task]] = []
    # Eager TensorFlow and the compiled one take turns with the same calls of the peer, as do all ways of torch.
    ways = {"torch": ("torch",), "numpy": ("numpy",), "tensorflow": ("tensorflow", "tf.function"), "jax": ("jax",)}
    for framework in settings.frameworks:
        for case in cases(framework, settings.quick):
            if not _wanted(case, settings):
                continue
            elements = case.batch * case.n**2
            # At low temperatures twenty iterations converge for nobody: ours to their error is compared where they
            # have been iterated to a decent one.
            stops: tuple[tuple[str, ...], ...]
            stops = (("iterations", "tol"),) if case.tau == 1.0 else (("iterations",), ("equal",))
            for stop in stops:
                found.append((elements, _task(settings, case, AUTHORS, ways[framework], stop)))
    for framework, peers in (("torch", (f"{POT} log", f"{POT} stabilized")), ("jax", (OTT,))):
        if framework in settings.frameworks:
            sizes = (128,) if settings.quick else (128, 512, 1024)
            everything = [Case(n, tau=tau) for n in sizes for tau in (TAUS[:1] if settings.quick else TAUS)]
            if not settings.quick:
                everything += [Case(512, dtype="float64", tau=tau) for tau in TAUS]
            for case in (case for case in everything if _wanted(case, settings)):
                for peer in peers:
                    found.append((case.n**2, _task(settings, case, peer, (framework,), ("equal",))))
    return [task for _, task in sorted(found, key=lambda pair: pair[0])]


def _wanted(case: Case, settings: Settings) -> bool:
    return case.n <= settings.largest and case.tau in settings.taus


def _task(settings: Settings, case: Case, peer: str, ways: tuple[str, ...], stops: tuple[str, ...]) -> Task:
    labels = {(way, stop): _label(way, stop) for way in ways for stop in stops}
    entries = tuple(
        Entry(label, _builder(case, way, stop), same_iterations=stop == "iterations")
        for (way, stop), label in labels.items()
    )
    peer_label = f"{peer}, iterated" if "equal" in stops else f"{peer}, {ITERATIONS} iterations"
    rows = tuple(
        Row("operator", {**_columns(case), "mode": mode}, label, peer_label)
        for (way, _), label in labels.items()
        for mode in MODES
        if not (mode == "backward" and way == "tf.function")
    )
    title = f"{', '.join(ways)} n={case.n} tau={case.tau:g}"
    return Task(title, rows, partial(_run, settings, case, peer, "equal" in stops, entries, rows))


def _run(
    settings: Settings, case: Case, peer: str, calibrate: bool, entries: tuple[Entry, ...], rows: tuple[Row, ...]
) -> list[Row]:
    note, opponent = "", None
    try:
        build = partial(peer_operator, peer, settings.peers, case)
        opponent = calibrated(build, target(case), settings.seconds) if calibrate else _after(build, ITERATIONS)
    except PeerAbsentError:
        note = f"{peer.partition(' ')[0]} is absent"
    except Exception as error:  # a peer's own
        note = f"{peer} failed, {type(error).__name__}: {str(error)[:100]}"
    done = compare(rows, case, opponent, entries, settings, target(case))
    return [row if opponent else row.alone(note) for row in done]


def _after(build: Callable[[int], Operator], iterations: int) -> Opponent:
    operator = build(iterations)
    return Opponent(operator, outcome(operator), iterations)


def _columns(case: Case) -> dict[str, str | int | float]:
    return {"n": case.n, "batch": case.batch, "dtype": case.dtype, "tau": case.tau}


def _label(way: str, stop: str) -> str:
    where = way if way not in FRAMEWORK else f"{FRAMEWORK[way]}, {way}"
    return f"{where}, {ITERATIONS} iterations" if stop == "iterations" else f"{where}, tol="


def _builder(case: Case, way: str, stop: str) -> Callable[[float], Operator]:
    if stop == "iterations":
        return lambda error: ours(way, case, num_iters=ITERATIONS)
    return lambda error: ours(way, case, tol=error)
