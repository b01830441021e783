"""scikit-learn's multi-layer perceptrons, carried to and from rebasin-core."""

from rebasin_sklearn.adapter import SklearnAdapter

__all__ = ["SklearnAdapter"]
