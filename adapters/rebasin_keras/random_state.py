"""The random states a Keras program has besides its seed generators, given back as they were found."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["keep_random_state"]


@contextmanager
def keep_random_state(seed: int | None = None) -> Iterator[None]:
    """Give Python, NumPy and torch their global random states back afterwards; with a seed, start from that.

    Keras draws the seeds of new layers from Python's, and loaders shuffle with any of the three. Torch counts only
    where it is loaded.
    """
    torch = sys.modules.get("torch")
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002, the global state is meant
    torch_state = None if torch is None else torch.random.get_rng_state()
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        if torch is not None:
            torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if torch is not None:
            torch.random.set_rng_state(torch_state)
