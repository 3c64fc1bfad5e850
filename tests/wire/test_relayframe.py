"""Frames of the relay over TLS, their bounded queue, and what a ClientHello asks for."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.model.errors import RemoteError
from netctl.wire import clienthello
from netctl.wire.relayframe import HEADER, MAX_DATAGRAM, DropOldest, FrameReader, frame

FRAMES = st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=300)), max_size=20)


@given(FRAMES, st.integers(1, 700))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    sent: list[tuple[int, bytes]], step: int
) -> None:
    stream = b"".join(frame(port, data) for port, data in sent)
    reader = FrameReader()
    got = [one for at in range(0, len(stream), step) for one in reader.feed(stream[at : at + step])]
    assert got == sent


def test_a_frame_beyond_the_limit_is_refused_by_its_header_alone() -> None:
    with pytest.raises(RemoteError, match="at most 64"):
        FrameReader(64).feed(HEADER.pack(65, 1))
    with pytest.raises(ValueError, match="at most"):
        frame(1, bytes(MAX_DATAGRAM + 1))
    reader = FrameReader(64)
    assert reader.feed(frame(7, bytes(64))) == [(7, bytes(64))]
    reader.limit = MAX_DATAGRAM
    assert reader.feed(frame(7, bytes(MAX_DATAGRAM))) == [(7, bytes(MAX_DATAGRAM))]


def test_the_queue_drops_the_oldest_and_is_bounded() -> None:
    queue = DropOldest(most=1000)
    for number in range(100):
        queue.put(bytes([number]) * 100, 0.0)
        assert queue.size <= 1000
    assert queue.dropped == 90
    assert queue.take(0.0, 250) == bytes([90]) * 100 + bytes([91]) * 100
    assert queue.take(0.0, 10) == bytes([92]) * 100, "one frame at least, or a large one would wait for ever"
    assert queue.size == 700


def test_what_waited_too_long_is_not_sent() -> None:
    queue = DropOldest(most=1000, age_s=0.25)
    queue.put(b"old", 0.0)
    queue.put(b"new", 0.2)
    assert queue.take(0.3) == b"new"
    assert (queue.size, queue.dropped) == (0, 1)
    assert queue.take(0.3) == b""


def hello(*names: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if names:
        context.set_alpn_protocols(list(names))
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="mediator.example.net")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_the_protocol_that_a_real_client_asks_for_is_read() -> None:
    for names in ((), ("netctl/1",), ("netctl-relay/1", "http/1.1")):
        record = hello(*names)
        assert clienthello.needed(record[:5]) == len(record)
        assert clienthello.protocols(record) == tuple(name.encode() for name in names)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_nothing_that_a_stranger_sends_raises(noise: bytes, cut: int) -> None:
    record = hello("netctl-relay/1")
    assert clienthello.protocols(noise) == ()
    assert clienthello.needed(noise) is None or noise[0] == 22
    clienthello.protocols(record[:cut] + noise)
