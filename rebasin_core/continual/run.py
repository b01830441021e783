"""A run of tasks as one value: what is learned with, and what has been learned so far."""

from dataclasses import dataclass, replace
from typing import Any

from rebasin_core.backends.dtypes import is_floating
from rebasin_core.continual.cost import Params
from rebasin_core.continual.episode import Episode, Outcome
from rebasin_core.continual.learning import Network
from rebasin_core.continual.memory import Head, TaskMemory
from rebasin_core.continual.report import TaskReport
from rebasin_core.continual.saving import Saved, restore_run
from rebasin_core.continual.settings import Settings, choose_groups
from rebasin_core.continual.ties import find_ties
from rebasin_core.errors import SettingError, SpecError, UnsupportedModelError
from rebasin_core.models.batch_norms import forward_with
from rebasin_core.models.model import Model, open_model
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """Everything a learner is made of; a task gives another run.

    Attributes
    ----------
    model : Model
        A copy of our own of the user's model: its code, and the parameters that it started with.
    network : Network
        What is optimized.
    graph : PermutationGraph
        All that may be permuted; `network.graph` has the groups that are re-based.
    settings : Settings
        How.
    loss : callable, name or None
        As the user gave it.
    params : dict of str to array
        The current parameters.
    memory, reports : tuple
        Of the tasks so far.
    """

    model: Model
    network: Network
    graph: PermutationGraph
    settings: Settings
    loss: Any
    params: Params
    memory: tuple[TaskMemory, ...] = ()
    reports: tuple[TaskReport, ...] = ()

    @classmethod
    def start(cls, opened: Model, graph: Any, settings: Settings, loss: Any) -> "Run":
        """Begin with a model: checks come before any work."""
        if not isinstance(graph, PermutationGraph):
            raise SpecError(f"expected graph as a PermutationGraph, got {type(graph).__name__}")
        graph.check_params(opened.params, "the model")
        chosen = choose_groups(graph, settings.groups)
        # A copy of our own: what the user does to the model from here on does not matter.
        model = open_model(opened.rebuild(opened.params), opened.user_forward)
        backend = model.backend
        learned = tuple(name for name in graph.learned if is_floating(backend.dtype(model.params[name])))
        if not learned:
            raise UnsupportedModelError("the model has no floating-point parameter that is learned; nothing to train")
        ties = find_ties(model, graph)
        network = Network(backend, forward_with(model, None), opened.loss(loss), chosen, learned, ties)
        return cls(model, network, graph, settings, loss, dict(model.params))

    @classmethod
    def go_on(cls, opened: Model, saved: Saved, loss: Any) -> "Run":
        """Go on from a file, with a model of the same architecture."""
        if loss is None and saved.loss_is_function:
            raise SettingError("the loss was a function, which a file cannot hold; pass the same one, as in loss=...")
        if isinstance(loss, str) and loss != saved.loss:
            raise SettingError(f"the file was saved with loss={saved.loss!r}, got loss={loss!r}; leave loss out")
        params = restore_run(opened, saved.params)
        run = cls.start(opened, saved.graph, saved.settings, saved.loss if loss is None else loss)
        return replace(run, params=params, memory=tuple(saved.memory), reports=tuple(saved.reports))

    def saved(self) -> Saved:
        """Return what a file holds."""
        backend = self.model.backend
        params = {name: backend.to_numpy(x) for name, x in self.params.items()}
        name = self.loss if isinstance(self.loss, str) else None
        is_function = self.loss is not None and name is None
        return Saved(self.settings, name, is_function, self.graph, params, self.memory, self.reports)

    def episode(self, task: Head) -> Episode:
        """Return the next task, to be learned or remembered."""
        index = len(self.reports)
        return Episode(self.model, self.network, self.settings, self.params, self.memory, index, task)

    def after(self, outcome: Outcome) -> "Run":
        """Return the run after a task."""
        memory, reports = (*self.memory, *outcome.memory), (*self.reports, outcome.report)
        return replace(self, params=outcome.params, memory=memory, reports=reports)
