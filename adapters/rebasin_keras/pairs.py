"""Whether two models compute alike: the same layers with the same settings, wired the same way."""

from typing import Any

from rebasin_core.errors import UnsupportedModelError
from rebasin_keras.variables import named_variables

__all__ = ["check_pair"]

# Settings that do not show in what a trained model computes in inference mode. Names are compared as positions.
_WITHOUT_EFFECT = (
    "initializer",
    "regularizer",
    "constraint",
    "seed",
    "rate",
    "trainable",
    "name",
    "dtype",
    "build_config",
)


def check_pair(model_a: Any, model_b: Any) -> None:
    """Raise `UnsupportedModelError` unless both are built alike, of the same dtypes."""
    layers_a, layers_b = (list(model._flatten_layers()) for model in (model_a, model_b))
    for a, b in zip(layers_a, layers_b, strict=False):
        if _class(a) != _class(b):
            raise UnsupportedModelError(
                f"where model A has the {type(a).__name__} {a.name!r}, model B has the {type(b).__name__} {b.name!r}; "
                f"two models of one architecture are needed"
            )
    if len(layers_a) != len(layers_b):
        raise UnsupportedModelError(
            f"model A has {len(layers_a)} layers, model B {len(layers_b)}; two models of one architecture are needed"
        )
    _compare(_config(model_a, layers_a), _config(model_b, layers_b), "the model")
    for a, b in zip(layers_a, layers_b, strict=True):
        _compare(_config(a, layers_a), _config(b, layers_b), f"layer {a.name!r}")
        if getattr(a, "function", None) is not getattr(b, "function", None) and not _same_code(a.function, b.function):
            raise UnsupportedModelError(f"layer {a.name!r} computes another function in model A than in model B")
    for (name, x), y in zip(named_variables(model_a).items(), named_variables(model_b).values(), strict=True):
        if x.dtype != y.dtype:
            raise UnsupportedModelError(
                f"{name!r} is {x.dtype} in model A and {y.dtype} in model B; build one of them with the dtype of the "
                f"other"
            )


def _class(layer: Any) -> str:
    return f"{type(layer).__module__}.{type(layer).__qualname__}"


def _same_code(a: Any, b: Any) -> bool:
    """Whether two functions do the same: made by the same lines, of the same surroundings."""
    if not (hasattr(a, "__code__") and hasattr(b, "__code__")) or a.__code__ != b.__code__:
        return False
    cells = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (a, b)]
    return bool(cells[0] == cells[1]) and a.__defaults__ == b.__defaults__


def _config(layer: Any, layers: list[Any]) -> Any:
    """Settings of a layer with layers named by position; empty where it has none, or none that can be compared."""
    if hasattr(layer, "function"):  # Lambda: its settings are byte code
        return {}
    try:
        config = layer.get_config()
    except Exception:  # whatever a user's layer raises; its class has been compared
        return {}
    positions = {other.name: f"layer {i}" for i, other in reversed(list(enumerate(layers)))}
    return _plain(config, positions)


def _plain(value: Any, positions: dict[str, str]) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "Lambda":
            return "Lambda"
        kept = {k: v for k, v in value.items() if not (isinstance(k, str) and k.endswith(_WITHOUT_EFFECT))}
        return {k: _plain(v, positions) for k, v in kept.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, positions) for v in value]
    return positions.get(value, value) if isinstance(value, str) else value


def _compare(a: Any, b: Any, where: str) -> None:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            _compare(a[key], b[key], f"{where}, {key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _compare(x, y, f"{where}[{i}]")
    elif _differ(a, b):
        raise UnsupportedModelError(f"{where} is {a!r} in model A and {b!r} in model B; both must compute the same way")


def _differ(a: Any, b: Any) -> bool:
    try:
        return bool(a != b)
    except ValueError:  # arrays
        return not bool((a == b).all())
