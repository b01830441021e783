"""A re-basin network to train with ``fit``: a model whose trainable weights are the logits of a soft plan."""

import re
from collections.abc import Mapping
from typing import Any

import keras

from rebasin_core.backends import get_backend
from rebasin_core.backends.dtypes import is_floating
from rebasin_core.errors import UnsupportedModelError
from rebasin_core.line.mean import lerp
from rebasin_core.support.settings import at_least, not_negative
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.learned_plan import LearnedPlan, assign, check_graph, initial_logits
from rebasin_core.symmetry.plan import Plan
from rebasin_keras.copies import rebuild_model
from rebasin_keras.functional import forward_function
from rebasin_keras.pairs import check_pair
from rebasin_keras.variables import parameters_of

__all__ = ["RebasinModel"]


class RebasinModel(LearnedPlan, keras.Model):
    """A model re-based by a plan that is learned (the paper's re-basin network), for ``compile`` and ``fit``.

    Its trainable weights are the logits, one matrix per permutation group, and nothing else: any optimizer, loss and
    callback of Keras's trains them. In training, a call runs the model with its weights mixed by the soft plan,
    ``S_tau(logits)``, and gradients reach the logits by implicit differentiation; in ``evaluate`` and ``predict`` it
    runs with the nearest hard plan. With an `anchor`, the weights are those of a place on the line between the anchor
    and the re-based model: trained on the task's own loss, that is Eq. 8 (``place=0.5``) or Eq. 9 (``place="random"``)
    of the paper. The model itself always computes as in inference.

    Use it where `rebasin_core.align` is too narrow: callbacks, schedules, or a ``train_step`` of your own.

    Parameters
    ----------
    model : keras.Model
        The network to re-base (model B). Its weights are copied in, as weights that are not trained.
    graph : PermutationGraph
        What may be permuted, as found by ``rebasin_core.permutation_graph(model)``.
    tau : float, default 1.0
        Temperature of the Sinkhorn operator, in units of the logits.
    num_iters : int, default 20
        Iterations of the operator.
    anchor : keras.Model, optional
        The network to be joined with (model A), of the same architecture; its weights are copied in likewise.
    place : float or "random", default 0.5
        Where on the line from the anchor (0) to the re-based model (1). "random" draws a place for each training step,
        and evaluates at 0.5. Without an anchor it has no effect.
    init : Plan, optional
        Where to start; default: the identity.
    init_scale : float, default 0.5
        Height of the logits on that plan, in units of `tau`. A low start is meant: it lets the first steps see all
        plans at once.
    seed : int, default 0
        Of the random places.

    Raises
    ------
    UnsupportedModelError
        The model is not built or cannot be copied, or the anchor is of another architecture.
    SpecError, ShapeError
        The graph is for another model, or there is nothing to permute.
    SettingError, PlanError
        A setting is out of range, or `init` is for another graph.

    Notes
    -----
    The hard plan is assigned on the host, once more in each batch outside of training; for many batches, take
    `model` once. On TensorFlow that cannot be compiled by XLA, so ``jit_compile="auto"`` means no here.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import rebasin_core as rb
    >>> from rebasin_keras import RebasinModel
    >>> def build():
    ...     return keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    >>> a, b = build(), build()
    >>> net = RebasinModel(b, rb.permutation_graph(b), anchor=a)
    >>> net.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
    >>> history = net.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
    >>> [tuple(w.shape) for w in net.trainable_weights], net.plan()["dense"].shape
    ([(8, 8)], (8,))
    >>> type(net.model()).__name__
    'Sequential'
    """

    def __init__(
        self,
        model: Any,
        graph: PermutationGraph,
        tau: float = 1.0,
        num_iters: int = 20,
        *,
        anchor: Any = None,
        place: float | str = 0.5,
        init: Plan | None = None,
        init_scale: float = 0.5,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        params = _checked(model, graph)
        logits = initial_logits(graph, params, tau, num_iters, init, init_scale)
        at_least(0, seed=seed)
        if place != "random":
            not_negative(place=place)
        if anchor is not None:
            _checked(anchor, graph)
            check_pair(anchor, model)
        super().__init__(name=name, dtype=next(iter(logits.values())).dtype.name)
        self.graph, self.tau, self.num_iters, self.place = graph, float(tau), int(num_iters), place
        template = rebuild_model(model, params)
        # In an object that Keras does not look into: the template's weights are not weights of this model.
        self._template = _Untracked(template, forward_function(template))
        self._logits = {group: self._add("logits", group, x, trainable=True) for group, x in logits.items()}
        self._fixed = {name: self._add("model", name, x) for name, x in params.items()}
        self._anchor = (
            {name: self._add("anchor", name, x) for name, x in parameters_of(anchor).items()}
            if anchor is not None
            else {}
        )
        self._seeds = keras.random.SeedGenerator(seed)
        # XLA in TensorFlow has no calls to the host; JAX's compiler has.
        self.supports_jit = keras.backend.backend() == "jax"
        self.built = True

    @property
    def logits(self) -> dict[str, Any]:
        """The trainable weights, by group: shape (n, n), or (parent, n, n) for a group local to another."""
        return dict(self._logits)

    def model(self) -> Any:
        """Return a copy of the model re-based by the hard plan: the same type and the same function."""
        return rebuild_model(self._template.model, self.plan().apply(self._original(), self.graph))

    def rebased(self) -> Any:
        """Return what `model` does."""
        return self.model()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Run the model: softly re-based in training, by the hard plan otherwise; with an anchor, on the line."""
        params = self.soft_parameters() if training else self._hard(self._original())
        if self._anchor:
            params = self._on_the_line(_values(self._anchor), params, bool(training))
        return self._template.forward(params, inputs)

    def build(self, input_shape: Any = None) -> None:
        """Do nothing: all weights exist from the start."""

    def _logit_values(self) -> dict[str, Any]:
        return _values(self._logits)

    def _original(self) -> dict[str, Any]:
        return _values(self._fixed)

    def _add(self, kind: str, name: str, values: Any, trainable: bool = False) -> Any:
        # Keras wants no slash in a name, torch no dot; the number tells apart what is then spelled alike.
        spelled = f"{kind}_{len(self.weights)}_{re.sub(r'[^A-Za-z0-9]+', '_', name)}"
        weight = self.add_weight(
            name=spelled,
            shape=tuple(values.shape),
            dtype=keras.backend.standardize_dtype(values.dtype),
            initializer="zeros",
            trainable=trainable,
            autocast=False,  # a global mixed-precision policy would round the weights
        )
        weight.assign(values)
        return weight

    def _hard(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Re-base by the nearest hard plan, in compiled functions too."""
        actions = {}
        for group, logits in self._logit_values().items():
            backend = get_backend(logits)
            if backend.is_concrete(logits):
                actions[group] = backend.asarray(assign(backend.to_numpy(logits)), like=logits, dtype="int64")
            else:
                actions[group] = backend.call_on_host(assign, logits, tuple(logits.shape[:-1]))  # type: ignore[attr-defined]
        axes, sizes = self.graph.axes, self.graph.groups
        return {name: act(get_backend(x), x, axes[name], sizes, actions) for name, x in params.items()}

    def _on_the_line(self, anchor: dict[str, Any], params: dict[str, Any], training: bool) -> dict[str, Any]:
        if self.place != "random":
            return lerp(anchor, params, float(self.place))
        if not training:
            return lerp(anchor, params, 0.5)
        t = keras.random.uniform((), dtype=self.variable_dtype, seed=self._seeds)
        # Arrays of another dtype than the place's do not mix with it in every framework.
        return {
            name: lerp({name: a}, params, keras.ops.cast(t, a.dtype) if is_floating(str(a.dtype)) else t)[name]
            for name, a in anchor.items()
        }


class _Untracked:
    """A model, and its forward function, out of Keras's sight."""

    def __init__(self, model: Any, forward: Any) -> None:
        self.model, self.forward = model, forward


def _values(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: variable.value for name, variable in variables.items()}


def _checked(model: Any, graph: Any) -> dict[str, Any]:
    """Weights of a model that fits the graph."""
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(f"expected a keras.Model, got {type(model).__name__}")
    params = parameters_of(model)
    check_graph(graph, params, "permutation_graph(model)")
    return params
