"""Linear mode connectivity: the loss along the straight line between two networks."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from rebasin_core.backends.scalars import as_number
from rebasin_core.errors import DataError, NonFiniteError, SettingError
from rebasin_core.line.mean import as_place, mean
from rebasin_core.line.picture import draw_svg
from rebasin_core.line.reestimation import batches_to_measure, check_batch_size, reestimate_params, running_statistics
from rebasin_core.models.adapter import Forward
from rebasin_core.models.data import as_batches
from rebasin_core.models.data import batch_size as count
from rebasin_core.models.model import open_pair
from rebasin_core.support.progress import check_flag, progress_bar

__all__ = ["Curve", "connectivity", "interpolate"]

Vector = np.ndarray[Any, np.dtype[np.float64]]


def interpolate(
    model_a: Any, model_b: Any, t: float = 0.5, *, reestimate: Any = None, batch_size: int | None = None
) -> Any:
    """Return the model at ``(1 - t) A + t B``, of the type of model A; neither model is changed.

    Parameters
    ----------
    model_a, model_b : any models an adapter carries, or mappings of arrays
        Two networks of one architecture. Align them first: between networks as they were trained, the loss is high.
    t : float, default 0.5
        Place on the line, dimensionless.
    reestimate : data, optional
        Inputs, or pairs ``(inputs, targets)``, on which to re-estimate the statistics of batch normalization: see
        `rebasin_core.reestimate`. Choose it for every network that has such layers.
    batch_size : int, optional
        Cut `reestimate` into batches of this size, where it is a pair of arrays or one array; default: one batch.

    Raises
    ------
    RebasinError
        The models differ in architecture, or hold NaN.
    """
    place = as_place(t)
    batches = batches_to_measure(reestimate, batch_size)
    check_batch_size(batch_size, reestimate=reestimate)
    a, b = open_pair(model_a, model_b)
    return a.rebuild(reestimate_params(a, mean((a.params, b.params), (1.0 - place, place)), batches))


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """Loss and metrics along the line; a value: its arrays cannot be written to.

    Attributes
    ----------
    lambdas : ndarray, shape (k,)
        Places on the line, from 0 (model A) to 1 (model B).
    losses : ndarray, shape (k,)
        Mean loss over the data, in the units of the loss.
    metrics : dict of str to ndarray, shape (k,)
        Mean of every extra metric.
    """

    lambdas: Vector
    losses: Vector
    metrics: Mapping[str, Vector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Keep arrays of its own."""
        object.__setattr__(self, "lambdas", _vector(self.lambdas))
        object.__setattr__(self, "losses", _vector(self.losses))
        object.__setattr__(self, "metrics", {name: _vector(values) for name, values in self.metrics.items()})

    @property
    def excess(self) -> Vector:
        """Loss above the straight line between the losses of the ends, per place."""
        straight: Vector = (1 - self.lambdas) * self.losses[0] + self.lambdas * self.losses[-1]
        return self.losses - straight

    @property
    def barrier(self) -> float:
        """Loss barrier: the largest excess (Eq. 3 of the paper), 0 where there is none; in the units of the loss."""
        return float(max(self.excess.max(), 0.0))

    @property
    def auc(self) -> float:
        """Area under the excess, clipped at zero, by the trapezoid rule; in the units of the loss."""
        return float(np.trapezoid(np.maximum(self.excess, 0.0), self.lambdas))

    def at(self, t: float) -> dict[str, float]:
        """Loss and metrics at a place on the line, interpolated between the places computed."""
        values = {"loss": self.losses, **self.metrics}
        return {name: float(np.interp(t, self.lambdas, y)) for name, y in values.items()}

    def plot(self, ax: Any = None, label: str | None = None, metric: str | None = None) -> Any:
        """Draw the loss, or one metric, along the line. Needs matplotlib.

        Parameters
        ----------
        ax : matplotlib axes, optional
            Where to draw; default: a new figure of ``pyplot``, which a notebook shows, and so does ``plt.show()``.
        label : str, optional
            Of the line, for the legend.
        metric : str, optional
            Which metric to draw; default: the loss.

        Returns
        -------
        matplotlib axes
        """
        from rebasin_core.line.plotting import plot_curves, shown_axes

        return plot_curves({label or "": self}, ax=shown_axes() if ax is None else ax, metric=metric)

    def __eq__(self, other: object) -> bool:
        """Whether places, losses and metrics are the same."""
        if not isinstance(other, Curve):
            return NotImplemented
        mine, theirs = ({"lambdas": c.lambdas, "losses": c.losses, **c.metrics} for c in (self, other))
        return mine.keys() == theirs.keys() and all(
            np.array_equal(x, theirs[name], equal_nan=True) for name, x in mine.items()
        )

    def __hash__(self) -> int:
        """Equal curves have equal ones."""
        return hash((tuple(self.lambdas.tolist()), frozenset(self.metrics)))

    def __repr__(self) -> str:
        names = "".join(f", {name}" for name in self.metrics)
        return f"Curve({len(self.lambdas)} places, barrier {self.barrier:.4g}, auc {self.auc:.4g}; loss{names})"

    def _repr_html_(self) -> str:
        """A picture of the loss, for notebooks."""
        return f"<div>{draw_svg(self.lambdas, self.losses)}<br/>{html.escape(str(self))}</div>"

    def __str__(self) -> str:
        middle = ", ".join(f"{name} {value:.4g}" for name, value in self.at(0.5).items())
        return f"loss barrier {self.barrier:.4g}, area {self.auc:.4g}; at the midpoint: {middle}"


