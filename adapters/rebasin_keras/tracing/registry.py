"""The table of rules: one function per layer or operation, and the decorator by which users add theirs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras

from rebasin_core.inference import Primitives, Tensor

if TYPE_CHECKING:
    from rebasin_keras.tracing.call import Call

__all__ = ["RULES", "Rule", "find_rule", "register_rule"]

Rule: TypeAlias = Callable[[Primitives, "Call"], Tensor | Sequence[Any] | None]

RULES: dict[type | str, Rule] = {}

# What a subclass may define and still compute what its base class does.
_HARMLESS = frozenset({"__init__", "__doc__", "__module__", "__qualname__", "__annotations__", "__static_attributes__",
                       "__firstlineno__", "__parameters__", "get_config", "from_config"})  # fmt: skip


def register_rule(*kinds: type | str) -> Callable[[Rule], Rule]:
    """Register how layers or operations relate the axes of their inputs, weights and outputs.

    Parameters
    ----------
    *kinds : type or str
        Classes of layers, or of ``keras.Operation``. Keras's own can be given by name, so that a rule may stand for a
        class that an older Keras does not have: ``"layers.Dense"``, ``"ops.Einsum"``.

    Returns
    -------
    decorator
        For a function of `Primitives` and `Call` that returns the symbolic output, or a structure of them for a layer
        with several. It replaces the rule that was there.

    Notes
    -----
    A result whose shape is not what Keras reports, and a rule that raises, pin everything the layer touches; the reason
    is in `PermutationGraph.pinned`. A rule that relates axes wrongly is found by `rebasin_core.verify`.

    A rule holds for its class, and for subclasses that define nothing but ``__init__`` and ``get_config``: what else a
    subclass changes is not known.

    Examples
    --------
    A layer that multiplies every feature by a weight:

    >>> import keras
    >>> from rebasin_keras.tracing import register_rule, trace
    >>> class Scale(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.factor = self.add_weight(shape=(shape[-1],), name="factor")
    ...     def call(self, x):
    ...         return x * self.factor
    >>> @register_rule(Scale)
    ... def scale(p, call):
    ...     return p.elementwise(call.tensor("x"), call.weight(call.layer.factor))
    >>> layers = [keras.Input((3,)), keras.layers.Dense(8, name="a"), Scale(name="s"), keras.layers.Dense(2, name="b")]
    >>> graph = trace(keras.Sequential(layers))
    >>> graph.axes["s/factor"]
    AxesSpec("a")
    """
    for kind in kinds:
        if not isinstance(kind, (type, str)):
            raise TypeError(
                f"register_rule takes classes of layers, or names such as 'layers.Dense'; got {kind!r}. "
                f"Write @register_rule(MyLayer) above the rule"
            )

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            RULES[kind] = rule
        return rule

    return register


def find_rule(kind: type) -> Rule | None:
    """Return the rule for a class of layers or operations: its own, or that of a base class it does not change."""
    for base in kind.__mro__:
        rule = RULES.get(base, RULES.get(_public_name(base)))
        if rule is not None:
            return rule
        if not set(vars(base)) <= _HARMLESS:
            return None
    return None


def _public_name(kind: type) -> str:
    """Name of one of Keras's own classes, such as ``"layers.Dense"``; the empty string for any other."""
    if kind.__module__.partition(".")[0] != "keras":
        return ""
    return f"{'layers' if issubclass(kind, keras.layers.Layer) else 'ops'}.{kind.__name__}"
