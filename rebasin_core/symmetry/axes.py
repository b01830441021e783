"""The axis notation: which axes of a parameter are permuted together, in one string a person can write.

An entry per axis, separated by blanks, in the spirit of einops:

=============  ========================================================================================
``h``          a permutation group: this axis is reordered by whatever reorders ``h`` everywhere else
``.``          an axis that stays as it is
``49``         a block of that size that stays as it is (most useful inside brackets)
``(c 49)``     a product, row-major: the axis counts through ``c`` and, for each, through 49 fixed places
``(a+b)``      a concatenation: first the entries of ``a``, then those of ``b``
``d[h]``       a group local to ``h``: for every element of ``h`` its own order of ``d``
``x@[1 0 2]``  an axis whose places are those of ``x`` in a fixed other order: place 0 is place 1 of ``x``, and so on
=============  ========================================================================================

``"h (c2 49)"`` is the weight of a dense layer behind a channels-first flatten, ``"(3 heads 64) d"`` a fused attention
projection, ``"h (c1+c2)"`` a layer behind a concatenation, ``"(h d[h]) ."`` a projection whose heads each have a
channel order of their own.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NoReturn, TypeAlias

from rebasin_core.errors import SpecError

__all__ = ["AxesSpec", "Axis", "Fixed", "Gather", "Group", "Product", "Sum"]


@dataclass(frozen=True)
class Fixed:
    """A block that is never reordered; `size` is None for a whole axis whose length does not matter."""

    size: int | None = None

    def __str__(self) -> str:
        return "." if self.size is None else str(self.size)


@dataclass(frozen=True)
class Group:
    """One permutation group along an axis; local to `parent` when that is given."""

    name: str
    parent: str | None = None

    def __str__(self) -> str:
        return self.name if self.parent is None else f"{self.name}[{self.parent}]"


@dataclass(frozen=True)
class Product:
    """A row-major product of two or more factors, such as the channels and places of a flattened image."""

    factors: tuple["Axis", ...]

    def __str__(self) -> str:
        return "(" + " ".join(map(str, self.factors)) + ")"


@dataclass(frozen=True)
class Sum:
    """A concatenation of two or more terms along one axis."""

    terms: tuple["Axis", ...]

    def __str__(self) -> str:
        # A product needs no brackets of its own inside a sum: "(h 49+c)" reads as it should.
        return "(" + "+".join(str(t)[1:-1] if isinstance(t, Product) else str(t) for t in self.terms) + ")"


@dataclass(frozen=True)
class Gather:
    """An axis in a fixed order of its own, such as a channel shuffle: place ``i`` is place ``order[i]`` of `axis`."""

    axis: "Axis"
    order: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.axis}@[{' '.join(map(str, self.order))}]"


Axis: TypeAlias = Fixed | Group | Product | Sum | Gather


def walk(axis: Axis) -> Iterator[Axis]:
    """Yield the axis and everything inside it, outermost first."""
    yield axis
    inner: tuple[Axis, ...] = ()
    match axis:
        case Product(parts) | Sum(parts):
            inner = parts
        case Gather(ordered):
            inner = (ordered,)
    for part in inner:
        yield from walk(part)


def size(axis: Axis, sizes: Mapping[str, int]) -> int:
    """Length of the axis, given the size of every group in it."""
    match axis:
        case Fixed(n):
            if n is None:
                raise SpecError("the length of '.' is not known from the notation alone")
            return n
        case Group(name):
            return sizes[name]
        case Product(factors):
            return math.prod(size(f, sizes) for f in factors)
        case Sum(terms):
            return sum(size(t, sizes) for t in terms)
        case Gather(_, order):
            return len(order)


@dataclass(frozen=True)
class AxesSpec:
    """The axes of one parameter.

    Parameters
    ----------
    text : str
        The notation, an entry per axis; the empty string for a parameter without axes.

    Attributes
    ----------
    text : str
        The same in canonical spelling, so that equal specifications print equally.
    axes : tuple of Fixed, Group, Product, Sum or Gather
        One per axis.

    Raises
    ------
    SpecError
        A typo; the message points at the character.

    Examples
    --------
    >>> spec = AxesSpec("h   (c2 49)")
    >>> spec
    AxesSpec("h (c2 49)")
    >>> spec.groups
    ('h', 'c2')
    >>> AxesSpec("h (c2 49")
    Traceback (most recent call last):
    ...
    rebasin_core.errors.SpecError: this bracket is never closed; add ')'
        h (c2 49
          ^
    """

    text: str
    axes: tuple[Axis, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise SpecError(f'expected the axes as text such as "h .", got {type(self.text).__name__} {self.text!r}')
        axes = _Parser(self.text).parse()
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "text", " ".join(map(str, axes)))

    @classmethod
    def of(cls, *axes: Axis) -> "AxesSpec":
        """Build a specification from axes instead of text."""
        for axis in axes:
            if not isinstance(axis, Axis):
                raise SpecError(f"expected axes such as Group('h'), got {type(axis).__name__} {axis!r}")
        return _spec(axes)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f'AxesSpec("{self.text}")'

    def __len__(self) -> int:
        return len(self.axes)

    # Searches ask for these at every step.
    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups in it, each once, in order of appearance."""
        return tuple(dict.fromkeys(g.name for g in self.group_nodes))

    @cached_property
    def group_nodes(self) -> tuple[Group, ...]:
        """Every occurrence of a group, with its parent."""
        return tuple(node for axis in self.axes for node in walk(axis) if isinstance(node, Group))


@lru_cache(maxsize=1024)
def _spec(axes: tuple[Axis, ...]) -> AxesSpec:
    return AxesSpec(" ".join(map(str, axes)))


# What people write stays far below both; beyond, Python itself gives up on a text.
_DEEPEST = 40
_MOST_DIGITS = 18

_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*(?:[./]\w+)*)|(?P<number>\d+)|(?P<mark>[.()+@\[\]]))")


