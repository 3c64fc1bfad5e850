"""Keys as text, and the points that no identity may be: checked with the curve's own arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from netctl.model import keys
from netctl.model.keys import IdentityKey, WireGuardKey, is_weak_identity

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
"""RFC 8032 §5.1: the field, the order of the base point, and d."""
NEUTRAL = (0, 1)
Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    """The complete addition law of -x² + y² = 1 + d x² y²."""
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P
    y = (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P
    return x, y


def times(n: int, point: Point) -> Point:
    total = NEUTRAL
    while n:
        if n & 1:
            total = add(total, point)
        point = add(point, point)
        n >>= 1
    return total


def point_at(y: int) -> Point | None:
    """A point with this y, if the curve has one (RFC 8032 §5.1.3)."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == square else None


def order_8() -> Point:
    """A generator of the small subgroup: some point without its part of order L."""
    for y in range(2, 100):
        point = point_at(y)
        if point is not None:
            small = times(L, point)
            if times(4, small) != NEUTRAL:
                return small
    raise AssertionError("no point of order 8")


def test_the_arithmetic_is_that_of_the_curve() -> None:
    base = point_at(Fraction(4, 5).numerator * pow(5, -1, P) % P)
    assert base is not None
    assert times(L, base) == NEUTRAL
    assert times(3, base) == add(base, add(base, base)) != NEUTRAL


def test_the_listed_points_are_all_of_small_order_and_no_others() -> None:
    generator = order_8()
    subgroup = {times(n, generator) for n in range(8)}
    assert len(subgroup) == 8
    assert {y for _, y in subgroup} == keys._SMALL_ORDER_Y
    for x, y in subgroup:
        assert is_weak_identity(IdentityKey((y | (x & 1) << 255).to_bytes(32, "little")))


@pytest.mark.parametrize("y", [P, P + 1, 2**255 - 1])
@pytest.mark.parametrize("sign", [0, 1])
def test_a_second_way_to_write_a_point_is_refused(y: int, sign: int) -> None:
    assert is_weak_identity(IdentityKey((y | sign << 255).to_bytes(32, "little")))


@given(st.binary(min_size=32, max_size=32))
def test_keys_that_are_made_honestly_are_not_weak(seed: bytes) -> None:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert not is_weak_identity(IdentityKey(public))


@given(st.binary(min_size=32, max_size=32))
def test_text_and_back(raw: bytes) -> None:
    assert WireGuardKey.parse(str(WireGuardKey(raw))) == WireGuardKey(raw)
    assert IdentityKey.parse(str(IdentityKey(raw))) == IdentityKey(raw)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A" * 44,
        "A" * 43 + "=\n",
        "A" * 42 + "B=",
        "A" * 40 + "====",
        "é" * 44,
        "A" * 22 + "==",
        "-" * 43 + "=",
    ],
)
def test_one_text_for_one_key(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        WireGuardKey.parse(text)
    with pytest.raises(ValueError, match="base64"):
        IdentityKey.parse("ed25519:" + text)
    with pytest.raises(ValueError, match="starts with"):
        IdentityKey.parse("A" * 43 + "=")


def test_the_same_key_is_one_object_wherever_it_is_read() -> None:
    """Document, view and engine each name thousands of peers. What is remembered is bounded."""
    text = str(WireGuardKey(bytes([9]) * 32))
    one = WireGuardKey.parse(text)
    assert WireGuardKey.parse(text) is one
    assert keys.known(bytes([9]) * 32) is one
    for number in range(keys.MAX_KNOWN + 1):
        keys.known(number.to_bytes(32, "big"))
    assert len(keys._known) <= keys.MAX_KNOWN
    assert WireGuardKey.parse(text) == one
    with pytest.raises(ValueError):
        keys.known(bytes(31))
