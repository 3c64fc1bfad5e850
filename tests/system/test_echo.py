"""Echo requests and replies: what comes to a raw socket is anybody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.system import echo

OURS = 0x1234
IPV4 = bytes([0x46]) + bytes(23)
"""A header with four bytes of options."""


@pytest.mark.parametrize(("version", "before"), [(4, IPV4), (6, b"")])
@pytest.mark.parametrize("data_len", [0, 56])
def test_a_reply_has_the_number_and_the_size_of_its_request(
    version: int, before: bytes, data_len: int
) -> None:
    asked = echo.request(version, OURS, 7, data_len)
    answer = bytes([echo.REPLY[version]]) + asked[1:]
    assert echo.reply(version, before + answer, OURS) == (7, data_len)
    assert echo.reply(version, before + asked, OURS) is None, "a request is no reply"
    assert echo.reply(version, before + answer, OURS + 1) is None, "somebody else's"
    assert echo.reply(version, (before + answer)[: len(before) + echo.HEADER.size - 1], OURS) is None


def test_the_checksum_of_ipv4_is_right() -> None:
    """RFC 1071: the sum of all 16-bit words of a whole message is all ones."""
    packet = echo.request(4, 0xFFFF, 0xFEDC, 10)
    total = sum(int.from_bytes(packet[at : at + 2], "big") for at in range(0, len(packet), 2))
    assert total % 0xFFFF == 0
    assert echo.request(6, OURS, 1)[2:4] == bytes(2)


@given(st.sampled_from([4, 6]), st.binary(max_size=80), st.integers(0, 0xFFFF))
def test_garbage_is_no_reply_of_ours_and_raises_nothing(version: int, data: bytes, whose: int) -> None:
    found = echo.reply(version, data, whose)
    if found is not None:
        start = (data[0] & 0xF) * 4 if version == 4 else 0
        assert data[start] == echo.REPLY[version]
        assert data[start + 4 : start + 6] == whose.to_bytes(2, "big")
        assert found[1] == len(data) - start - echo.HEADER.size
