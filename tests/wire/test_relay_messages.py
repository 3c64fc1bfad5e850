"""The relay's messages: nobody without the allocation's key can make one, and answers do not amplify."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.core.relay_grants import grant
from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire import relay
from netctl.wire.datagram import DatagramKind, classify

SECRET = bytes(range(32))
ALLOCATION = relay.Allocation(40001, 40002, 2_000_000_000)
KEY = ALLOCATION.key(SECRET)
MESSAGES: list[relay.RelayMessage] = [
    relay.Bind(ALLOCATION, b"t" * 8),
    relay.Cookie(b"t" * 8, b"c" * 16),
    relay.Confirm(ALLOCATION, b"t" * 8, b"c" * 16),
    relay.Bound(b"t" * 8, relay.BoundFlag.PEER_BOUND, SocketAddress("192.0.2.9", 51820)),
    relay.Bound(b"t" * 8, relay.BoundFlag.NONE, SocketAddress("2001:db8::9", 51820)),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip(message: relay.RelayMessage) -> None:
    data = relay.seal(message, KEY)
    assert classify(data) is DatagramKind.RELAY
    assert relay.open_message(data, KEY) == message


def test_no_answer_is_larger_than_its_question() -> None:
    bind, cookie, confirm, bound, _ = (len(relay.seal(message, KEY)) for message in MESSAGES)
    assert cookie <= bind
    assert bound <= confirm
    assert cookie <= confirm  # a stale cookie is answered with a new one


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_byte_counts(message: relay.RelayMessage) -> None:
    data = relay.seal(message, KEY)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(RemoteError):
            relay.open_message(bytes(broken), KEY)


def test_a_grant_is_checked_offline_by_who_has_the_secret() -> None:
    given_out = grant(SECRET, 40001, 40002, 2_000_000_000)
    data = relay.seal(MESSAGES[0], bytes.fromhex(given_out.key))
    named = relay.peek_allocation(data)
    assert named.pack().hex() == given_out.allocation
    assert relay.open_message(data, named.key(SECRET)) == MESSAGES[0]
    with pytest.raises(RemoteError):
        relay.open_message(data, named.key(bytes(32)))


@pytest.mark.parametrize(("own", "peer"), [(1, 1), (0, 5), (5, 70000)])
def test_a_grant_needs_two_ports(own: int, peer: int) -> None:
    with pytest.raises(ValueError):
        grant(SECRET, own, peer, 5)


@given(st.binary(max_size=90), st.sampled_from(list(relay.RelayKind)), st.booleans())
@settings(max_examples=60)
def test_foreign_bytes_are_refused(data: bytes, kind: relay.RelayKind, with_header: bool) -> None:
    attempt = relay.seal(MESSAGES[0], KEY)[:4] + bytes([kind]) + data if with_header else data
    with pytest.raises(RemoteError):
        relay.open_message(attempt, KEY)
    with contextlib.suppress(RemoteError):
        relay.peek_allocation(attempt)
