"""One task after another, without forgetting (the paper, section 4). Rooms from `checkpoints` upward may import it."""

from rebasin_core.continual.incremental import RebasinIncremental
from rebasin_core.continual.memory import TaskMemory
from rebasin_core.continual.report import TaskReport
from rebasin_core.continual.settings import Settings

__all__ = ["RebasinIncremental", "Settings", "TaskMemory", "TaskReport"]
