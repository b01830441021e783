"""Checkpoint files: tensors read one at a time, and written back in the same format, names, order and dtypes."""

from rebasin_core.checkpoints.files import Checkpoint, TensorInfo, open_checkpoint

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]
