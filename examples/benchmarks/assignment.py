"""Which linear assignment library is fastest on the matrices that re-basin meets.

    pip install lap lapjv fastlap            whichever are installed are measured
    OMP_NUM_THREADS=1 python examples/benchmarks/assignment.py 64 256 1024 2048 4096
    python examples/benchmarks/assignment.py --quick

Prints the seconds of one assignment, the median over a few matrices of each kind, and checks that every library reaches
SciPy's total.
"""

import argparse
import importlib
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from rebasin_core.symmetry.assignment import linear_assignment

SIZES, QUICK_SIZES = (64, 256, 1024), (16, 64)
SECONDS, QUICK_SECONDS = 2.0, 0.02  # spent on one library and kind of matrix; at least one matrix

Scores = np.ndarray


def random(n: int, rng: np.random.Generator) -> Scores:
    """Nothing to find: independent Gaussian scores."""
    return rng.standard_normal((n, n))


def planted(n: int, rng: np.random.Generator) -> Scores:
    """A permutation under noise."""
    return np.eye(n)[rng.permutation(n)] + 0.1 * rng.standard_normal((n, n))


def weights(n: int, rng: np.random.Generator) -> Scores:
    """Inner products of the rows of two weight matrices, half alike, half of whose directions are shared by all."""
    common = rng.standard_normal((4, 64))
    a = rng.standard_normal((n, 64)) + rng.standard_normal((n, 4)) @ common
    b = (a + rng.standard_normal(a.shape))[rng.permutation(n)]
    return a @ b.T


def logits(n: int, rng: np.random.Generator) -> Scores:
    """Logits of a Sinkhorn run: a permutation stands out, rows and columns have levels of their own."""
    levels = rng.standard_normal(n) + rng.standard_normal((n, 1))
    return 5.0 * np.eye(n)[rng.permutation(n)] + rng.standard_normal((n, n)) + levels


KINDS = (random, planted, weights, logits)


def libraries() -> dict[str, Callable[[Scores], np.ndarray]]:
    """Column of every row, by each library that is installed."""
    found: dict[str, Callable[[Scores], np.ndarray]] = {
        "scipy": lambda s: linear_sum_assignment(s, maximize=True)[1],
        "this library": linear_assignment,
    }
    # lapx installs its module under the name of lap; the two need an environment each.
    for name in ("lap", "lapjv", "fastlap"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if name == "lapjv":
            found[name] = lambda s, lap=module: lap.lapjv(-s)[0]
        else:
            label = "lapx" if name == "lap" and hasattr(module, "lapjvx") else name
            found[label] = lambda s, lap=module: lap.lapjv(-s)[1]
    return found


def seconds(solve: Callable[[Scores], np.ndarray], kind: Callable[..., Scores], n: int, budget: float) -> float:
    """Median time of one assignment."""
    times: list[float] = []
    while sum(times) < budget and len(times) < 20:
        scores = kind(n, np.random.default_rng(len(times)))
        started = time.perf_counter()
        columns = solve(scores)
        times.append(time.perf_counter() - started)
        if len(times) == 1:
            rows, best = linear_sum_assignment(scores, maximize=True)
            np.testing.assert_allclose(scores[rows, columns].sum(), scores[rows, best].sum(), rtol=1e-6)
    return float(np.median(times))


def main() -> None:
    """Print a row per size and kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sizes", type=int, nargs="*", help=f"default: {SIZES}, with --quick {QUICK_SIZES}")
    parser.add_argument("--quick", action="store_true", help="small matrices, a moment each: to see that it runs")
    chosen = parser.parse_args()
    sizes = chosen.sizes or (QUICK_SIZES if chosen.quick else SIZES)
    found = libraries()
    print(f"{'n':>6} {'kind':8}" + "".join(f"{name:>14}" for name in found))
    for n in sizes:
        for kind in KINDS:
            row = [seconds(solve, kind, n, QUICK_SECONDS if chosen.quick else SECONDS) for solve in found.values()]
            print(f"{n:6} {kind.__name__:8}" + "".join(f"{value:14.2g}" for value in row), flush=True)


if __name__ == "__main__":
    main()
