"""The one mean: exact where networks agree and at the ends, between them elsewhere, in every framework and dtype."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from rebasin_core.backends.dtypes import is_inexact
from rebasin_core.errors import SettingError
from rebasin_core.line.mean import as_shares, lerp, mean, steps

FULL = ("float16", "float32", "float64", "complex64", "complex128", "int64", "bool")
NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
KINDS = [
    *(("numpy", dtype) for dtype in FULL),
    *((framework, dtype) for framework in ("torch", "tensorflow") for dtype in (*FULL, *NARROW)),
    *(("jax", dtype) for dtype in ("float16", "float32", "complex64", "int32", "bool", *NARROW)),
]
NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5)


def largest(dtype):
    return {"float16": 6e4, "float8_e4m3fn": 400.0, "float8_e5m2": 5e4}.get(
        dtype, 3.3e38 if "64" not in dtype else 1e308
    )


def array(framework, dtype, values):
    """Numbers in a dtype; those too large for it become the largest that is safe."""
    most = largest("float32" if dtype == "complex64" else dtype)
    values = np.clip(np.array(values), -most, most) if is_inexact(dtype) else np.sign(np.array(values))
    with np.errstate(under="ignore"):
        if framework == "numpy":
            return values.astype(dtype)
        if framework == "torch":
            torch = pytest.importorskip("torch")
            return torch.tensor(values).to(getattr(torch, dtype))
        if framework == "tensorflow":
            tf = pytest.importorskip("tensorflow")
            return tf.cast(tf.constant(values), dtype)
        return pytest.importorskip("jax").numpy.asarray(values.astype("float32")).astype(dtype)


def bits(x):
    if type(x).__module__.startswith("torch"):
        return x.view(pytest.importorskip("torch").uint8).numpy().tobytes()
    return np.asarray(x).tobytes()


def exact(x):
    """The numbers of an array, in NumPy's float64."""
    return np.asarray(x.double() if type(x).__module__.startswith("torch") else x, "float64")


SHARES = st.one_of(
    st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5).map(lambda w: as_shares(None, w, len(w))),
    st.floats(0.0, 1.0).map(lambda t: as_shares(t, None, 2)),
)


@pytest.mark.parametrize(("framework", "dtype"), KINDS)
@settings(max_examples=20)
@given(values=NUMBERS, shares=SHARES)
@example(values=[-0.0, 1e-40, -5e-324, 1e308, -1e308, 0.1], shares=(0.3, 0.3, 0.4))
def test_the_mean_of_copies_is_the_network_bit_by_bit(framework, dtype, values, shares):
    x = array(framework, dtype, values)
    found = mean([{"w": x}] * len(shares), shares)["w"]
    assert bits(found) == bits(x)
    assert found.dtype == x.dtype


@pytest.mark.parametrize(("framework", "dtype"), KINDS)
@settings(max_examples=15)
@given(a=NUMBERS, b=NUMBERS)
@example(a=[1e-40, 0.0, 1e308], b=[-1e308, -0.0, 0.1])
def test_the_ends_of_the_line_are_the_networks_bit_by_bit(framework, dtype, a, b):
    n = min(len(a), len(b))
    ends = [{"w": array(framework, dtype, values[:n])} for values in (a, b)]
    for t in (0.0, 1.0):
        found = mean(ends, as_shares(t, None, 2))["w"]
        assert bits(found) == bits(ends[int(t) if is_inexact(dtype) else 0]["w"])


@pytest.mark.parametrize(("framework", "dtype"), [kind for kind in KINDS if "float" in kind[1]])
@settings(max_examples=20)
@given(data=st.data(), shares=SHARES, n=st.integers(1, 5))
def test_the_mean_lies_between_the_smallest_and_the_largest(framework, dtype, data, shares, n):
    row = st.lists(st.floats(-1e308, 1e308), min_size=n, max_size=n)
    arrays = [array(framework, dtype, data.draw(row)) for _ in shares]
    rows = [exact(x) for x in arrays]
    found = exact(mean([{"w": x} for x in arrays], shares)["w"])
    # Some frameworks take what is below the normal numbers for zero.
    slack = np.finfo("float64" if dtype == "float64" else "float32").tiny
    assert np.all(found >= np.min(rows, axis=0) - slack)
    assert np.all(found <= np.max(rows, axis=0) + slack)


@given(data=st.data(), shares=SHARES)
def test_the_mean_is_the_weighted_sum(data, shares):
    networks = [{"w": np.array(data.draw(st.lists(st.floats(-9, 9), min_size=3, max_size=3)))} for _ in shares]
    expected = sum(s * network["w"] for s, network in zip(shares, networks, strict=True))
    assert_allclose(mean(networks, shares)["w"], expected, rtol=1e-12, atol=1e-12)


def test_half_precision_is_added_up_in_single_precision():
    rng = np.random.default_rng(0)
    networks = [{"w": rng.normal(size=1000).astype("float16")} for _ in range(50)]
    wanted = np.mean([network["w"].astype("float64") for network in networks], axis=0)
    error = np.abs(mean(networks, (1 / 50,) * 50)["w"].astype("float64") - wanted)
    assert np.all(error <= 0.51 * np.spacing(np.abs(wanted).astype("float16")))


@pytest.mark.parametrize("t", [-1.5, 0.3, 0.7, 4.0])
def test_places_beyond_the_ends_extrapolate(t):
    a, b = np.array([1.0, -2.0]), np.array([3.0, 5.0])
    assert_allclose(mean([{"w": a}, {"w": b}], as_shares(t, None, 2))["w"], (1 - t) * a + t * b)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "int64", "bool"])
def test_the_line_of_the_objectives_is_the_line_of_the_mean(dtype):
    rng = np.random.default_rng(0)
    a, b = ({"w": (4 * rng.normal(size=20)).astype(dtype)} for _ in range(2))
    for t in (0.25, np.float32(0.25), np.array(0.25)):
        found = lerp(a, b, t)["w"]
        assert found.dtype == dtype
        assert_allclose(found, mean([a, b], (0.75, 0.25))["w"], rtol=1e-3)


@given(shares=SHARES)
def test_running_steps_give_back_the_shares(shares):
    counted = np.zeros(len(shares))
    for i, step in steps(shares):
        counted *= 1.0 - step
        counted[i] += step
    assert_allclose(counted, shares, atol=1e-12)


# --- shares -----------------------------------------------------------------------------------------------------------
def test_shares_are_a_place_weights_or_equal():
    assert as_shares(None, None, 4) == (0.25,) * 4
    assert as_shares(np.float32(0.25), None, 2) == (0.75, 0.25)
    assert as_shares(None, np.array([1, 3]), 2) == (0.25, 0.75)


@pytest.mark.parametrize(
    ("t", "weights", "count", "words"),
    [
        (0.5, [1, 1], 2, "got both"),
        (0.5, None, 3, "pass weights="),
        (np.nan, None, 2, "finite number"),
        ("0.5", None, 2, "finite number"),
        (None, [1, 0], 2, "2 positive numbers"),
        (None, [1, np.inf], 2, "2 positive numbers"),
        (None, [1e308, 1e308], 2, "2 positive numbers"),
        (None, [1, 1], 3, "3 positive numbers"),
        (None, "ab", 2, "2 positive numbers"),
        (None, 3, 2, "2 positive numbers"),
    ],
)
def test_what_says_no_shares_is_refused(t, weights, count, words):
    with pytest.raises(SettingError, match=words):
        as_shares(t, weights, count)
