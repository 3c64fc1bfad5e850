"""Probes: only the pair can make or read them, and an answer is as long as its question."""

import ipaddress

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.wire import probe
from netctl.wire.datagram import DatagramKind, classify, unpack_address


def identity(seed: int) -> tuple[bytes, WireGuardKey]:
    private = bytes([seed]) * 32
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return private, WireGuardKey(public)


A, B, C = identity(1), identity(2), identity(3)
A_TO_B = probe.derive_keys(A[0], A[1], B[1])
B_TO_A = probe.derive_keys(B[0], B[1], A[1])
C_TO_A = probe.derive_keys(C[0], C[1], A[1])
PING = probe.Probe(probe.ProbeType.PING, b"12345678", probe.ProbeFlag.HAVE_PONG)
PONG = probe.Probe(
    probe.ProbeType.PONG,
    b"12345678",
    probe.ProbeFlag.HAVE_PONG | probe.ProbeFlag.USING,
    SocketAddress("2001:db8::7", 51820),
)


NUMBERED = probe.Probe(probe.ProbeType.PING, b"12345678", number=1_800_000_000_000_000)


@pytest.mark.parametrize("message", [PING, PONG, NUMBERED])
def test_the_peer_reads_what_was_sealed(message: probe.Probe) -> None:
    data = probe.seal(A_TO_B, message, bytes(12))
    assert classify(data) is DatagramKind.PROBE
    assert probe.sender_tag(data) == B_TO_A.open_tag
    assert probe.open_probe(B_TO_A, data) == message
    assert data[0] > 4
    assert len(data) == probe.PROBE_LEN


def test_the_wire_format_stays() -> None:
    golden = probe.seal(A_TO_B, PING, bytes(range(12)))
    assert golden.hex() == GOLDEN


@pytest.mark.parametrize("number", [0, 1, 1_800_000_000_000_000, probe.MAX_NUMBER])
def test_a_member_that_knows_no_numbers_reads_an_address_in_its_place(number: int) -> None:
    ping = probe.Probe(probe.ProbeType.PING, b"12345678", number=number)
    data = probe.seal(A_TO_B, ping, bytes(12))
    assert probe.open_probe(B_TO_A, data) == ping
    start = probe.HEADER_LEN + probe.NONCE_LEN
    place = B_TO_A.open.decrypt(bytes(12), data[start:], data[: probe.HEADER_LEN])[
        2 + probe.TRANSACTION_LEN :
    ]
    read = unpack_address(place)
    assert read is not None
    assert read.address in ipaddress.ip_network("100::/64")
    assert int(read.address) & (2**64 - 1) == number


def test_a_pong_has_no_number() -> None:
    seen = SocketAddress("100::7", 51820)
    pong = probe.Probe(probe.ProbeType.PONG, b"12345678", observed=seen)
    assert probe.open_probe(B_TO_A, probe.seal(A_TO_B, pong, bytes(12))) == pong


def test_a_stranger_and_a_reflected_probe_are_refused() -> None:
    stranger = probe.seal(C_TO_A, PING, bytes(12))
    own = probe.seal(A_TO_B, PING, bytes(12))
    for data in (stranger, own):
        with pytest.raises(RemoteError):
            probe.open_probe(A_TO_B, data)


def test_every_byte_counts() -> None:
    data = probe.seal(A_TO_B, PONG, bytes(12))
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(RemoteError):
            probe.open_probe(B_TO_A, bytes(broken))


@given(st.binary(max_size=100), st.booleans())
@settings(max_examples=60)
def test_foreign_bytes_are_refused(data: bytes, with_header: bool) -> None:
    header = probe.seal(A_TO_B, PING, bytes(12))[: probe.HEADER_LEN]
    with pytest.raises(RemoteError):
        probe.open_probe(B_TO_A, header + data if with_header else data)


def test_a_key_of_small_order_is_no_peer() -> None:
    with pytest.raises(ValueError):
        probe.derive_keys(A[0], A[1], WireGuardKey(bytes(32)))


GOLDEN = (
    "f56e633101fa50a7f7da76e07d000102030405060708090a0b45e6738916aa71df4bbf95f9c5f29f9df7a833aff5eaea9285"
    "c2e185f2e38740a81acc009a466ef096d4bd6cd3"
)
