"""Calls that leave nothing behind in a module: no cache, no counter, no buffer made on the way.

A private copy is called with the tensors of many networks, in any order. What a forward pass keeps in its module, such
as a weight folded once or the mask of the last batch, belongs to the tensors of one call, and would be wrong in the
next.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

__all__ = ["alone_and_traceless"]

_DICTIONARIES = (dict, OrderedDict, defaultdict)
_CONTAINERS = (*_DICTIONARIES, list, deque, set)
_STATE = frozenset({"_parameters", "_buffers", "_modules"})
# Hooks and the like: only we put some there, and their handles remember the dictionary.
_BOOKKEEPING = frozenset(vars(nn.Module()))
_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@contextmanager
def alone_and_traceless(body: nn.Module) -> Iterator[None]:
    """Context for one call of a private copy: no other thread calls it, and its attributes are afterwards as before."""
    if torch.compiler.is_compiling():  # what a compiled module keeps is up to the compiler
        yield
        return
    with _LOCKS.setdefault(body, RLock()):
        before = _Attributes()
        for module in filter(_may_keep_something, body.modules()):
            before.note(vars(module), skip=_BOOKKEEPING)
            for name in _STATE & vars(module).keys():
                before.note(vars(module)[name], skip=frozenset(vars(module)[name]))
        try:
            yield
        finally:
            before.restore()


def _may_keep_something(module: nn.Module) -> bool:
    """Whether a module runs code of a user's: torch's own layers keep what they keep in buffers."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or not type(module).__module__.startswith("torch.nn.")


class _Attributes:
    """Containers and what they held."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[Any, Any]] = {}
        self.clones: dict[int, Tensor] = {}

    def note(self, container: Any, skip: frozenset[str] = frozenset()) -> None:
        """Remember a container and those within it, and put clones in place of tensors: they may be written to."""
        if id(container) in self.held:
            return
        self.held[id(container)] = container, container.copy()
        if isinstance(container, set):
            return
        for key, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if key in skip:
                continue
            if type(value) is Tensor and not value.is_meta:
                if id(value) not in self.clones:
                    self.clones[id(value)] = value.clone()
                container[key] = self.clones[id(value)]
            elif type(value) in _CONTAINERS:
                self.note(value)

    def restore(self) -> None:
        for container, held in self.held.values():
            if isinstance(container, dict):
                for key in container.keys() - held.keys():
                    del container[key]
                container.update(held)
            elif isinstance(container, list):
                container[:] = held
            else:
                container.clear()
                (container.update if isinstance(container, set) else container.extend)(held)
