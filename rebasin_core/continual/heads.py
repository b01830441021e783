"""Models with several outputs, one per task or per group of tasks: which one a loss is taken of."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rebasin_core.continual.memory import Head
from rebasin_core.errors import DataError, SettingError

__all__ = ["check_classes", "check_task", "pick"]


def check_task(task: Any) -> None:
    """Raise `SettingError` unless `task` can name a head."""
    if not (task is None or isinstance(task, (str, np.integer)) or (isinstance(task, int) and type(task) is not bool)):
        raise SettingError(f"expected task as a number or a name (of a head, if the model has several), got {task!r}")


def pick(outputs: Any, head: Head) -> Any:
    """Return the output of a head; the output itself where the model has only one.

    Raises
    ------
    SettingError
        The model has several outputs and none was named, or none has this name.
    """
    if isinstance(outputs, Mapping):
        names: list[Any] = list(outputs)
    elif isinstance(outputs, (tuple, list)):
        names = list(range(len(outputs)))
    else:
        return outputs
    if len(names) == 1 and head not in names:
        return outputs[names[0]]
    if head not in names:
        came = "none was named" if head is None else f"there is no head {head!r}"
        raise SettingError(
            f"the model has {len(names)} heads, {', '.join(map(repr, names[:10]))}, and {came}; say which one the task "
            f"is learned with, as in fit_task(data, task={names[0]!r})"
        )
    return outputs[head]


def check_classes(outputs: Any, classes: np.ndarray[Any, Any] | None, head: Head) -> None:
    """Raise `DataError` where the head has no output for a class among the targets.

    Only where it is plain what is meant: one row of scores per sample, and targets that are class numbers. What a
    single score stands for depends on the loss.
    """
    if classes is None or not classes.size or len(tuple(outputs.shape)) != 2 or outputs.shape[-1] == 1:
        return
    known = int(outputs.shape[-1])
    if classes.min() < 0 or classes.max() >= known:
        unseen = sorted({int(c) for c in classes if not 0 <= c < known})
        where = "the model" if head is None else f"head {head!r}"
        raise DataError(
            f"unseen class, no head: the targets hold {', '.join(map(str, unseen[:5]))}, and {where} has outputs for "
            f"the classes 0 to {known - 1}. Number the classes of a head from 0, or build the model with an output for "
            f"every class that will come"
        )
