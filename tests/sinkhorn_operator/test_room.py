"""The room and the function have names of their own."""

import rebasin_core as rb
import rebasin_core.sinkhorn_operator as room


def test_the_room_is_a_module_and_the_function_stays_one():
    assert rb.sinkhorn is room.sinkhorn
    assert callable(room.marginal_error)
    assert rb.sinkhorn_operator is room
