"""Weight matching of networks in files, one tensor in memory at a time."""

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import all_finite, is_floating
from rebasin_core.checkpoints.files import Checkpoint
from rebasin_core.checkpoints.values import check_graph, permuted_reader, read_wide
from rebasin_core.models.model import check_same_shapes, not_finite
from rebasin_core.objectives.base import Params
from rebasin_core.objectives.weights import L2
from rebasin_core.solvers.lazy import LazyParams
from rebasin_core.solvers.problem import Problem, check_floating
from rebasin_core.solvers.weight_matching import WeightMatching
from rebasin_core.support.chunks import CHUNK
from rebasin_core.support.progress import check_flag
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan

__all__ = ["FileMatch", "match_files", "write_permuted"]


@dataclass(frozen=True)
class FileMatch:
    """The plan that carries the network of one file to that of another.

    Attributes
    ----------
    plan : Plan
        What to permute in B; see `write_permuted`.
    distance : float
        Squared distance of the weights, after it.
    initial_distance : float
        The same before.
    converged : bool
        Whether no group improved any more.
    stop_reason : str
        Why it stopped.
    seconds : float
        Wall-clock time.
    """

    plan: Plan
    distance: float
    initial_distance: float
    converged: bool
    stop_reason: str
    seconds: float


def match_files(
    a: Checkpoint, b: Checkpoint, graph: PermutationGraph, *, seed: int = 0, progress: bool = True
) -> FileMatch:
    """Find the permutation that carries the network of file B into the basin of that of file A, by weight matching.

    The plan is that of `rebasin_core.align` with ``solver=WeightMatching()``, up to rounding. Tensors are read when
    they are needed, and not kept: no more of them are in memory than one of A and one of B. Half precision is computed
    in float32.

    Parameters
    ----------
    a, b : Checkpoint
        Two files of one architecture; neither is changed. B moves onto A.
    graph : PermutationGraph
        What may be permuted; it has an entry for every tensor.
    seed : int, default 0
        Of every random choice.
    progress : bool, default True
        Show a progress bar where a person is watching.

    Raises
    ------
    SpecError, ShapeError
        The files hold other tensors than each other or than the graph, or tied tensors have other axes than each other.
    NonFiniteError
        A tensor holds NaN or infinity.
    UnsupportedArrayError
        A tensor that is to move holds whole numbers, and is not among the buffers of the graph.
    CheckpointError
        A file is damaged.

    Notes
    -----
    Let G be the bytes of the tensors of *one* file in which the largest group appears, half precision counted as
    float32. Resident memory grows by less than 3 G at its peak: by 2.2 G for 64 dense layers of 2048 units in float32
    (``examples/checkpoints/memory.py``). That is one tensor of each file, the n x n scores of the group, and a product
    on its way to them; then the scores and the float64 costs of the assignment. Where n is larger than the tensors of a
    group are wide, such as in a vocabulary, these n x n matrices are the most of it, and may take more than 3 G. Files
    of PyTorch and Keras are written from memory.

    Examples
    --------
    >>> import tempfile
    >>> from rebasin_core.checkpoints import open_checkpoint
    >>> folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    >>> w1, w2, order = rng.normal(size=(8, 4)), rng.normal(size=(2, 8)), rng.permutation(8)
    >>> np.savez(folder / "a.npz", w1=w1, w2=w2)
    >>> np.savez(folder / "b.npz", w1=w1[order], w2=w2[:, order])
    >>> a, b = (open_checkpoint(folder / name) for name in ("a.npz", "b.npz"))
    >>> graph = PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, b.tensors)
    >>> found = match_files(a, b, graph, progress=False)
    >>> found.distance
    0.0
    >>> write_permuted(b, found.plan, graph, folder / "aligned.npz")
    >>> bool((open_checkpoint(folder / "aligned.npz").read("w1") == w1).all())
    True
    """
    started = time.perf_counter()
    at_least(0, seed=seed)
    check_flag(progress=progress)
    check_same_shapes(a.tensors, b.tensors)
    check_graph(b, graph)
    for file in (a, b):
        _check_values(file)
    counted = [name for name in graph.learned if is_floating(a.tensors[name].dtype)]
    params_a, params_b = (cast(Params, LazyParams(partial(read_wide, file), graph, names=counted)) for file in (a, b))
    problem = Problem(graph, params_a, params_b, replace(L2().on(graph), value=_distance), seed)
    for name in problem.learned:
        check_floating(name, b.tensors[name].dtype)
    found = WeightMatching().solve(problem, progress)
    seconds = time.perf_counter() - started
    return FileMatch(found.plan, found.value, problem.initial, found.converged, found.stop_reason, seconds)


def write_permuted(file: Checkpoint, plan: Plan, graph: PermutationGraph, path: Path) -> None:
    """Write a copy of a file with its units in another order: the same network.

    Names, order, dtypes, metadata and ties are those of the file; tensors that do not move are copied bit by bit.

    Raises
    ------
    PlanError, SpecError, ShapeError
        The plan is for another graph, or the graph for another file.
    CheckpointError
        The file is damaged, or a tensor that moves is of a format that cannot be read.
    """
    tensor = permuted_reader(file, plan, graph)
    moving = {group for group in plan if plan.moved(group)}
    file.write(path, lambda name: None if moving.isdisjoint(graph.axes[name].groups) else tensor(name))


def _distance(params_a: Params, params_b: Params, sample: object) -> float:
    """`L2`, one parameter in memory at a time."""
    return sum(_squared_distance(x, params_b[name]) for name, x in params_a.items())


def _squared_distance(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    x, y, total = x.reshape(-1), y.reshape(-1), 0.0
    for start in range(0, x.size, CHUNK):
        gap = x[start : start + CHUNK] - y[start : start + CHUNK]
        total += float(np.sum(gap * gap, dtype=np.float64))
    return total


def _check_values(file: Checkpoint) -> None:
    for name, info in file.tensors.items():
        if is_floating(info.dtype):
            x = file.read(name)
            if not all_finite(get_backend(x), x):
                raise not_finite(name, str(file.path))
