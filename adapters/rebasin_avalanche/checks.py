"""What Avalanche offers and a strategy without a training loop of its own cannot do: refused before any work."""

from collections.abc import Iterable
from typing import Any

from avalanche.benchmarks.scenarios import OnlineCLExperience
from avalanche.core import SupervisedPlugin
from avalanche.models.dynamic_modules import IncrementalClassifier, MultiTaskModule
from avalanche.models.utils import is_multi_task_module
from torch import nn

from rebasin_core.errors import DataError, SettingError

__all__ = ["SILENT", "check_eval_every", "check_experience", "check_optimizers", "check_plugins"]

SILENT = (
    "before_training_epoch",
    "before_training_iteration",
    "before_forward",
    "after_forward",
    "before_backward",
    "after_backward",
    "before_update",
    "after_update",
    "after_training_iteration",
    "after_training_epoch",
)
"""Callbacks of the training loop, which `rebasin_core.RebasinIncremental` has in place of Avalanche's."""


def check_plugins(plugins: Iterable[Any]) -> None:
    """Raise `SettingError` where a plugin acts in a callback that does not come: it would do nothing, silently."""
    for plugin in plugins:
        lost = [name for name in SILENT if _acts(plugin, name)]
        if lost:
            raise SettingError(
                f"the plugin {type(plugin).__name__} acts in {', '.join(lost)}, and RebasinStrategy has no such "
                f"callback: a task is learned by re-basin, not by steps of a torch optimizer on the model. Leave it "
                f"out. Plugins that act before and after experiences and in evaluation work; the memory is that of the "
                f"strategy (memory_per_class=), and metrics belong into evaluator="
            )


def _acts(plugin: Any, callback: str) -> bool:
    """Whether a callback is another than that of the base class, which does nothing."""
    function = getattr(plugin, callback, None)
    return getattr(function, "__func__", function) not in (None, getattr(SupervisedPlugin, callback))


def check_eval_every(eval_every: Any) -> None:
    """Raise `SettingError` unless evaluation is to come after experiences, or not at all."""
    if isinstance(eval_every, bool) or eval_every not in (-1, 0):
        raise SettingError(
            f"expected eval_every as -1 (no evaluation while training) or 0 (one after each experience), got "
            f"{eval_every!r}: the model exists only when an experience is done"
        )


def check_optimizers(settings: dict[str, Any]) -> None:
    """Raise `SettingError` where an optimizer of torch came, as other strategies of Avalanche have one."""
    for name in ("optimizer", "residual_optimizer", "first_optimizer"):
        if hasattr(settings.get(name), "param_groups"):
            raise SettingError(
                f"{name} came as a torch.optim.{type(settings[name]).__name__}, which holds the parameters of one "
                f"model; this strategy optimizes permutations and a residual. Pass rebasin_core.optimizers.Adam(0.01) "
                f"or SGD(0.1), or leave it out"
            )


def check_experience(experience: Any, model: nn.Module) -> None:
    """Raise `DataError` unless an experience is a whole task, and says what a module of Avalanche grows by."""
    if isinstance(experience, OnlineCLExperience):
        raise DataError(
            "the experience is a piece of an online stream, and re-basin learns a whole task at once: every piece "
            "would count as a task of its own. Pass the stream it was split from, as in "
            "strategy.train(benchmark.train_stream)"
        )
    if is_multi_task_module(model) and not hasattr(experience, "task_labels"):
        raise DataError(
            "the model takes task labels (it is a MultiTaskModule), and the experience has none; make the benchmark "
            "with them, as by with_classes_timeline(task_incremental_benchmark(benchmark)) of avalanche.benchmarks, or "
            "pass a model of one head"
        )
    if hasattr(experience, "classes_in_this_experience"):
        return
    for name, module in model.named_modules():
        if isinstance(module, (MultiTaskModule, IncrementalClassifier)):
            raise DataError(
                f"the model grows with the classes of an experience (its {name or 'whole'!r}, a "
                f"{type(module).__name__}), and the experience does not tell them; write "
                f"with_classes_timeline(benchmark), of avalanche.benchmarks, and train on its streams"
            )
