"""Re-basin incremental learning: the model, its memory, and one task after the other."""

import os
from collections.abc import Sequence
from typing import Any

from rebasin_core.backends.dtypes import is_floating
from rebasin_core.backends.optimizers import SGD, Adam, Optimizer
from rebasin_core.backends.protocol import Array
from rebasin_core.continual import saving
from rebasin_core.continual.cost import Params
from rebasin_core.continual.episode import Episode, Outcome, score
from rebasin_core.continual.learning import Network
from rebasin_core.continual.memory import Head, TaskMemory
from rebasin_core.continual.report import TaskReport
from rebasin_core.continual.settings import Settings, choose_groups
from rebasin_core.continual.ties import find_ties
from rebasin_core.errors import SettingError, SpecError, UnsupportedModelError
from rebasin_core.models.adapter import Forward
from rebasin_core.models.batch_norms import forward_with
from rebasin_core.models.model import Model, open_model
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
        Inputs to trace with, where the model does not tell their shape and no `graph` is given.
    graph : PermutationGraph, optional
        What may be permuted; default: found in the model. Required for a mapping of arrays.
    forward : callable, optional
        ``forward(params, inputs) -> outputs``, for a mapping of arrays.
    groups : None, "linear" or list of str, optional
        Groups to re-base: all (default), those in weight matrices of linear layers, as the paper does for a ResNet, or
        those named. The residual is of all learned parameters in any case.
    alpha : float, default 0.8
        Place of the next model on the line, from 0 to 1, dimensionless. Near 0.5 the new task counts most, near 0 and 1
        the old ones. With a hard P (see `hard`) and no residual, 0 gives exactly the old model, and 1 its permutation.
    beta : float, default 0.1
        Weight of the squared norm of the residual, in units of the loss per squared unit of the weights.
    tau : float, default 1.0
        Temperature of the Sinkhorn operator, in units of the logits.
    num_iters : int, default 20
        Iterations of the Sinkhorn operator.
    loss : callable or name
        ``loss(outputs, targets) -> scalar``, the mean over the batch; the framework's own. It is given the outputs of
        the task's head. None for the model's own, where its outputs suffice for it.
    optimizer : Adam or SGD, optional
        Of the logits: of `rebasin_core.optimizers`. Default: ``Adam(0.01)``.
    residual_optimizer : Adam or SGD, optional
        Of the residual. Default: ``SGD(0.1, momentum=0.8, clip=1.0)``.
    first_optimizer : Adam or SGD, optional
        Of the plain training of the first task. Default: ``Adam(0.001)``.
    num_epochs : int, default 5
        Passes over the data of a task.
    batch_size : int, default 500
        Most samples per batch, where data come as a pair of arrays.
    memory_per_class : int or None, default 5
        Samples kept per class of every task (per task, where targets are no class numbers); None: keep and replay none.
    memory_weight : float, optional
        What the mean loss over past tasks counts beside that of the current one, dimensionless; both are then divided
        by the sum. Default: the number of past tasks, which is the paper's plain average over tasks.
    memory_batch_size : int, default 1000
        Most samples of the memory that a step takes along. Where there are more, as many of every task are drawn anew
        for each step.
    distillation : float, default 0.0
        What the squared Euclidean distance between the outputs on the memory and those of the model before the task,
        mean over samples, counts beside the memory's loss; dimensionless [2]_. Beyond the paper. The outputs are taken
        as the model returns them: logits say more than probabilities.
    distill_heads : float, default 0.0
        For models with a head per task: what the squared Euclidean distance between the outputs of every past head on
        the samples of the current task and those of the model before it, mean over samples, counts beside the task's
        loss; dimensionless [3]_. Beyond the paper. It tells the old heads far more about their function than a few
        samples of a memory, at the price of one more pass per batch.
    average : float, default 0.0
        Share of the steps of a task after the first, the last ones, over which logits and residual are averaged;
        1 averages over the whole task, 0 takes the last iterate. Dimensionless.
    keep : float, default 0.0
        Share of the model before in the one after a task that is not the first, dimensionless:
        ``keep theta + (1 - keep) theta_next``.
    scale_residual : bool, default False
        Add ``4 alpha (1 - alpha) delta`` in Eq. 12, which is all of the residual at the middle and none at the ends, so
        that with a hard P an `alpha` of 0 or 1 is the old function with any residual. Beyond the paper.
    hard : bool, default True
        Make P a permutation, by linear assignment, before Eq. 12. The paper takes P from the transportation polytope
        (Eq. 1) and names no step that makes it a permutation; False does the same. Soft matrices mix units: an `alpha`
        of 1 is then no longer the old function.
    init_scale : float, optional
        Height of the diagonal of the first logits, in units of `tau`; they are zero elsewhere. Zero logits would make
        every unit the mean of all. Default: the height at which each unit keeps nine tenths of itself,
        ``log(9 (n - 1))`` for a group of n units.
    seed : int, default 0
        Of every random choice. What a task draws depends on the seed and its number alone.
    progress : bool, default True
        Show a progress bar where a person is watching.

    Attributes
    ----------
    graph : PermutationGraph
        With the groups that are re-based.
    settings : object
        All settings above, as they were read.

    Raises
    ------
    RebasinError
        One of its children, before any work: a setting out of its range, an unknown group, none left, NaN weights.

    Notes
    -----
    The network computes in inference mode, without dropout; batch normalisation layers normalise by the batch while a
    task is learned, and their running statistics are measured anew on its data and the memory afterwards (not for a
    mapping of arrays or a `forward` of yours, which do not say what is a statistic). The first task of an untrained
    model is plain training of all learned parameters; for a model that knows its first task, call `remember`. All
    floating-point parameters are learned, frozen ones too: a permutation that moves units moves all their weights.

    References
    ----------
    .. [1] F. A. Guerrero Peña, H. R. Medeiros, T. Dubail, M. Aminbeidokhti, E. Granger, M. Pedersoli. Re-basin via
       implicit Sinkhorn differentiation. CVPR 2023. Section 4.
    .. [2] P. Buzzega, M. Boschini, A. Porrello, D. Abati, S. Calderara. Dark Experience for General Continual Learning:
       a Strong, Simple Baseline. NeurIPS 2020. arXiv:2004.07211. There with the outputs of when a sample was stored.
    .. [3] Z. Li, D. Hoiem. Learning without Forgetting. ECCV 2016. arXiv:1606.09282. There with a cross-entropy.

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
        groups: str | Sequence[str] | None = None,
        alpha: float = 0.8,
        beta: float = 0.1,
        tau: float = 1.0,
        num_iters: int = 20,
        loss: Any = None,
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
        check_flag(progress=progress)
        settings = Settings(
            groups=groups if groups is None or isinstance(groups, str) else tuple(groups),
            alpha=alpha,
            beta=beta,
            tau=tau,
            num_iters=num_iters,
            init_scale=init_scale,
            hard=hard,
            optimizer=Adam(0.01) if optimizer is None else optimizer,
            residual_optimizer=SGD(0.1, momentum=0.8, clip=1.0) if residual_optimizer is None else residual_optimizer,
            first_optimizer=Adam(0.001) if first_optimizer is None else first_optimizer,
            num_epochs=num_epochs,
            batch_size=batch_size,
            memory_per_class=memory_per_class,
            memory_weight=memory_weight,
            memory_batch_size=memory_batch_size,
            distillation=distillation,
            distill_heads=distill_heads,
            average=average,
            keep=keep,
            scale_residual=scale_residual,
            seed=seed,
        )
        opened = open_model(model, forward)
        found = opened.adapter.graph(model, *example_inputs) if graph is None else graph
        self._start(opened, found, settings, loss, progress)

    def _start(self, opened: Model, graph: PermutationGraph, settings: Settings, loss: Any, progress: bool) -> None:
        if not isinstance(graph, PermutationGraph):
            raise SpecError(f"expected graph as a PermutationGraph, got {type(graph).__name__}")
        graph.check_params(opened.params, "the model")
        self.settings, self.graph = settings, choose_groups(graph, settings.groups)
        self._whole_graph, self._loss, self._progress = graph, loss, progress
        # A copy of our own: what the user does to the model from here on does not matter.
        self._model = open_model(opened.rebuild(opened.params), opened.user_forward)
        self._params: Params = dict(self._model.params)
        backend = self._model.backend
        learned = tuple(name for name in graph.learned if is_floating(backend.dtype(self._params[name])))
        if not learned:
            raise UnsupportedModelError("the model has no floating-point parameter that is learned; nothing to train")
        ties = find_ties(self._model, graph)
        self._network = Network(backend, forward_with(self._model, None), opened.loss(loss), self.graph, learned, ties)
        self._memory: tuple[TaskMemory, ...] = ()
        self._reports: tuple[TaskReport, ...] = ()

    # --- what has been learned ----------------------------------------------------------------------------------------
    @property
    def model(self) -> Any:
        """The current model: a copy, of the type that was passed in."""
        return self._model.rebuild(self.params)

    @property
    def params(self) -> dict[str, Array]:
        """Copies of the current parameters, arrays of the framework by name."""
        backend = self._model.backend
        return {name: backend.asarray(backend.to_numpy(x), like=x) for name, x in self._params.items()}

    @property
    def memory(self) -> tuple[TaskMemory, ...]:
        """Samples of past tasks, in their order; empty with ``memory_per_class=None``."""
        return self._memory

    @property
    def tasks(self) -> tuple[Head, ...]:
        """Head, or label, of every task learned so far."""
        return tuple(report.task for report in self._reports)

    @property
    def reports(self) -> tuple[TaskReport, ...]:
        """What the learning of every task did."""
        return self._reports

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
        return self._after(self._episode(task).learn(data, epochs, self._progress))

    def remember(self, data: Any, task: Head = None) -> TaskReport:
        """Count a task as learned that the model knows already, and put samples of it into the memory.

        Call it before the first `fit_task` of a model that was trained elsewhere; arguments and errors as there.
        """
        return self._after(self._episode(task).remember(data))

    def with_model(
        self, model: Any, *example_inputs: Any, graph: PermutationGraph | None = None
    ) -> "RebasinIncremental":
        """Return a learner that goes on with another model: settings, loss, memory and reports stay.

        For a network that has grown since, by outputs for new classes or by a head, or got its weights elsewhere.

        Parameters
        ----------
        model : any model an adapter carries, or a mapping of arrays
            Takes the inputs in the memory; it is copied and never changed.
        *example_inputs, graph
            As for a new learner: what may be permuted is found anew, unless a graph is given.

        Raises
        ------
        RebasinError
            One of its children, as for a new learner; this one stays as it is in any case.
        """
        opened = open_model(model, self._model.user_forward)
        found = opened.adapter.graph(model, *example_inputs) if graph is None else graph
        other = type(self).__new__(type(self))
        other._start(opened, found, self.settings, self._loss, self._progress)
        other._memory, other._reports = self._memory, self._reports
        return other

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
        return score(self._model, self._params, self.settings, data, task, metric)

    def _episode(self, task: Head) -> Episode:
        index = len(self._reports)
        return Episode(self._model, self._network, self.settings, self._params, self._memory, index, task)

    def _after(self, outcome: Outcome) -> TaskReport:
        self._params, self._memory = outcome.params, (*self._memory, *outcome.memory)
        self._reports = (*self._reports, outcome.report)
        return outcome.report

    # --- files --------------------------------------------------------------------------------------------------------
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters, the memory, the reports and the settings to one file, whole or not at all.

        A run that is loaded from it goes on exactly as this one would have, as far as the framework computes the same
        numbers twice: what a task draws depends on the seed and its number. The format is NumPy's npz, without pickle.
        """
        backend = self._model.backend
        params = {name: backend.to_numpy(x) for name, x in self._params.items()}
        name = self._loss if isinstance(self._loss, str) else None
        is_function = self._loss is not None and name is None
        saving.write(
            path,
            saving.Saved(self.settings, name, is_function, self._whole_graph, params, self._memory, self._reports),
        )

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
        if loss is None and saved.loss_is_function:
            raise SettingError("the loss was a function, which a file cannot hold; pass the same one, as in loss=...")
        if isinstance(loss, str) and loss != saved.loss:
            raise SettingError(f"the file was saved with loss={saved.loss!r}, got loss={loss!r}; leave loss out")
        opened = open_model(model, forward)
        params = saving.restored(opened, saved.params)
        learner = cls.__new__(cls)
        learner._start(opened, saved.graph, saved.settings, saved.loss if loss is None else loss, progress)
        learner._params, learner._memory = params, tuple(saved.memory)
        learner._reports = tuple(saved.reports)
        return learner
