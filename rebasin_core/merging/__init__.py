"""Two networks and many, merged in one common order of units. Rooms from `continual` upward may import it."""

from rebasin_core.merging.many import MultiAlignment, align_many
from rebasin_core.merging.pair import merge

__all__ = ["MultiAlignment", "align_many", "merge"]
