"""Re-basin incremental learning: one task after the other, without forgetting (section 4 of the paper)."""

from rebasin_core.continual.incremental import RebasinIncremental
from rebasin_core.continual.memory import TaskMemory
from rebasin_core.continual.report import TaskReport

__all__ = ["RebasinIncremental", "TaskMemory", "TaskReport"]
