"""The table of rules: one function per ATen operation, and the decorator by which users add theirs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from rebasin_core.inference import Primitives, Tensor

__all__ = ["RULES", "Call", "Rule", "Value", "register_rule"]

Value: TypeAlias = Tensor | torch.Tensor | Any
"""What a node holds: a symbolic tensor, a constant whose values are known, or a plain Python value."""


@dataclass(frozen=True)
class Call:
    """One call of an operation, as a rule sees it.

    Attributes
    ----------
    name : str
        Name of the operation, such as ``"aten.add"``.
    arguments : dict of str to value
        Its arguments by the names of the operation's schema; defaults are filled in.
    shapes : list of tuple of int or None
        The shape torch reports for every result; None for a result that is no tensor.
    used : list of bool
        Which results something reads.
    """

    p: Primitives
    name: str
    arguments: dict[str, Any]
    shapes: list[tuple[int, ...] | None]
    used: list[bool]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) result."""
        shape = self.shapes[0]
        if shape is None:
            raise NotImplementedError(f"{self.name} does not return a tensor")
        return shape

    def __getitem__(self, name: str) -> Any:
        """Return an argument by its name, as it is."""
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument by its name; `default` where the operation has none of that name."""
        return self.arguments.get(name, default)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor argument as a symbolic tensor."""
        return self.symbolic(self.arguments[name])

    def optional(self, name: str) -> Tensor | None:
        """Return a tensor argument that may be missing."""
        value = self.arguments.get(name)
        return None if value is None else self.symbolic(value)

    def symbolic(self, value: Value) -> Tensor:
        """Turn a constant into a symbolic tensor; a symbolic tensor stays as it is."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, torch.Tensor):
            return self.p.literal(
                value.detach().to(torch.float64 if value.is_floating_point() else value.dtype).numpy()
            )
        return self.p.constant(())

    def known(self, name: str) -> torch.Tensor:
        """Return a tensor argument whose values are known; rules that need them fail where they are not."""
        value = self.arguments[name]
        if not isinstance(value, torch.Tensor):
            raise NotImplementedError(f"{name!r} of {self.name} is not a constant")
        return value

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, in order, lists opened."""
        found = []
        for value in self.arguments.values():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, (Tensor, torch.Tensor)):
                    found.append(self.symbolic(item))
        return found


Rule: TypeAlias = Callable[[Primitives, Call], Tensor | Sequence[Tensor | None]]

RULES: dict[str, Rule] = {}


def register_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register how operations relate the axes of their arguments and results.

    Parameters
    ----------
    *names : str
        Names of operations, ``"namespace.name"``; for an operation of your own, what ``torch.library`` registered.

    Returns
    -------
    decorator
        For a function of `Primitives` and `Call` that returns the symbolic result, or a list of them. It replaces the
        rule that was there.

    Notes
    -----
    A result whose shape is not what torch reports, and a rule that raises, pin everything the operation touches; the
    reason is in `PermutationGraph.pinned`. A rule that relates axes wrongly is found by `rebasin_core.verify`.

    Examples
    --------
    An operation ``mylib::scale_rows(x, s)`` that multiplies every row of ``x`` by an entry of ``s``:

    >>> from rebasin_torch.tracing import register_rule
    >>> @register_rule("mylib.scale_rows")
    ... def scale_rows(p, call):
    ...     return p.ein([call.tensor("x"), call.tensor("s")], ["ij", "i"], "ij")
    """

    def register(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule

    return register
