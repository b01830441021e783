"""Re-basin incremental learning behind the interface of Avalanche's supervised strategies."""

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from typing import Any

import numpy as np
import torch
from avalanche.models.dynamic_modules import DynamicModule
from avalanche.models.utils import is_multi_task_module
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from rebasin_avalanche.batches import ExperienceBatches
from rebasin_avalanche.checks import check_eval_every, check_experience, check_optimizers, check_plugins
from rebasin_core.continual import RebasinIncremental, Settings
from rebasin_core.errors import UnsupportedModelError
from rebasin_core.models.model import open_model
from rebasin_core.support.progress import check_flag
from rebasin_core.support.settings import at_least
from rebasin_core.symmetry.graph import PermutationGraph

__all__ = ["RebasinStrategy"]

# What a strategy has under a name of Avalanche's, or finds out for itself.
NOT_SETTINGS = {"model", "example_inputs", "graph", "forward", "loss", "settings", "num_epochs", "batch_size"}


def _spelled_out(function: Callable[..., None]) -> Signature:
    """Signature with the settings of `RebasinIncremental` by name; Avalanche refuses keywords that are not in it."""
    own = signature(function)
    named = [parameter for parameter in own.parameters.values() if parameter.kind is not Parameter.VAR_KEYWORD]
    settings = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY)
        for parameter in signature(RebasinIncremental).parameters.values()
        if parameter.name not in NOT_SETTINGS
    ]
    return own.replace(parameters=[*named, *settings])


