"""Where and with what the numbers were measured."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["describe", "installed"]

_PACKAGES = (
    "rebasin-core",
    "numpy",
    "scipy",
    "autograd",
    "torch",
    "tensorflow",
    "jax",
    "jaxlib",
    "keras",
    "POT",
    "ott-jax",
)


def installed(name: str) -> str | None:
    """Version of a distribution, None where it is absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe() -> dict[str, Any]:
    """Machine, versions, threads and date, as plain data."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads of the environment": os.environ.get("OMP_NUM_THREADS", ""),
        "versions": {name: number for name in _PACKAGES if (number := installed(name))},
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads of torch"] = torch.get_num_threads()
        found["CUDA device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