class _Parser:
    """Recursive descent: ``item := . | number | name | name[name] | (product + product ...) | item@[number ...]``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        position = 0
        while text[position:].strip():
            found = _TOKEN.match(text, position)
            if found is None:
                at = len(text) - len(text[position:].lstrip())
                self.fail(f"unexpected {text[at]!r}; write a name, a number, '.', or brackets", at)
            kind = str(found.lastgroup)
            if kind == "number" and len(found[kind]) > _MOST_DIGITS:
                self.fail(f"a size has at most {_MOST_DIGITS} digits", found.start(kind))
            self.tokens.append((kind, found[kind], found.start(kind)))
            position = found.end()
        self.next = 0
        self.depth = 0

    def fail(self, message: str, at: int) -> NoReturn:
        raise SpecError(f"{message}\n    {self.text}\n    {' ' * at}^")

    def peek(self) -> tuple[str, str, int]:
        return self.tokens[self.next] if self.next < len(self.tokens) else ("end", "", len(self.text))

    def parse(self) -> tuple[Axis, ...]:
        axes = []
        while self.peek()[0] != "end":
            axes.append(self.item(top=True))
        return tuple(axes)

    def item(self, top: bool) -> Axis:
        depth = self.depth
        self.deeper()
        axis = self.unordered_item(top)
        while self.peek()[1] == "@":
            self.deeper()
            axis = Gather(axis, self.order())
        self.depth = depth
        return axis

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            self.fail(f"brackets and orders lie at most {_DEEPEST} deep", self.peek()[2])

    def order(self) -> tuple[int, ...]:
        at = self.peek()[2]
        self.next += 1
        if self.peek()[1] != "[":
            self.fail("expected an order, as in (a+b)@[0 2 1]", at)
        self.next += 1
        places = []
        while self.peek()[0] == "number":
            places.append(int(self.peek()[1]))
            self.next += 1
        if self.peek()[1] != "]":
            self.fail("this order is never closed; add ']'", at)
        self.next += 1
        if sorted(places) != list(range(len(places))):
            self.fail(f"an order holds the numbers 0 to {len(places) - 1}, each once", at)
        return tuple(places)

    def unordered_item(self, top: bool) -> Axis:
        kind, value, at = self.peek()
        self.next += 1
        if kind == "number":
            if int(value) == 0:
                self.fail("a block of size 0 holds nothing; leave it out", at)
            return Fixed(int(value))
        if kind == "name":
            return Group(value, self.parent())
        if value == ".":
            if not top:
                self.fail("inside brackets a fixed block needs its size: write a number instead of '.'", at)
            return Fixed()
        if value == "(":
            return self.bracket(at)
        if value in (")", "]"):
            self.fail(f"nothing is open here for this '{value}' to close", at)
        self.fail(f"'{value}' cannot stand here" + ("; put a concatenation into brackets: (a+b)" if top else ""), at)
        raise AssertionError

    def parent(self) -> str | None:
        if self.peek()[1] != "[":
            return None
        opened = self.peek()[2]
        self.next += 1
        kind, name, at = self.peek()
        if kind != "name":
            self.fail("expected the name of the parent group, as in d[h]", at)
        self.next += 1
        if self.peek()[1] != "]":
            self.fail("this bracket is never closed; add ']'", opened)
        self.next += 1
        return name

    def bracket(self, opened: int) -> Axis:
        terms: list[Axis] = []
        factors: list[Axis] = []
        while True:
            kind, value, at = self.peek()
            if kind == "end":
                self.fail("this bracket is never closed; add ')'", opened)
            if value in (")", "+"):
                if not factors:
                    self.fail("something is missing before this character", at)
                terms.append(_product(factors))
                factors = []
                self.next += 1
                if value == ")":
                    return _sum(terms)
            else:
                factors.append(self.item(top=False))


def _product(factors: list[Axis]) -> Axis:
    flat: list[Axis] = []
    for factor in factors:
        flat.extend(factor.factors if isinstance(factor, Product) else (factor,))
    if len(flat) == 1:
        return flat[0]
    # "((h d[h]) (h d[h]))" keeps its brackets: without them, which h a d follows could not be told.
    plain = [f.name for f in flat if isinstance(f, Group) and f.parent is None]
    inside = (node for factor in flat for node in walk(factor))
    told = all(plain.count(node.parent) < 2 for node in inside if isinstance(node, Group) and node.parent is not None)
    return Product(tuple(flat if told else factors))


def _sum(terms: list[Axis]) -> Axis:
    flat: list[Axis] = []
    for term in terms:
        flat.extend(term.terms if isinstance(term, Sum) else (term,))
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))
