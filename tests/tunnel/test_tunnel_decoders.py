"""Anything may come in: no crash, no answer, nothing kept."""

from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.tunnel.messages import (
    COOKIE_REPLY_LEN,
    INITIATION_LEN,
    RESPONSE_LEN,
    CookieReply,
    Initiation,
    Response,
    message_type,
    transport_fields,
    transport_header,
)
from tests.tunnel.tunnelworld import Host, World, ipv4

WORLD = World()
A, B = WORLD.pair()
A.send(ipv4(A.inner, B.inner))
WORLD.run(0.005)
OPEN = World(7)
C, D = OPEN.pair()
OPEN.drop = lambda *_: True
C.send(ipv4(C.inner, D.inner))
OPEN.run(0.001)
INITIATION_SENT = C.sent[0][1]

noise = st.binary(max_size=200)
shaped = st.builds(
    lambda kind, size, body: (kind.to_bytes(4, "little") + body)[:size].ljust(size, b"\0"),
    st.integers(0, 5),
    st.sampled_from([0, 3, 4, 16, 31, 32, COOKIE_REPLY_LEN, RESPONSE_LEN, INITIATION_LEN, 149]),
    st.binary(min_size=100, max_size=160),
)
for_an_open_handshake = st.builds(
    lambda kind, size, body: (kind.to_bytes(4, "little") + body[:4] + INITIATION_SENT[4:8] + body)[:size],
    st.sampled_from([2, 3]),
    st.sampled_from([COOKIE_REPLY_LEN, RESPONSE_LEN]),
    st.binary(min_size=100, max_size=160),
)
flipped = st.builds(
    lambda at, bit: (
        INITIATION_SENT[:at] + bytes([INITIATION_SENT[at] ^ (1 << bit)]) + INITIATION_SENT[at + 1 :]
    ),
    st.integers(0, INITIATION_LEN - 17),  # mac2 is not looked at while there is no load
    st.integers(0, 7),
)


def kept(host: Host) -> tuple[object, ...]:
    (peer,) = host.device.peers.values()
    indices = host.device._indices
    return (
        peer.endpoint,
        peer.rx_bytes,
        peer.latest_timestamp,
        peer.handshake,
        len(indices.keypairs),
        len(indices.handshakes),
        len(host.device._limiter),
        host.device.next_timer(),
    )


@settings(max_examples=150, deadline=None)
@given(st.one_of(noise, shaped, for_an_open_handshake, flipped))
def test_garbage_is_met_with_silence(datagram: bytes) -> None:
    for host in (C, D):
        before = kept(host)
        assert host.device.handle_handshake(datagram, A.address, OPEN.now, OPEN.unix_now) == []
        assert kept(host) == before


@settings(max_examples=60, deadline=None)
@given(st.one_of(noise, shaped))
def test_transport_garbage_through_a_shell(datagram: bytes) -> None:
    before = kept(B)
    B.receive(datagram, A.address)
    assert kept(B) == before
    assert B.inbox == []


@given(shaped)
def test_what_decodes_encodes_to_itself(datagram: bytes) -> None:
    match message_type(datagram):
        case 1:
            assert Initiation.decode(datagram).encode() == datagram[:-32]
        case 2:
            assert Response.decode(datagram).encode() == datagram[:-32]
        case 3:
            assert CookieReply.decode(datagram).encode() == datagram
        case 4:
            assert transport_header(*transport_fields(datagram)) == datagram[:16]
        case None:
            assert datagram[:4] not in {bytes([4, 0, 0, 0])} or len(datagram) < 32
