"""Re-basin incremental learning as a strategy of Avalanche, the library of continual learning."""

from rebasin_avalanche.strategy import RebasinStrategy

__all__ = ["RebasinStrategy"]
