"""STUN: the vectors of RFC 5769, round trips, and no byte string that breaks the decoder."""

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire import stun
from netctl.wire.datagram import DatagramKind, classify

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
REQUEST = bytes.fromhex(  # RFC 5769 §2.1
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff"
    "80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
RESPONSE_IPV4 = bytes.fromhex(  # §2.2
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RESPONSE_IPV6 = bytes.fromhex(  # §2.3
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"


@pytest.mark.parametrize(
    ("data", "kind", "mapped"),
    [
        (REQUEST, stun.BINDING_REQUEST, None),
        (RESPONSE_IPV4, stun.BINDING_SUCCESS, SocketAddress("192.0.2.1", 32853)),
        (RESPONSE_IPV6, stun.BINDING_SUCCESS, SocketAddress("2001:db8:1234:5678:11:2233:4455:6677", 32853)),
    ],
    ids=["request", "ipv4", "ipv6"],
)
def test_rfc5769_vectors(data: bytes, kind: int, mapped: SocketAddress | None) -> None:
    message = stun.decode(data)
    assert (message.kind, message.transaction, message.fingerprint) == (kind, TRANSACTION, True)
    assert message.mapped == mapped
    # MESSAGE-INTEGRITY is not used by netctl; it proves here that the vectors were copied right.
    covered = data[: len(data) - 32]
    covered = covered[:2] + (len(covered) + 24 - 20).to_bytes(2, "big") + covered[4:]
    assert hmac.new(PASSWORD, covered, hashlib.sha1).digest() == message.attribute(0x0008)
    assert classify(data) is DatagramKind.STUN


@pytest.mark.parametrize("data", [REQUEST, RESPONSE_IPV4, RESPONSE_IPV6], ids=["request", "ipv4", "ipv6"])
def test_every_flipped_bit_of_the_vectors_is_noticed(data: bytes) -> None:
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x10
        try:
            noticed = not stun.decode(bytes(broken)).fingerprint
        except RemoteError:
            noticed = True
        assert noticed


ADDRESSES = st.builds(
    SocketAddress.of,
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.integers(min_value=1, max_value=65535),
)


@given(ADDRESSES, st.binary(min_size=12, max_size=12))
@settings(max_examples=40)
def test_a_client_learns_the_address_the_server_saw(source: SocketAddress, transaction: bytes) -> None:
    request = stun.binding_request(transaction)
    answer = stun.respond(request, source)
    assert answer is not None
    assert len(answer) <= len(request)
    message = stun.decode(answer)
    assert (message.kind, message.transaction, message.mapped) == (stun.BINDING_SUCCESS, transaction, source)


@given(st.binary(max_size=120), ADDRESSES)
@settings(max_examples=80)
def test_foreign_bytes_never_crash_and_are_never_amplified(data: bytes, source: SocketAddress) -> None:
    for attempt in (data, stun.binding_request(bytes(12))[:20] + data, RESPONSE_IPV4[:24] + data):
        answer = stun.respond(attempt, source)
        assert answer is None or len(answer) <= len(attempt)


def test_a_bare_request_gets_silence_since_the_answer_would_be_larger() -> None:
    bare = stun.encode(stun.StunMessage(stun.BINDING_REQUEST, bytes(12)))
    assert stun.respond(bare, SocketAddress("192.0.2.1", 5)) is None


def test_unknown_required_attributes_are_named() -> None:
    padding = (stun.SOFTWARE, b"x" * 40)
    request = stun.encode(stun.StunMessage(stun.BINDING_REQUEST, bytes(12), ((0x7FFE, b""), padding), True))
    answer = stun.respond(request, SocketAddress("192.0.2.1", 5))
    assert answer is not None
    message = stun.decode(answer)
    assert message.kind == stun.BINDING_ERROR
    assert message.attribute(stun.UNKNOWN_ATTRIBUTES) == b"\x7f\xfe"


def test_an_answer_is_not_answered() -> None:
    assert stun.respond(RESPONSE_IPV4, SocketAddress("192.0.2.1", 5)) is None


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_a_relays_load_fits_into_an_answer_that_is_not_larger_than_the_request(host: str) -> None:
    source, other = SocketAddress(host, 5), SocketAddress("192.0.2.9", 3479) if host[0] == "1" else None
    request = stun.binding_request(TRANSACTION)
    answer = stun.answer_from(request, source, other, load=2)
    assert answer is not None
    assert len(answer.data) <= len(request)
    told = stun.decode(answer.data)
    assert (told.mapped, told.other, told.load) == (source, other, 2)
    quiet = stun.answer_from(request, source, other)
    assert quiet is not None
    assert stun.decode(quiet.data).load == 0
    short = stun.encode(
        stun.StunMessage(stun.BINDING_REQUEST, TRANSACTION, ((stun.SOFTWARE, bytes(20)),), True)
    )
    less = stun.answer_from(short, source, other, load=2)
    assert less is not None
    assert len(less.data) <= len(short)
    assert stun.decode(less.data).mapped == source


@pytest.mark.parametrize("load", [0, 2])
def test_a_mediator_says_beside_its_load_that_members_may_spread(load: int) -> None:
    request = stun.binding_request(TRANSACTION)
    answer = stun.respond(request, SocketAddress("2001:db8::1", 5), load, spread=True)
    assert answer is not None
    assert len(answer) <= len(request)
    told = stun.decode(answer)
    assert (told.load, told.spread) == (load, True)
    plain = stun.respond(request, SocketAddress("2001:db8::1", 5), load)
    assert plain is not None
    assert not stun.decode(plain).spread


@pytest.mark.parametrize(
    ("value", "load"), [(b"", 0), (b"\0\0\2", 0), (b"\0\0\0\1", 1), (b"\0\0\0\xff", 3), (bytes(5), 0)]
)
def test_a_load_that_is_broken_or_too_large(value: bytes, load: int) -> None:
    assert stun.StunMessage(stun.BINDING_SUCCESS, TRANSACTION, ((stun.RELAY_LOAD, value),)).load == load
