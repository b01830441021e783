"""Finding what serves an object, by the modules its classes come from, without importing any of them."""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Root module of a framework -> the one object that serves it, loaded when first needed.

    A class is looked up along its method resolution order, so that a ``keras.Model`` that is also a
    ``torch.nn.Module`` is found as Keras, and a subclass of an array like the array. Nothing is imported but the entry
    point found, whose framework is by then imported already: an object of it exists.

    Parameters
    ----------
    group : str
        The entry point group to read; an entry's name is a root module, its value a class to call without arguments.
    builtin : mapping of str to str, optional
        Entries (name, ``"module:Class"``) that work from a source tree too, where no distribution metadata announce
        them.
    """

    def __init__(self, group: str, builtin: Mapping[str, str] | None = None) -> None:
        self.group = group
        self._builtin = dict(builtin or {})
        self._registered: dict[str, T | Callable[[], T]] = {}
        self._loaded: dict[str, T] = {}
        self._by_type: dict[type, T | None] = {}

    def register(self, root_module: str, item: T | Callable[[], T]) -> None:
        """Serve objects whose class comes from `root_module` by `item`, or by what a class or function returns."""
        self._by_type.clear()
        self._registered[root_module] = item

    def find(self, kind: type) -> T | None:
        """Find what serves a class, or None."""
        if kind not in self._by_type:
            roots = dict.fromkeys(base.__module__.partition(".")[0] for base in kind.__mro__ if base is not object)
            found = (self._serve(root) for root in roots)
            self._by_type[kind] = next((item for item in found if item is not None), None)
        return self._by_type[kind]

    def known(self) -> list[str]:
        """Return the root modules that are served."""
        return sorted({*self._registered, *self._builtin, *(entry.name for entry in entry_points(group=self.group))})

    def _serve(self, root: str) -> T | None:
        if root in self._registered:
            item: Any = self._registered[root]
            # A class is callable as well as its instances may be; only what lacks a `name` is a factory.
            if isinstance(item, type) or not hasattr(item, "name"):
                item = self._registered[root] = item()
            return cast(T, item)
        if root in self._builtin:
            return self._load(self._builtin[root])
        for entry in entry_points(group=self.group, name=root):
            return self._load(entry.value)
        return None

    def _load(self, target: str) -> T:
        """Make the object of ``"module:Class"``; entries with one target share it."""
        if target not in self._loaded:
            self._loaded[target] = EntryPoint(name="", value=target, group=self.group).load()()
        return self._loaded[target]
