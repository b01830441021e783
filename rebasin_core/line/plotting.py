"""Pictures; needs matplotlib (``pip install "rebasin-core[plot]"``)."""

import itertools
from collections.abc import Mapping
from typing import Any, Protocol

from rebasin_core.errors import SettingError

__all__ = ["plot_curves", "save_figure", "shown_axes"]

# Okabe and Ito's palette: distinct to color-blind readers too.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "-", (0, (4, 3)), "-.", ":")


class Drawable(Protocol):
    """What a picture needs of a curve."""

    @property
    def lambdas(self) -> Any:
        """Places on the line, shape (k,)."""
        ...

    @property
    def losses(self) -> Any:
        """Loss at every place, shape (k,)."""
        ...

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Every metric at every place."""
        ...


def plot_curves(curves: Mapping[str, Drawable], ax: Any = None, metric: str | None = None) -> Any:
    """Draw several curves over the same line into one set of axes.

    Parameters
    ----------
    curves : mapping of str to Curve
        By label.
    ax : matplotlib axes, optional
        Where to draw; default: a new figure that ``pyplot`` does not know.
    metric : str, optional
        Which metric to draw; default: the loss.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    SettingError
        A curve lacks the metric.
    """
    ax = _bare_axes() if ax is None else ax
    # Dashes of their own: a curve that covers another stays visible.
    styles = zip(itertools.cycle(COLORS), itertools.cycle(DASHES), strict=False)
    for (label, curve), (color, dashes) in zip(curves.items(), styles, strict=False):
        if metric is not None and metric not in curve.metrics:
            raise SettingError(f"no metric {metric!r} was measured; there is {', '.join(curve.metrics) or 'none'}")
        values = curve.losses if metric is None else curve.metrics[metric]
        ax.plot(curve.lambdas, values, label=label, color=color, linestyle=dashes)
    ax.set_xlabel(r"$\lambda$: 0 is A, 1 is B (hard permutations)")
    ax.set_ylabel(metric or "loss")
    ax.grid(alpha=0.3)
    if any(curves):
        ax.legend(frameon=False)
    return ax


def shown_axes() -> Any:
    """Make axes of a new figure of ``pyplot``; of one that nothing shows where its backend cannot open a window."""
    try:
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=(5, 3.5), layout="constrained")[1]
    except ImportError:
        return _bare_axes()


def _bare_axes() -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(5, 3.5), layout="constrained").subplots()


def save_figure(ax: Any, path: Any) -> None:
    """Write the figure of a set of axes to a file; the ending chooses the format."""
    ax.figure.savefig(path, dpi=150)
