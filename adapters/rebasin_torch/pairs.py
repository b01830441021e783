"""Whether two modules of equal shapes also compute the same way."""

import types
from typing import Any

from torch import nn

from rebasin_core.errors import UnsupportedModelError
from rebasin_torch.state import parameters_of

__all__ = ["check_pair"]

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
# Settings that show in a module's description but not in what it computes in eval mode.
_WITHOUT_EFFECT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def check_pair(model_a: nn.Module, model_b: nn.Module) -> None:
    """Raise `UnsupportedModelError` unless both are built alike, of one dtype and on one device."""
    modules_a, modules_b = dict(model_a.named_modules()), dict(model_b.named_modules())
    for name in (*modules_a, *modules_b):
        if name not in modules_a or name not in modules_b:
            there, lacking = ("A", "B") if name in modules_a else ("B", "A")
            raise UnsupportedModelError(
                f"model {there} has a module {name!r}, model {lacking} has none; two models of one architecture are "
                f"needed"
            )
    for name, a in modules_a.items():
        _compare(f"module {name!r}" if name else "the model itself", _describe(a), _describe(modules_b[name]))
    tensors_a, tensors_b = parameters_of(model_a), parameters_of(model_b)
    for name, x in tensors_a.items():
        y = tensors_b[name]
        if x.dtype != y.dtype:
            raise UnsupportedModelError(
                f"{name!r} is {x.dtype} in model A and {y.dtype} in model B; convert one of the models, as in "
                f"model_b.to({x.dtype})"
            )
        if x.device != y.device:
            raise UnsupportedModelError(
                f"model A is on {x.device}, model B on {y.device}; move one of them, as in "
                f"model_b.to({str(x.device)!r})"
            )


def _compare(where: str, a: dict[str, str], b: dict[str, str]) -> None:
    for what in (*a, *b):
        if a.get(what) != b.get(what):
            raise UnsupportedModelError(
                f"{where} has {what} {a.get(what, 'missing')} in model A and {b.get(what, 'missing')} in model B; both "
                f"must compute the same way"
            )


def _describe(module: nn.Module) -> dict[str, str]:
    """Class, settings as printed, and functions kept as attributes (``self.activation = torch.tanh``)."""
    kind = type(module)
    described = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    if not isinstance(module, _WITHOUT_EFFECT):
        described["settings"] = f"({module.extra_repr().replace(', inplace=True', '').replace('inplace=True', '')})"
    for name, value in vars(module).items():
        if isinstance(value, _FUNCTIONS) and not name.startswith("_"):
            described[f"function {name!r}"] = _name(value)
    return described


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', repr(function))}"
