"""Files of weights: read a tensor at a time, written as they came. Rooms from `testing` upward may import it."""

from rebasin_core.checkpoints.files import Checkpoint, TensorInfo, open_checkpoint

__all__ = ["Checkpoint", "TensorInfo", "open_checkpoint"]
