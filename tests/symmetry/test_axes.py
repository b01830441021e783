"""The axis notation: parse and print, and messages that point at the character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebasin_core.errors import SpecError
from rebasin_core.symmetry.axes import AxesSpec, Fixed, Gather, Group, Product, Sum, size


@given(st.data())
def test_printing_and_parsing_is_the_identity(strategies, data):
    sizes = data.draw(strategies.group_sizes())
    raw = data.draw(strategies.factor_lists(sizes, {"d": "h"}, {"h"}, 3, least=1))
    spec = AxesSpec.of(*raw)
    again = AxesSpec(spec.text)
    assert again == spec
    assert again.axes == spec.axes
    assert again.text == spec.text
    # The canonical spelling never changes a length.
    assert [size(axis, sizes) for axis in spec.axes] == [size(axis, sizes) for axis in raw]


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("", ()),
        ("h .", (Group("h"), Fixed())),
        ("h (c2 49)", (Group("h"), Product((Group("c2"), Fixed(49))))),
        ("(c1+c2)", (Sum((Group("c1"), Group("c2"))),)),
        ("(h 49+c)", (Sum((Product((Group("h"), Fixed(49))), Group("c"))),)),
        ("(h (a+b))", (Product((Group("h"), Sum((Group("a"), Group("b"))))),)),
        ("(h d[h]) .", (Product((Group("h"), Group("d", "h"))), Fixed())),
        ("x@[1 0 2]", (Gather(Group("x"), (1, 0, 2)),)),
        ("(a+b)@[0 2 1]", (Gather(Sum((Group("a"), Group("b"))), (0, 2, 1)),)),
        ("layer/0.heads 3", (Group("layer/0.heads"), Fixed(3))),
    ],
)
def test_text_means_these_axes(text, axes):
    spec = AxesSpec(text)
    assert spec.axes == axes
    assert spec.text == text
    assert len(spec) == len(axes)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("  h\t. ", "h ."),
        ("(h)", "h"),
        ("((a b) c)", "(a b c)"),
        ("((a+b)+c)", "(a+b+c)"),
        ("( a + b )", "(a+b)"),
        ("((h 49)+c)", "(h 49+c)"),
        ("(x@[1 0])@[0 1]", "x@[1 0]@[0 1]"),
    ],
)
def test_equal_specifications_print_equally(text, canonical):
    assert AxesSpec(text).text == canonical
    assert AxesSpec(text) == AxesSpec(canonical)
    assert repr(AxesSpec(text)) == f'AxesSpec("{canonical}")'


def test_brackets_that_tell_which_parent_a_local_group_follows_are_kept():
    spec = AxesSpec("((h d[h]) (h d[h]))")
    pair = Product((Group("h"), Group("d", "h")))
    assert spec.axes == (Product((pair, pair)),)
    assert AxesSpec(spec.text).axes == spec.axes


def test_groups_are_listed_once_in_order_of_appearance():
    assert AxesSpec("h (c2 49+h) (h d[h])").groups == ("h", "c2", "d")


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("h (c2 49", 2, "never closed"),
        ("h )", 2, "nothing is open"),
        ("h ]", 2, "nothing is open"),
        ("h -c", 2, "unexpected '-'"),
        ("h  g$", 4, "unexpected '$'"),
        ("(h .)", 3, "needs its size"),
        ("(h +)", 4, "something is missing"),
        ("()", 1, "something is missing"),
        ("(+h)", 1, "something is missing"),
        ("a+b", 1, "put a concatenation into brackets"),
        ("h 0", 2, "size 0"),
        ("d[", 2, "name of the parent"),
        ("d[3]", 2, "name of the parent"),
        ("d[h", 1, "never closed"),
        ("x@", 1, "expected an order"),
        ("x@[0 1", 1, "never closed"),
        ("x@[0 2]", 1, "each once"),
        ("x@[1 1]", 1, "each once"),
    ],
)
def test_a_typo_is_pointed_at(text, at, words):
    with pytest.raises(SpecError) as caught:
        AxesSpec(text)
    message, shown, caret = str(caught.value).split("\n")
    assert words in message
    assert shown == "    " + text
    assert caret == " " * (4 + at) + "^"


@pytest.mark.parametrize("thing", [None, 3, ["h", "."], b"h ."])
def test_what_is_no_text_is_refused(thing):
    with pytest.raises(SpecError, match=f"got {type(thing).__name__}"):
        AxesSpec(thing)


def test_a_specification_is_hashable_and_frozen():
    assert {AxesSpec("h  .")} == {AxesSpec("h .")}
    with pytest.raises(AttributeError):
        AxesSpec("h .").text = "c"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(" * 5000, "at most 40 deep"),
        ("x" + "@[0]" * 5000, "at most 40 deep"),
        ("9" * 5000, "at most 18 digits"),
        ("x@[" + "9" * 5000 + "]", "at most 18 digits"),
    ],
)
def test_what_python_cannot_parse_is_refused_as_a_typo(text, words):
    with pytest.raises(SpecError, match=words):
        AxesSpec(text)


def test_a_specification_is_built_of_axes_only():
    with pytest.raises(SpecError, match=r"Group\('h'\), got str 'h'"):
        AxesSpec.of("h")
