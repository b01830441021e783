"""A model as the core sees it: adapters, their abilities, data. Rooms from `line` upward may import it."""

from rebasin_core.models.adapter import ModelAdapter
from rebasin_core.models.model import Model, find_adapter, open_model

__all__ = ["Model", "ModelAdapter", "find_adapter", "open_model"]
