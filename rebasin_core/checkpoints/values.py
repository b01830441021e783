"""What is to stand in a new file, tensor by tensor: for `Checkpoint.write`, or to fill a model with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_inexact, widened
from rebasin_core.checkpoints.files import Checkpoint
from rebasin_core.errors import SettingError, SpecError
from rebasin_core.line.mean import between, steps
from rebasin_core.models.model import check_same_shapes
from rebasin_core.solvers.lazy import reorder
from rebasin_core.support.chunks import CHUNK
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan, check_fits

__all__ = ["check_graph", "mean_reader", "permuted_reader", "read_wide"]

Tensor = Callable[[str], np.ndarray[Any, Any]]


def permuted_reader(file: Checkpoint, plan: Plan, graph: PermutationGraph) -> Tensor:
    """Return ``tensor(name)``: the tensors of a file with its units in another order.

    Raises
    ------
    PlanError, SpecError, ShapeError
        The plan is for another graph, or the graph for another file.
    """
    check_fits(plan, graph)
    check_graph(file, graph)
    return lambda name: reorder(file.read(name), name, plan, graph)


def mean_reader(
    files: Sequence[Checkpoint], plans: Sequence[Plan], weights: Sequence[float], graph: PermutationGraph
) -> Tensor:
    """Return ``tensor(name)``: the weighted mean of networks in files, each permuted by a plan.

    The same mean as `rebasin_core.merge`'s, of never more tensors in memory than two.

    Parameters
    ----------
    files : sequence of Checkpoint
        Of one architecture.
    plans : sequence of Plan
        One per file; the identity for the one whose order the others take.
    weights : sequence of float
        What each counts; they sum to 1. ``(1 - t, t)`` is the place t on the line between two. Tensors that have no
        mean (`rebasin_core.backends.dtypes.is_inexact`) are those of the first.
    graph : PermutationGraph
        Of all of them.

    Raises
    ------
    SettingError
        Not as many plans and weights as files.
    PlanError, SpecError, ShapeError
        Plans, graph and files do not fit each other.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from rebasin_core.checkpoints import open_checkpoint
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.savez(folder / "a.npz", w=np.array([[1.0], [2.0]]))
    >>> np.savez(folder / "b.npz", w=np.array([[4.0], [3.0]]))
    >>> a, b = (open_checkpoint(folder / name) for name in ("a.npz", "b.npz"))
    >>> graph = PermutationGraph.from_axes({"w": "h ."}, a.tensors)
    >>> plans = Plan.identity(graph), Plan({"h": [1, 0]})
    >>> a.write(folder / "merged.npz", mean_reader((a, b), plans, (0.5, 0.5), graph))
    >>> open_checkpoint(folder / "merged.npz").read("w").ravel()
    array([2., 3.])
    """
    if not len(files) == len(plans) == len(weights) > 0:
        raise SettingError(
            f"expected a plan and a weight for each of {len(files)} files, got {len(plans)} plans and "
            f"{len(weights)} weights"
        )
    for file, plan in zip(files, plans, strict=True):
        check_same_shapes(files[0].tensors, file.tensors)
        check_fits(plan, graph)
    check_graph(files[0], graph)

    def tensor(name: str) -> np.ndarray[Any, Any]:
        if not is_inexact(files[0].tensors[name].dtype):
            return reorder(files[0].read(name), name, plans[0], graph)
        (first, _), *others = steps(weights)
        total = reorder(read_wide(files[first], name), name, plans[first], graph)
        for i, step in others:
            _go(total.reshape(-1), reorder(read_wide(files[i], name), name, plans[i], graph).reshape(-1), step)
        return total

    return tensor


def read_wide(file: Checkpoint, name: str) -> np.ndarray[Any, Any]:
    """Read a tensor to compute with: half precision as float32."""
    x = file.read(name)
    return np.asarray(widened(get_backend(x), x))


def check_graph(file: Checkpoint, graph: PermutationGraph) -> None:
    """Raise unless a graph has the names and shapes of a file, and the same axes for tensors that are tied.

    Raises
    ------
    SpecError, ShapeError
        It is the graph of another file.
    """
    graph.check_params(file.tensors, str(file.path))
    for name, owner in file.tied.items():
        if graph.axes[name] != graph.axes[owner]:
            raise SpecError(
                f'{file.path}: {name!r} and {owner!r} are one tensor, and have axes "{graph.axes[name]}" and '
                f'"{graph.axes[owner]}"; give both the same, or save them apart'
            )


def _go(total: np.ndarray[Any, Any], x: np.ndarray[Any, Any], step: float) -> None:
    """Move the mean so far towards a network, in place."""
    for start in range(0, total.size, CHUNK):
        part = slice(start, start + CHUNK)
        total[part] = between(total[part], x[part], step)
