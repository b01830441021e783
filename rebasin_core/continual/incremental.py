"""Re-basin incremental learning: the model, its memory, and one task after the other."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rebasin_core.backends.optimizers import Optimizer
from rebasin_core.backends.protocol import Array
from rebasin_core.continual import saving
from rebasin_core.continual.episode import Outcome, score
from rebasin_core.continual.memory import Head, TaskMemory
from rebasin_core.continual.report import TaskReport
from rebasin_core.continual.run import Run
from rebasin_core.continual.settings import NAMES, Settings, choose
from rebasin_core.models.adapter import Forward
from rebasin_core.models.model import open_model
from rebasin_core.support.progress import check_flag
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["RebasinIncremental"]


class RebasinIncremental:
    """Learn tasks one after the other, each by a re-basin of the model before and a small residual.

    Trained on one task after the other, a network forgets. This looks for the next model near those that know what was
    before: on the line from the model ``theta`` to a re-based copy ``pi_P(theta)``, which is the same function. The
    cost of a task (Eq. 10 of the paper) is the loss at the middle of that line, moved by a residual ``delta``,

    ``C_CL(delta, P) = C((theta + pi_P(theta)) / 2 + delta) + beta |delta|^2``,

    averaged over the current and the past tasks, of which a few samples are kept. Soft permutations
    ``P = S_tau(logits)`` and the residual are learned together (Eq. 11); the next model is (Eq. 12)

    ``theta_next = (1 - alpha) theta + alpha pi_P(theta) + delta``.

    Choose it where tasks or domains come one by one, little of what was can be kept, and forgetting matters more than
    the last per cent on the newest task. Where all data can be kept, train on them together.

    Parameters
    ----------
    model : any model an adapter carries, or a mapping of arrays
        The network, trained or not; it is copied and never changed. It may have several outputs (a tuple, list or
        mapping of heads), one per task.
    *example_inputs : array
        Inputs to trace with, where their shape is not known from the model and no `graph` is given.
    graph : PermutationGraph, optional
        What may be permuted; default: found in the model. Required for a mapping of arrays.
    forward : callable, optional
        ``forward(params, inputs) -> outputs``, for a mapping of arrays.
    loss : callable or name
        ``loss(outputs, targets) -> scalar``, the mean over the batch; the framework's own. It is given the outputs of
        the task's head. None for the model's own, where its outputs suffice for it.
    settings : Settings, optional
        All settings as one value, `rebasin_core.continual.Settings`, which says what each of them does.
    groups, alpha, beta, tau, num_iters, optimizer, ... : optional
        The same, by name; not beside `settings`.
    progress : bool, default True
        Show a progress bar where a person is watching.

    Attributes
    ----------
    graph : PermutationGraph
        With the groups that are re-based.
    settings : Settings
        As they were read.

    Raises
    ------
    RebasinError
        One of its children, before any work: a setting out of its range, an unknown group, none left, NaN weights.

    Notes
    -----
    The network computes in inference mode, without dropout; batch normalization layers normalize by the batch while a
    task is learned, and their running statistics are re-estimated on its data and the memory afterwards (not for a
    mapping of arrays or a `forward` of yours, which do not say what is a statistic). The first task of an untrained
    model is plain training of all learned parameters; for a model that knows its first task, call `remember`. All
    floating-point parameters are learned, frozen ones too: a permutation that moves units moves all their weights.

    References
    ----------
    .. [1] F. A. Guerrero Peña, H. R. Medeiros, T. Dubail, M. Aminbeidokhti, E. Granger, M. Pedersoli. Re-basin via
       implicit Sinkhorn differentiation. CVPR 2023. Section 4.

    Examples
    --------
    Two linear tasks for a network of two layers:

    >>> import autograd.numpy as anp, numpy as np, rebasin_core as rb
    >>> rng = np.random.default_rng(0)
    >>> params = {"w1": rng.normal(size=(8, 2)), "w2": rng.normal(size=(1, 8))}
    >>> graph = rb.PermutationGraph.from_axes({"w1": "h .", "w2": ". h"}, params)
    >>> learner = rb.RebasinIncremental(
    ...     params, graph=graph, forward=lambda p, x: anp.dot(anp.tanh(anp.dot(x, p["w1"].T)), p["w2"].T),
    ...     loss=lambda outputs, targets: anp.mean((outputs - targets) ** 2), num_epochs=100, progress=False)
    >>> x = rng.normal(size=(50, 2))
    >>> for task in range(2):
    ...     report = learner.fit_task((x, x[:, [task]]), task)
    >>> len(learner.memory), len(learner.memory[0]), report.steps
    (2, 5, 100)
    """

    def __init__(
        self,
        model: Any,
        *example_inputs: Any,
        graph: PermutationGraph | None = None,
        forward: Forward | None = None,
        loss: Any = None,
        settings: Settings | None = None,
        groups: str | Sequence[str] | None = None,
        alpha: float = 0.8,
        beta: float = 0.1,
        tau: float = 1.0,
        num_iters: int = 20,
        optimizer: Optimizer | None = None,
        residual_optimizer: Optimizer | None = None,
        first_optimizer: Optimizer | None = None,
        num_epochs: int = 5,
        batch_size: int = 500,
        memory_per_class: int | None = 5,
        memory_weight: float | None = None,
        memory_batch_size: int = 1000,
        distillation: float = 0.0,
        distill_heads: float = 0.0,
        average: float = 0.0,
        keep: float = 0.0,
        scale_residual: bool = False,
        hard: bool = True,
        init_scale: float | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        keywords = {name: value for name, value in locals().items() if name in NAMES}
        check_flag(progress=progress)
        chosen = choose(settings, keywords)
        opened = open_model(model, forward)
        found = opened.adapter.graph(model, *example_inputs) if graph is None else graph
        self._run, self._progress = Run.start(opened, found, chosen, loss), progress

    @classmethod
    def _of(cls, run: Run, progress: bool) -> "RebasinIncremental":
        learner = cls.__new__(cls)
        learner._run, learner._progress = run, progress
        return learner

    # --- what has been learned ----------------------------------------------------------------------------------------
    @property
    def graph(self) -> PermutationGraph:
        """What may be permuted, with the groups that are re-based."""
        return self._run.network.graph

    @property
    def settings(self) -> Settings:
        """The settings, as they were read."""
        return self._run.settings

    @property
    def model(self) -> Any:
        """The current model: a copy, of the type that was passed in; a new one each time."""
        return self._run.model.rebuild(self.params)

    @property
    def params(self) -> dict[str, Array]:
        """Copies of the current parameters, arrays of the framework by name."""
        backend = self._run.model.backend
        return {name: backend.asarray(backend.to_numpy(x), like=x) for name, x in self._run.params.items()}

    @property
    def memory(self) -> tuple[TaskMemory, ...]:
        """Samples of past tasks, in their order; empty with ``memory_per_class=None``."""
        return self._run.memory

    @property
    def tasks(self) -> tuple[Head, ...]:
        """Head, or label, of every task learned so far."""
        return tuple(report.task for report in self.reports)

    @property
    def reports(self) -> tuple[TaskReport, ...]:
        """What the learning of every task did."""
        return self._run.reports

    # --- learning -----------------------------------------------------------------------------------------------------
    def fit_task(self, data: Any, task: Head = None, *, num_epochs: int | None = None) -> TaskReport:
        """Learn one more task, and put samples of it into the memory.

        Parameters
        ----------
        data : pair of arrays or iterable of pairs
            ``(inputs, targets)``, or batches of it. Read once before the first step, to choose what is remembered.
        task : int or str, optional
            The head the loss is taken of, by its index or key; a label where the model has one output.
        num_epochs : int, optional
            Passes over the data; default: as for all tasks.

        Returns
        -------
        TaskReport

        Raises
        ------
        DataError, SettingError
            Empty data, a class the head has no output for, a head that is not there: before any work.
        NonFiniteError
            The loss or a gradient became NaN or infinite; the message names task and step. The model, the memory and
            the list of tasks are then as they were before.
        """
        epochs = self.settings.num_epochs if num_epochs is None else num_epochs
        at_least(1, num_epochs=epochs)
        return self._after(self._run.episode(task).learn(data, epochs, self._progress))

    def remember(self, data: Any, task: Head = None) -> TaskReport:
        """Count a task as learned that the model knows already, and put samples of it into the memory.

        Call it before the first `fit_task` of a model that was trained elsewhere; arguments and errors as there.
        """
        return self._after(self._run.episode(task).remember(data))

    def with_model(
        self,
        model: Any,
        *example_inputs: Any,
        graph: PermutationGraph | None = None,
        forward: Forward | None = None,
    ) -> "RebasinIncremental":
        """Return a learner that goes on with another model: settings, loss, memory and reports stay.

        For a network that has grown since, by outputs for new classes or by a head, or got its weights elsewhere.

        Parameters
        ----------
        model : any model an adapter carries, or a mapping of arrays
            Takes the inputs in the memory; it is copied and never changed.
        *example_inputs, graph
            As for a new learner: what may be permuted is found once more, unless a graph is given.
        forward : callable, optional
            For a mapping of arrays: its function, where the one of before does not compute with it. Default: that one.

        Raises
        ------
        RebasinError
            One of its children, as for a new learner; this one stays as it is in any case.
        """
        opened = open_model(model, forward or self._run.model.user_forward)
        found = opened.adapter.graph(model, *example_inputs) if graph is None else graph
        run = Run.start(opened, found, self.settings, self._run.loss)
        return self._of(replace(run, memory=self.memory, reports=self.reports), self._progress)

    def evaluate(self, data: Any, task: Head = None, metric: Any = "accuracy") -> float:
        """Mean of a metric over data, of the current model in inference mode.

        Parameters
        ----------
        data : pair of arrays or iterable of pairs
            As for `fit_task`.
        task : int or str, optional
            The head.
        metric : callable or name, default "accuracy"
            ``metric(outputs, targets)``, or a name the adapter knows.

        Returns
        -------
        float
            In units of the metric; batches weigh as many samples as they have.
        """
        return score(self._run.model, self._run.params, self.settings, data, task, metric)

    def _after(self, outcome: Outcome) -> TaskReport:
        self._run = self._run.after(outcome)
        return outcome.report

    # --- files --------------------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters, the memory, the reports and the settings to one file, whole or not at all.

        A run that is loaded from it goes on exactly as this one would have, as far as the framework computes the same
        numbers twice: what a task draws depends on the seed and its number. The format is NumPy's npz, without pickle.
        """
        saving.write(path, self._run.saved())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        model: Any,
        *,
        forward: Forward | None = None,
        loss: Any = None,
        progress: bool = True,
        **settings: Any,
    ) -> "RebasinIncremental":
        """Read what `save` wrote, and go on from there.

        Parameters
        ----------
        path : str or path
            The file.
        model : as for the constructor
            A model of the same architecture; its weights do not matter.
        forward : callable, optional
            As for the constructor.
        loss : callable or name, optional
            As for the constructor; needed where it was a function, which a file cannot hold.
        progress : bool, default True
            As for the constructor.
        **settings
            Settings are those of the file; one that is given and differs is an error.

        Raises
        ------
        DataError
            The file is of another kind, or damaged.
        SettingError
            A setting differs, or the loss is missing.
        SpecError, ShapeError
            The model has other parameters than the one that was saved.
        """
        check_flag(progress=progress)
        saved = saving.read(path)
        saving.check_same(saved.settings, settings)
        return cls._of(Run.go_on(open_model(model, forward), saved, loss), progress)
