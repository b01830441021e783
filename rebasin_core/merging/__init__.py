"""Merging networks: two by the line between them, many in one common order of their units."""

from rebasin_core.merging.many import MultiAlignment, align_many
from rebasin_core.merging.merge import merge

__all__ = ["MultiAlignment", "align_many", "merge"]
