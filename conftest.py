"""What is left out where a framework is not installed, what may not be left out, and the versions a run used."""

import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import pytest

ADAPTERS = {
    "adapters/rebasin_sklearn": "sklearn",
    "adapters/rebasin_torch": "torch",
    "adapters/rebasin_keras": "keras",
    "adapters/rebasin_avalanche": "avalanche",
}
SHOWN = """
numpy scipy autograd torch triton torchvision avalanche-lib tensorflow keras jax jaxlib scikit-learn transformers
safetensors distributed matplotlib typer rich hypothesis
"""

# The doctests of an adapter need its framework.
collect_ignore = [folder for folder, framework in ADAPTERS.items() if find_spec(framework) is None]


def pytest_configure(config: pytest.Config) -> None:
    """Fail where a framework named in ``REBASIN_REQUIRE`` is absent; its tests would be skipped without a word."""
    absent = [name for name in os.environ.get("REBASIN_REQUIRE", "").split() if find_spec(name) is None]
    if absent:
        raise pytest.UsageError(f"REBASIN_REQUIRE asks for {', '.join(absent)}; install them, or name them no more")


def pytest_report_header() -> list[str]:
    """Versions of what the tests run on; what is absent is named too, since its tests are skipped."""
    present, absent = [], []
    for name in SHOWN.split():
        try:
            present.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    return ["versions: " + ", ".join(present)] + (["not installed: " + ", ".join(absent)] if absent else [])
