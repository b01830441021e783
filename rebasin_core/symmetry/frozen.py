"""A dictionary that is a value: it cannot be changed, and equal ones hash equally."""

from typing import Any, NoReturn, TypeVar

__all__ = ["FrozenDict"]

K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """A dictionary that refuses every change. It prints, compares and is written as JSON as a dictionary does.

    Examples
    --------
    >>> sizes = FrozenDict(h=8)
    >>> sizes, hash(sizes) == hash(FrozenDict({"h": 8}))
    ({'h': 8}, True)
    >>> sizes["h"] = 99
    Traceback (most recent call last):
    ...
    TypeError: this dictionary belongs to a value that does not change; change a copy: dict(...)
    """

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("this dictionary belongs to a value that does not change; change a copy: dict(...)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        # As a dictionary would be copied and read back, its entries would be set one by one.
        return type(self), (dict(self),)
