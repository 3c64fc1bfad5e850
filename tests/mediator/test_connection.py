"""A connection's way out: small pieces, slow readers, what many are sent."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from mediator.shell.connection import MAX_QUEUED, PIECE, Connection
from mediator.shell.tlsstream import TlsStream
from netctl.model.addresses import SocketAddress
from netctl.wire.control import Error, decode
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder


class Nobody:
    """An owner that wants to know nothing."""

    def accept(self, connection: Connection, transport: TlsStream) -> None: ...
    def frame(self, connection: Connection, payload: bytes) -> None: ...
    def garbage(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


class Reader:
    """A transport whose other end reads `room` bytes and then nothing, until it is given more."""

    def __init__(self, room: int) -> None:
        self.room, self.pieces, self.ended = room, list[bytes](), ""
        self.connection = Connection(Nobody(), SocketAddress.of("192.0.2.1", 1))
        self.connection.connection_made(cast(asyncio.Transport, self))

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.pieces.append(data)
        self.room -= len(data)
        if self.room < 0:
            self.connection.pause_writing()

    def read(self, more: int) -> None:
        self.room += more
        if self.room >= 0:
            self.connection.resume_writing()

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def payloads(self) -> list[bytes]:
        return FrameDecoder(LIMIT_AFTER_LOGIN).feed(b"".join(self.pieces))


sizes = st.lists(st.one_of(st.integers(0, 50), st.integers(PIECE - 9, PIECE + 9), st.just(3 * PIECE)))


@given(sizes, st.integers(0, 200_000))
def test_all_frames_arrive_whole_and_in_order_and_no_piece_is_large(lengths: list[int], room: int) -> None:
    reader = Reader(room)
    wanted = [bytes([number % 256]) * length for number, length in enumerate(lengths)]
    for number, payload in enumerate(wanted):
        if number % 3:
            reader.connection.send(payload)
        else:
            reader.connection.gather([payload])
    reader.connection.flush()
    while reader.room < 0:
        reader.read(PIECE)
    assert reader.payloads() == wanted
    assert all(len(piece) <= PIECE for piece in reader.pieces)


def test_what_is_gathered_goes_as_one_and_is_asked_for_once() -> None:
    reader = Reader(1000)
    assert [reader.connection.gather([b"a", b"b"]), reader.connection.gather([b"c"])] == [True, False]
    assert reader.pieces == []
    reader.connection.flush()
    assert len(reader.pieces) == 1
    assert reader.payloads() == [b"a", b"b", b"c"]
    assert reader.connection.gather([b"d"])


def test_a_reader_that_stands_still_is_dropped_and_what_waits_is_forgotten() -> None:
    reader, payload = Reader(0), bytes(LIMIT_AFTER_LOGIN)
    for _ in range(MAX_QUEUED // LIMIT_AFTER_LOGIN + 1):
        assert not reader.ended
        reader.connection.send(payload)
    assert len(reader.pieces) == 1
    reader.connection.send(b"one more")
    assert reader.ended == "aborted"
    reader.connection.gather([b"late"])
    reader.connection.flush()  # nobody reads it, and nothing is kept
    assert len(reader.pieces) == 1


def test_the_last_word_is_said_to_whoever_listens() -> None:
    for room, ended in ((1000, "closed"), (-1, "aborted")):
        reader = Reader(room)
        if room < 0:
            reader.connection.pause_writing()
        reader.connection.end(Error("mediator.stopping", "it stops"))
        assert reader.ended == ended
        assert [decode(payload) for payload in reader.payloads()] == [
            Error("mediator.stopping", "it stops")
        ] * (room > 0)
