"""torch's compiler, loaded so that a process in which TensorFlow is loaded goes on.

torch imports triton, where it is installed, with ``torch._dynamo``: with the first optimizer, the first export, the
first ``torch.compiler.disable``. TensorFlow and triton each bring an LLVM of their own. Loaded first, triton keeps to
its own; loaded after TensorFlow, it finds TensorFlow's, registers its options a second time, and LLVM ends the process
without a Python error. Nothing of this package needs triton.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

__all__ = ["keep_triton_out", "not_compiled"]

_lock = Lock()
_inside = 0


@contextmanager
def keep_triton_out() -> Iterator[None]:
    """Let imports of triton fail where loading it would end the process; afterwards ``sys.modules`` is as it was.

    That is where TensorFlow is loaded and triton is not. Elsewhere nothing is done: torch remembers whether it found
    triton, and a later ``torch.compile`` on a GPU needs it.
    """
    global _inside
    with _lock:
        blocked = sys.modules.get("tensorflow") is not None and (_inside > 0 or "triton" not in sys.modules)
        if blocked:
            _inside += 1
            sys.modules["triton"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        with _lock:
            if blocked:
                _inside -= 1
                if not _inside:
                    del sys.modules["triton"]


with keep_triton_out():
    import torch._dynamo

not_compiled = torch.compiler.disable
