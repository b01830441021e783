"""The laws of `rebasin_core.models.adapter.ModelAdapter`, checked on a model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rebasin_core.backends import get_backend
from rebasin_core.backends.protocol import Array
from rebasin_core.errors import UnsupportedModelError
from rebasin_core.models.adapter import ModelAdapter
from rebasin_core.models.model import Model
from rebasin_core.symmetry.graph import PermutationGraph
from rebasin_core.symmetry.plan import Plan
from rebasin_core.testing.derivatives import check_derivative, nudged
from rebasin_core.testing.equivalence import check_opened
from rebasin_core.testing.laws import Law, check_laws, require, same
from rebasin_core.testing.snapshots import on_host, share_memory, snapshot
from rebasin_core.verification import compare_outputs, gather_inputs, leaves

__all__ = ["check_adapter"]

Params = dict[str, Array]


def check_adapter(
    adapter: ModelAdapter,
    model: Any,
    *inputs: Any,
    outputs: Callable[..., Any] | None = None,
    state: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """Check that an adapter carries a model there and back as its protocol says.

    Parameters are read and put into a copy; the forward function is the model's, differentiable, and blind to what it
    was not given; the graph found is verified with random plans; and after each of these the model, and the random
    states of Python and NumPy, are as they were.

    Parameters
    ----------
    adapter : ModelAdapter
        What to check; it need not be registered.
    model : any
        A small model in inference mode, with random numbers in its biases and norms; it is never changed.
    *inputs : array
        Its inputs, several samples; may be left out where the adapter tells their shape.
    outputs : callable, optional
        ``outputs(model, *inputs)``, what the model's user sees, without the adapter; default: ``model(*inputs)``, if
        the model can be called.
    state : callable, optional
        ``state(model)``, something compared by ``==`` that must stay as it is, such as ``pickle.dumps``; beside it the
        parameters and the plain attributes of the model are compared.
    seed : int, default 0
        Of plans and of changed parameters.

    Returns
    -------
    tuple of str
        The laws that hold: all of those that were checked.

    Raises
    ------
    LawError
        Some laws are broken; the message lists all of them, with what was found.

    Examples
    --------
    ``check_adapter(TorchAdapter(), model, torch.randn(8, 3))``; one that is registered, or an entry point, is found by
    `rebasin_core.models.model.find_adapter`.
    """
    if outputs is None and callable(model):
        outputs = _call
    laws = _Laws(adapter, model, inputs, outputs, state, seed)
    return check_laws(f"the adapter {getattr(adapter, 'name', adapter)!r}", laws.all())


def _call(model: Any, *inputs: Any) -> Any:
    return model(*inputs)


class _Laws:
    def __init__(
        self,
        adapter: ModelAdapter,
        model: Any,
        inputs: tuple[Any, ...],
        outputs: Callable[..., Any] | None,
        state: Callable[[Any], Any] | None,
        seed: int,
    ) -> None:
        self.adapter, self.model, self.outputs, self.state, self.seed = adapter, model, outputs, state, seed
        self.inputs = inputs or adapter.example_inputs(model) or ()
        self.before = self.snapshot()

    def all(self) -> dict[str, Law]:
        """All laws, by name; each also requires that the model stays as it is."""
        laws: dict[str, Law] = {
            "params: named arrays, always the same": self.params_are_stable,
            "example_inputs: None, or a tuple that forward takes": self.example_inputs,
            "forward: a function of the parameters it is given": self.forward_uses_params,
            "forward: differentiable in the parameters": self.differentiable,
            "rebuild: a copy of the same type that holds what it was given": self.rebuild_holds,
            "rebuild: copies share no memory": self.rebuild_copies,
            "graph: fits the parameters and can be pinned": self.graph_fits,
            "graph: random plans leave the outputs": self.graph_is_right,
            "check_pair: accepts a model and its copy": self.pairs,
            "loss and metric: a function stays what it is": self.losses,
        }
        if self.outputs is not None:
            laws["forward: computes what the model computes"] = partial(self.forward_agrees, self.outputs)
            laws["rebuild: a permuted copy computes the same"] = partial(self.permuted_copy, self.outputs)
        if hasattr(self.adapter, "keep_random_state"):
            laws["keep_random_state: lets errors through"] = partial(self.random_state, self.adapter.keep_random_state)
        if hasattr(self.adapter, "activations"):
            laws["activations: move with their groups"] = partial(self.activations, self.adapter.activations)
        if hasattr(self.adapter, "batch_norms"):
            laws["batch_norms: measures running statistics"] = partial(self.batch_norms, self.adapter.batch_norms)
        return {name: partial(self.watched, law) for name, law in laws.items()}

    # --- what must stay -----------------------------------------------------------------------------------------------
    def snapshot(self) -> dict[str, Any]:
        """Everything that no call may change."""
        return {**snapshot(self.model, self.params()), "the state": self.state and self.state(self.model)}

    def watched(self, law: Law) -> None:
        """Check a law, then that nothing changed on the way."""
        try:
            law()
        finally:
            before, self.before = self.before, self.snapshot()
        names = {**before, **self.before}
        changed = [name for name in names if before.get(name, law) != self.before.get(name, law)]
        require(not changed, f"it changed {' and '.join(changed[:3])} of the user's model or process")

    # --- shorthand ----------------------------------------------------------------------------------------------------
    def params(self) -> Params:
        return self.adapter.params(self.model)

    def opened(self) -> Model:
        return Model(self.model, self.adapter, self.params())

    def graph(self) -> PermutationGraph:
        return self.adapter.graph(self.model, *self.inputs)

    def forward(self, params: Params) -> Any:
        return self.adapter.forward(self.model)(dict(params), gather_inputs(self.opened(), self.inputs))

    def agree(self, found: Any, expected: Any, what: str) -> None:
        difference = compare_outputs(expected, found, self.params())
        require(difference.is_rounding, f"{what}: {difference}")

    # --- laws ---------------------------------------------------------------------------------------------------------
    def params_are_stable(self) -> None:
        require(isinstance(self.adapter.name, str) and self.adapter.name, "the adapter has no name")
        first, second = self.params(), self.params()
        require(isinstance(first, dict) and first, f"expected a dictionary of arrays, got {first!r}")
        require(all(isinstance(name, str) for name in first), f"names must be text, got {list(first)[:3]}")
        require(list(first) == list(second), f"names differ from call to call: {list(first)}, then {list(second)}")
        get_backend(*first.values())

    def example_inputs(self) -> None:
        found = self.adapter.example_inputs(self.model)
        if found is not None:
            require(
                isinstance(found, tuple) and found, f"expected a tuple of inputs or None, got {type(found).__name__}"
            )
            self.adapter.forward(self.model)(self.params(), gather_inputs(self.opened(), found))

    def forward_agrees(self, outputs: Callable[..., Any]) -> None:
        copy = self.adapter.rebuild(self.model, self.params())  # some models change when they are called
        self.agree(self.forward(self.params()), outputs(copy, *self.inputs), "forward and the model differ")

    def forward_uses_params(self) -> None:
        forward, params = self.adapter.forward(self.model), self.params()
        inputs, other = gather_inputs(self.opened(), self.inputs), nudged(params, self.seed)
        first = forward(dict(params), inputs)
        self.agree(forward(dict(params), inputs), first, "the same parameters give two results")
        changed = forward(dict(other), inputs)
        same = compare_outputs(first, changed, params).is_rounding
        require(not same, "other parameters give the same outputs: forward does not use what it is given")
        if self.outputs is not None:
            expected = self.outputs(self.adapter.rebuild(self.model, other), *self.inputs)
            self.agree(changed, expected, "forward with other parameters differs from a copy that holds them")

    def differentiable(self) -> None:
        forward, inputs = self.adapter.forward(self.model), gather_inputs(self.opened(), self.inputs)
        check_derivative(lambda params: forward(params, inputs), self.params(), self.seed)

    def rebuild_holds(self) -> None:
        for params in (self.params(), nudged(self.params(), self.seed)):
            copy = self.adapter.rebuild(self.model, params)
            require(type(copy) is type(self.model), f"it made a {type(copy).__name__} of a {type(self.model).__name__}")
            require(copy is not self.model, "it returned the model itself")
            held, wanted = on_host(self.adapter.params(copy)), on_host(params)
            require(list(held) == list(wanted), f"the copy has parameters {list(held)}, expected {list(wanted)}")
            for name, x in wanted.items():
                require(held[name].dtype == x.dtype, f"{name!r} became {held[name].dtype}, was {x.dtype}")
                same(held[name], x, repr(name))

    def rebuild_copies(self) -> None:
        copy = self.adapter.rebuild(self.model, self.params())
        mine, theirs = self.params(), self.adapter.params(copy)
        shared = [name for name in mine if share_memory(mine[name], theirs[name])]
        require(not shared, f"the copy's {shared[:3]} lie where the model's do")
        before = on_host(theirs)
        self.adapter.rebuild(copy, nudged(mine, self.seed))
        for name, x in on_host(self.adapter.params(copy)).items():
            same(x, before[name], f"{name!r} of a copy of which another copy was made")

    def permuted_copy(self, outputs: Callable[..., Any]) -> None:
        graph, params = self.graph(), self.params()
        copy = self.adapter.rebuild(self.model, Plan.random(graph, self.seed).apply(params, graph))
        before = outputs(self.adapter.rebuild(self.model, params), *self.inputs)
        self.agree(outputs(copy, *self.inputs), before, "the copy computes something else")

    def graph_fits(self) -> None:
        graph = self.graph()
        require(isinstance(graph, PermutationGraph), f"expected a PermutationGraph, got {type(graph).__name__}")
        graph.check_params(self.params())
        kept = self.adapter.graph(self.model, *self.inputs, pin=list(graph.groups))
        require(not kept.groups, f"with every group pinned, {list(kept.groups)} still move")

    def graph_is_right(self) -> None:
        check_opened(self.opened(), self.inputs, self.graph(), seed=self.seed)

    def pairs(self) -> None:
        self.adapter.check_pair(self.model, self.adapter.rebuild(self.model, nudged(self.params(), self.seed)))

    def losses(self) -> None:
        first = next(leaves(self.forward(self.params())))

        def squares(outputs: Array, targets: Array) -> Array:
            return get_backend(outputs).sum((outputs - targets) ** 2)

        for which in (self.adapter.loss, self.adapter.metric):
            backend, fun = get_backend(first), which(self.model, squares)
            same(float(backend.to_numpy(fun(first, first))), 0.0, "the sum of squares of nothing")
            same(float(backend.to_numpy(fun(first, 0.0 * first))), np.sum(backend.to_numpy(first) ** 2), rtol=1e-4)

    def random_state(self, keep: Callable[..., Any]) -> None:
        for seed in (None, self.seed):
            passed = False
            try:
                with keep(seed):
                    self.forward(self.params())
                    raise _Signal
            except _Signal:
                passed = True
            require(passed, "an error inside of it did not come out")

    def activations(self, make: Callable[..., Any]) -> None:
        graph, params, inputs = self.graph(), self.params(), gather_inputs(self.opened(), self.inputs)
        plan = Plan.random(graph, self.seed)
        try:
            collect = make(self.model, graph)
        except UnsupportedModelError:
            return
        here, there = collect(params, inputs), collect(plan.apply(params, graph), inputs)
        require(here.keys() <= graph.groups.keys(), f"it names {list(here)}, the groups are {list(graph.groups)}")
        for group, layers in here.items():
            for x, y in zip(layers, there[group], strict=True):
                values, moved = (get_backend(x).to_numpy(array) for array in (x, y))
                wanted = (len(values), graph.groups[group])
                require(values.shape == wanted, f"those of {group!r} have shape {values.shape}, expected {wanted}")
                scale = 1e-3 * float(np.abs(values).max())
                same(moved, values[:, plan[group]], f"{group!r} under a plan", atol=scale)

    def batch_norms(self, make: Callable[..., Any]) -> None:
        norms = make(self.model)
        if norms is None:
            return
        params, inputs = self.params(), gather_inputs(self.opened(), self.inputs)
        backend, statistics = get_backend(*params.values()), norms.measure(params, inputs)
        strange = [name for name in statistics if name not in params]
        require(statistics and not strange, f"it measured {list(statistics)}, which must be parameters")
        for name, x in statistics.items():
            wanted = backend.shape(params[name])
            require(backend.shape(x) == wanted, f"{name!r} has shape {backend.shape(x)}, expected {wanted}")
        again = norms.measure({**params, **statistics}, inputs)
        for name, x in statistics.items():
            same(backend.to_numpy(again[name]), backend.to_numpy(x), f"{name!r}, measured twice,", 1e-4, 1e-5)
        norms.forward(params, inputs)


class _Signal(Exception):  # noqa: N818 -- a signal, not an error
    """Raised by a law, to see whether it comes out."""
