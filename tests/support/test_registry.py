"""What serves an object is found by the modules of its classes, and loaded only then."""

import pytest

from rebasin_core.support.registry import Registry


class Served:
    name = "served"


def made_in(module, *bases):
    return type("Thing", bases or (object,), {"__module__": module})


@pytest.fixture
def registry():
    return Registry("rebasin_core.tests.nothing")


def test_the_most_derived_known_module_wins(registry):
    """A Keras model that is also a torch module is found as Keras."""
    torch, keras = Served(), Served()
    registry.register("torch", lambda: torch)
    registry.register("keras", lambda: keras)
    module = made_in("torch.nn")
    assert registry.find(made_in("keras.src.models", module)) is keras
    assert registry.find(made_in("mine", made_in("keras.src", module))) is keras
    assert registry.find(made_in("mine", module)) is torch


def test_the_root_must_match_as_a_whole(registry):
    registry.register("torch", Served)
    assert registry.find(made_in("torchvision.models")) is None
    assert registry.find(made_in("mine.torch")) is None
    assert registry.find(int) is None


def test_a_loader_is_called_once_and_only_when_needed(registry):
    calls = []
    registry.register("a", lambda: calls.append("a") or Served())
    registry.register("b", lambda: calls.append("b") or Served())
    assert registry.known() == ["a", "b"]
    assert calls == []
    first = registry.find(made_in("a"))
    assert registry.find(made_in("a.b.c")) is first
    assert calls == ["a"]


def test_registering_again_replaces_what_was_found_before(registry):
    thing = made_in("a")
    assert registry.find(thing) is None
    old, new = Served(), Served()
    registry.register("a", old)
    assert registry.find(thing) is old
    registry.register("a", lambda: new)
    assert registry.find(thing) is new


def test_an_instance_or_a_class_may_be_registered(registry):
    instance = Served()
    registry.register("a", instance)
    registry.register("b", Served)
    assert registry.find(made_in("a")) is instance
    assert isinstance(registry.find(made_in("b")), Served)


def test_entry_points_of_the_distribution_are_known():
    assert "sklearn" in Registry("rebasin_core.adapters").known()
