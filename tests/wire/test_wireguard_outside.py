"""What can be seen of WireGuard messages from outside agrees with what the tunnel makes."""

from __future__ import annotations

import os

import pytest

from netctl.tunnel import messages
from netctl.tunnel.cookie import CookieChecker, CookieGenerator
from netctl.wire import wireguard as wg

KEY = bytes(range(32))


def test_types_lengths_and_indices_are_those_of_the_tunnel() -> None:
    initiation = CookieGenerator(KEY).add_macs(
        messages.Initiation(7, bytes(32), bytes(48), bytes(28)).encode(), 0.0
    )
    answer = CookieGenerator(KEY).add_macs(messages.Response(8, 7, bytes(32), bytes(16)).encode(), 0.0)
    reply = messages.CookieReply(7, bytes(24), bytes(32)).encode()
    transport = messages.transport_header(8, 2**40) + bytes(16)
    for kind, data in enumerate((initiation, answer, reply, transport), 1):
        assert wg.message_type(data) == kind == messages.message_type(data)
        assert wg.message_type(data[:-1]) is None
    assert (wg.sender_index(initiation), wg.sender_index(answer)) == (7, 8)
    assert [wg.receiver_index(data) for data in (answer, reply, transport)] == [7, 7, 8]
    assert wg.counter(transport) == 2**40
    for data in (initiation, answer):
        assert wg.has_mac1(wg.mac1_key(KEY), data)
        assert CookieChecker(KEY, os.urandom).has_valid_mac1(data)
        assert not wg.has_mac1(wg.mac1_key(bytes(32)), data)


@pytest.mark.parametrize(
    "data", [b"", b"\1\0\0", bytes(148), b"\4\0\0\1" + bytes(60), b"\5\0\0\0" + bytes(60)]
)
def test_what_is_no_message_has_no_type(data: bytes) -> None:
    assert wg.message_type(data) is None
