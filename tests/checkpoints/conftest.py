"""Damage: what can happen to the bytes of a file."""

import pytest
from hypothesis import strategies as st

from rebasin_core.checkpoints import open_checkpoint
from rebasin_core.errors import CheckpointError


@st.composite
def damages(draw):
    """A function that changes a few bytes of a file, and may cut it off."""
    flips = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
    cut = draw(st.none() | st.floats(0, 1))

    def damage(whole):
        data = bytearray(whole)
        for place, value in flips:
            data[int(place * (len(data) - 1))] = value
        return bytes(data if cut is None else data[: int(cut * len(data))])

    return damage


@pytest.fixture(scope="session")
def damage():
    return damages()


@pytest.fixture(scope="session")
def opens_or_refuses():
    """Check that a file is either refused as a whole, or has all the tensors it says it has."""

    def check(path):
        try:
            file = open_checkpoint(path)
            for name, info in file.tensors.items():
                assert file.read(name).shape == info.shape
        except CheckpointError:
            return

    return check