class RebasinStrategy(SupervisedTemplate):
    """Learn every experience by a re-basin of the model before and a small residual; a strategy of Avalanche.

    `rebasin_core.RebasinIncremental` learns, Avalanche gives the data, evaluates and logs. ``train(experiences)``,
    ``eval(stream)``, metrics, loggers and task labels are those of every supervised strategy; there is no optimizer of
    torch. The graph of what may be permuted is found with the first samples.

    Parameters
    ----------
    model : torch.nn.Module
        The network, trained or not; it is copied and never changed. `model` of the strategy is the current one.
    criterion : callable or name, default cross entropy
        ``criterion(outputs, targets) -> scalar``, the mean over the batch, or a name in ``torch.nn.functional``.
    train_mb_size : int, default 500
        Samples per mini-batch of the current experience; those of the memory come on top.
    train_epochs : int, default 5
        Passes over the data of an experience.
    eval_mb_size : int, optional
        Samples per mini-batch of an evaluation; default: `train_mb_size`.
    device : str or torch.device, default "cpu"
        Where to compute.
    plugins : sequence of plugins, optional
        Such as act before and after training, experiences and the adaptation of data sets, and in evaluation.
    evaluator : EvaluationPlugin or callable, optional
        Metrics and loggers; default: Avalanche's.
    eval_every : -1 or 0, default -1
        0 evaluates after each experience of a `train`.
    graph : PermutationGraph, optional
        What may be permuted, for a model that cannot be traced. Its architecture must then stay.
    **settings
        Of `rebasin_core.RebasinIncremental`, under the same names: `groups`, `alpha`, `beta`, `tau`, `num_iters`,
        `optimizer`, `residual_optimizer`, `first_optimizer`, `memory_per_class`, `keep`, `seed` and the others.

    Attributes
    ----------
    model : torch.nn.Module
        The current model: one object from the first experience to the last.
    learner : RebasinIncremental or None
        Who learned the last experience, with `memory`, `reports` and `settings`; None before the first.

    Raises
    ------
    RebasinError
        One of its children: a setting out of its range, a plugin that would be without effect, an optimizer of torch.

    Notes
    -----
    *Callbacks.* Those before and after training, a training experience, the adaptation of data sets, and all of
    evaluation come as ever. Those of epochs, iterations, forward, backward and update do not, so that metrics of
    training (per epoch or mini-batch) have no value; plugins that act there are refused.

    *Task labels* go through a `MultiTaskModule` beside the inputs, in the memory too, so that an experience may hold
    several. *Networks that grow* (`IncrementalClassifier`, `MultiHeadClassifier`) grow before an experience as ever;
    what may be permuted is then found again, while memory and reports stay. Online streams are refused.

    *Data* come from ``strategy.dataloader`` and are read again for every epoch, once before the first to choose what is
    remembered, and once at the end where there are batch normalizations. A plugin may have put another loader there.
    What an experience draws depends on `seed` and its number alone, the shuffling and new units included.

    Examples
    --------
    Two domains of points, the second turned against the first:

    >>> import torch
    >>> from avalanche.benchmarks import tensors_benchmark
    >>> from rebasin_avalanche import RebasinStrategy
    >>> y = torch.arange(100) % 2
    >>> at = [angle + torch.pi * y + torch.linspace(-0.5, 0.5, 100) for angle in (0.0, 1.0)]
    >>> tasks = [(torch.stack([x.cos(), x.sin()], 1), y) for x in at]
    >>> benchmark = tensors_benchmark(train_tensors=tasks, test_tensors=tasks, task_labels=[0, 0])
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> from avalanche.evaluation.metrics import accuracy_metrics
    >>> from avalanche.logging import TextLogger
    >>> from avalanche.training.plugins import EvaluationPlugin
    >>> import io
    >>> evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[TextLogger(io.StringIO())])
    >>> strategy = RebasinStrategy(model=model, train_epochs=60, evaluator=evaluator, progress=False)
    >>> _ = strategy.train(benchmark.train_stream)
    >>> strategy.eval(benchmark.test_stream)["Top1_Acc_Stream/eval_phase/test_stream/Task000"] > 0.9
    True
    >>> [report.steps for report in strategy.learner.reports]
    [60, 60]
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        criterion: Any = nn.functional.cross_entropy,
        train_mb_size: int = 500,
        train_epochs: int = 5,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[Any] | None = None,
        evaluator: Any = default_evaluator,
        eval_every: int = -1,
        graph: PermutationGraph | None = None,
        **settings: Any,
    ) -> None:
        check_plugins([*(plugins or ()), criterion])
        check_eval_every(eval_every)
        check_optimizers(settings)
        at_least(1, train_mb_size=train_mb_size, train_epochs=train_epochs)
        opened = open_model(model)
        if opened.adapter.name != "torch":
            raise UnsupportedModelError(
                f"Avalanche trains modules of PyTorch, and {type(model).__name__} is a model of {opened.adapter.name}; "
                f"use rebasin_core.RebasinIncremental with it"
            )
        loss = opened.loss(criterion)  # before any work, too
        self._opened, self._graph, self._loss = opened, graph, criterion
        self._progress = settings.pop("progress", True)
        check_flag(progress=self._progress)
        self._settings = Settings(**settings, num_epochs=train_epochs, batch_size=train_mb_size)
        self.learner: RebasinIncremental | None = None
        self._is_known = False
        super().__init__(
            model=opened.rebuild(opened.params),
            optimizer=None,
            criterion=criterion if callable(criterion) else loss,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
        )

    __init__.__signature__ = _spelled_out(__init__)  # type: ignore[attr-defined]

    def remember(self, experience: Any, **kwargs: Any) -> dict[str, Any]:
        """Count an experience as learned that the model knows already, and put samples of it into the memory.

        Call it before the first `train` of a model that was trained elsewhere. Callbacks and arguments as for `train`;
        the weights stay.

        Returns
        -------
        dict
            The last value of every metric.
        """
        self._is_known = True
        try:
            metrics: dict[str, Any] = self.train(experience, **kwargs)
        finally:
            self._is_known = False
        return metrics

    # --- what Avalanche calls -----------------------------------------------------------------------------------------
    def _before_training_exp(self, **kwargs: Any) -> None:
        check_experience(self.experience, self.model)
        super()._before_training_exp(**kwargs)

    def check_model_and_optimizer(self, **kwargs: Any) -> None:
        """Let the model grow; there is no optimizer to follow it."""
        self.model = self.model_adaptation()

    def model_adaptation(self, model: nn.Module | None = None) -> nn.Module:
        """Let the model grow with the experience; new units are drawn by `seed`, and torch's random state stays."""
        tasks = 0 if self.learner is None else len(self.learner.reports)
        seed = int(np.random.SeedSequence([self._settings.seed, tasks, 2]).generate_state(1)[0])
        with self._opened.keep_random_state(seed):
            adapted: nn.Module = super().model_adaptation(model)
        return adapted

    def _train_exp(self, experience: Any, eval_streams: Any = None, **kwargs: Any) -> None:
        data = ExperienceBatches(self.dataloader, with_labels=is_multi_task_module(self.model))
        labels = set(getattr(experience, "task_labels", [0]))
        task = int(labels.pop()) if len(labels) == 1 else None
        learner = self._learner_of_now(data)
        if self._is_known:
            report = learner.remember(data, task)
        else:
            report = learner.fit_task(data, task, num_epochs=self.train_epochs)
        self.learner = learner
        self.model.load_state_dict(learner.params)
        # Iterations are the x axis of every curve of metrics; nobody else has counted them.
        self.clock.train_exp_epochs = len(report.losses)
        self.clock.train_exp_iterations = report.steps
        self.clock.train_iterations += report.steps
        self.clock.total_iterations += report.steps

    def _learner_of_now(self, data: ExperienceBatches) -> RebasinIncremental:
        """Return a learner of the model as it is now, grown or set by a plugin, that knows what the last one knew."""
        graph = self._graph
        if graph is None:
            with self._opened.keep_random_state():
                example = data.example()
                # Without a label, a multi-task module gives the outputs of all heads: each is followed.
                inputs = (example, None) if is_multi_task_module(self.model) else (example,)
                graph = self._opened.adapter.graph(self.model, *inputs)
            if not any(isinstance(module, DynamicModule) for module in self.model.modules()):
                self._graph = graph  # what does not grow is followed once
        if self.learner is None:
            return RebasinIncremental(
                self.model, graph=graph, loss=self._loss, settings=self._settings, progress=self._progress
            )
        return self.learner.with_model(self.model, graph=graph)
