"""Collection: the doctests of an adapter are left out where its framework is not installed."""

from importlib.util import find_spec

ADAPTERS = {"adapters/rebasin_sklearn": "sklearn", "adapters/rebasin_torch": "torch"}

collect_ignore = [folder for folder, framework in ADAPTERS.items() if find_spec(framework) is None]