def connectivity(
    model_a: Any,
    model_b: Any,
    loss: Any = None,
    data: Any = None,
    lambdas: int | Sequence[float] = 25,
    *,
    metrics: Mapping[str, Any] | Sequence[str] = (),
    batch_size: int | None = None,
    reestimate: Any = None,
    forward: Forward | None = None,
    progress: bool = True,
) -> Curve:
    """Measure the loss along the straight line from model A to model B.

    One pass over the data: every batch is used for all places on the line, so that data which can be read only once
    will do. With `reestimate`, one pass before it, over the data named there.

    Parameters
    ----------
    model_a, model_b : any models an adapter carries, or mappings of arrays
        The ends; model B re-based, usually. Neither is changed.
    loss : callable or name, optional
        ``loss(outputs, targets) -> scalar``, the mean over the batch; None for the model's own, where it has one.
    data : pair of arrays or iterable of pairs
        ``(inputs, targets)`` or batches of it; required, by name where `loss` is left out.
    lambdas : int or sequence of float, default 25
        How many places, evenly spaced from 0 to 1, or the places; they must begin with 0 and end with 1.
    metrics : mapping of str to callable, or sequence of names, optional
        Further functions of (outputs, targets), or names the adapter knows, such as ``"accuracy"``.
    batch_size : int, optional
        Cut a pair of arrays into batches of this size; default: one batch.
    reestimate : True or data, optional
        Re-estimate the statistics of batch normalization at every place before the loss is measured there: on `data`
        (True), or on other data of the same forms, inputs alone among them. Choose it for every network that has such
        layers: without it, the curve shows mostly the collapse of the variance (see `rebasin_core.reestimate`). The
        ends are re-estimated too, so that the curve is continuous and the barrier compares networks of one kind:
        their losses differ from those of the models as they are by as much as their statistics do.
    forward : callable, optional
        ``forward(params, inputs) -> outputs``, for mappings of arrays.
    progress : bool, default True
        Show a progress bar where a person is watching.

    Returns
    -------
    Curve
        With the loss barrier (Eq. 3) and the area under the curve.

    Raises
    ------
    RebasinError
        Models of different architecture, empty data, a bad place, or a loss that is NaN at an end of the line.

    Examples
    --------
    >>> import numpy as np, rebasin_core as rb
    >>> x = np.linspace(-1, 1, 9)[:, None]
    >>> def forward(p, inputs):
    ...     return inputs * p["w"]
    >>> def mse(outputs, targets):
    ...     return np.mean((outputs - targets) ** 2)
    >>> curve = rb.connectivity({"w": np.ones(1)}, {"w": -np.ones(1)}, mse, (x, np.abs(x)), forward=forward)
    >>> curve.barrier, curve.losses.shape
    (0.0, (25,))
    """
    check_flag(progress=progress)
    if data is None:
        raise DataError(
            "connectivity needs data to measure the loss on; pass connectivity(a, b, loss, data), or data=(inputs, "
            "targets) for the model's own loss"
        )
    places = _places(lambdas)
    a, b = open_pair(model_a, model_b, forward)
    losses = {"loss": a.loss(loss)}
    metrics = (metrics,) if isinstance(metrics, str) else metrics
    names = {name: name for name in metrics} if not isinstance(metrics, Mapping) else dict(metrics)
    if "loss" in names:
        raise SettingError("a metric cannot be named 'loss', which is the loss itself; give it another name")
    losses |= {name: a.adapter.metric(a.source, metric) for name, metric in names.items()}
    run = a.forward
    batches = as_batches(data, batch_size)
    points = [partial(mean, (a.params, b.params), (1.0 - float(t), float(t))) for t in places]
    statistics: list[dict[str, Any]] = [{} for _ in points]
    to_measure = batches_to_measure(reestimate, batch_size, same=batches)
    if to_measure is not None:
        statistics = running_statistics(a, points, to_measure, progress)
    sums = {name: np.zeros(len(places)) for name in losses}
    total = 0
    with a.keep_random_state(), progress_bar(None, "loss along the line", progress) as bar:
        for batch in batches:
            n = count(batch)
            total += n
            for k, point in enumerate(points):
                outputs = run({**point(), **statistics[k]}, batch[0])
                for name, function in losses.items():
                    sums[name][k] += n * as_number(function(outputs, batch[1]), repr(name))
            bar.update()
    means = {name: value / total for name, value in sums.items()}
    for k in (0, -1):
        if not np.isfinite(means["loss"][k]):
            raise NonFiniteError(
                f"the loss of model {'B' if k else 'A'} itself is {means['loss'][k]}; check loss and data"
            )
    return Curve(places, means.pop("loss"), means)


def _vector(values: Any) -> Vector:
    vector = np.array(values, dtype=np.float64)
    vector.setflags(write=False)
    return vector


def _places(lambdas: int | Sequence[float]) -> Vector:
    if isinstance(lambdas, (int, np.integer)):
        if lambdas < 2:
            raise SettingError(f"expected at least 2 lambdas, the two ends of the line; got {lambdas}")
        return np.linspace(0.0, 1.0, int(lambdas))
    try:
        places = np.array(lambdas, dtype=np.float64)
    except (TypeError, ValueError):
        places = np.empty(0)
    if places.ndim != 1 or len(places) < 2 or places[0] != 0 or places[-1] != 1 or not (np.diff(places) > 0).all():
        raise SettingError(
            f"expected lambdas as a whole number of places, or places that rise from 0 to 1, both included; got "
            f"{lambdas!r}"
        )
    return places
