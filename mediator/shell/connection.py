"""One control connection after its TLS handshake: frames in, frames out, news gathered."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol, cast

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire.control import Error, encode
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, frame_header

PIECE = 3 * 1024
"""Bytes that TLS is given at once. Its buffers keep the size of the largest piece they ever held: 8 KB would cost each
member 5 KB more, 1 KB would save as much and half again the time that a view of a thousand takes."""
MAX_QUEUED = 16 * 1024 * 1024
"""A member that reads this slowly is dropped; it comes back and gets the whole view. Three of the largest views."""


class Owner(Protocol):
    """Who is told what happens on a connection."""

    def accept(self, connection: Connection, transport: asyncio.Transport) -> None:
        """A TLS handshake is done."""

    def frame(self, connection: Connection, payload: bytes) -> None:
        """A whole frame came."""

    def garbage(self, connection: Connection) -> None:
        """A connection sent what no client of ours sends."""

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""


class Connection(asyncio.Protocol):
    """Unauthenticated at first; `known` once it has logged in."""

    __slots__ = (
        "_decoder",
        "_owner",
        "_paused",
        "_queue",
        "_queued",
        "_sent",
        "_transport",
        "number",
        "source",
        "ticket",
        "unauthenticated",
    )

    def __init__(self, owner: Owner, source: SocketAddress, ticket: int = 0) -> None:
        """`ticket`: of the admission limiter, while this is unauthenticated."""
        self._owner = owner
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self.number = 0
        self.source = source
        self.unauthenticated = True
        self.ticket = ticket
        self._paused = False
        self._queue: deque[bytes] | None = None
        """None when there is nothing to send, as with nearly all of thousands at nearly all times."""
        self._queued = 0
        self._sent = 0
        """Bytes of the first payload in the queue that are on their way."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio: the handshake is done."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of asyncio's
        self._transport.set_write_buffer_limits(PIECE)
        self._owner.accept(self, self._transport)

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        try:
            for payload in self._decoder.feed(data):
                self._owner.frame(self, payload)
        except RemoteError as error:
            self._owner.garbage(self)
            self.end(Error(error.code, str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._owner.lost(self)

    def pause_writing(self) -> None:
        """Of asyncio: what was written waits for a slow reader."""
        self._paused = True

    def resume_writing(self) -> None:
        """Of asyncio: it has read."""
        self._paused = False
        self.flush()

    def send(self, payload: bytes) -> None:
        """Now, after what was gathered."""
        if self._queue is None and not self._paused and len(payload) <= PIECE:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(frame_header(payload) + payload)
            return
        self.gather((payload,))
        self.flush()

    def gather(self, payloads: Iterable[bytes]) -> bool:
        """What may wait for more until `flush`; True for the first of it. Payloads are kept as they are, so that one
        that many are sent is in memory once."""
        first = self._queue is None
        queue = self._queue = deque() if self._queue is None else self._queue
        for payload in payloads:
            queue.append(payload)
            self._queued += len(payload)
        if self._queued > MAX_QUEUED and self._transport is not None:
            self._transport.abort()
            self._forget()
        return first

    def flush(self) -> None:
        """Send what was gathered, as far as the reader keeps up."""
        transport = self._transport
        if transport is None or transport.is_closing():
            self._forget()
            return
        while self._queue is not None and not self._paused:
            transport.write(self._piece(self._queue))
            if not self._queue:
                self._forget()

    def _piece(self, queue: deque[bytes]) -> bytes:
        """About PIECE bytes of what is queued, with the headers of the frames that begin in it."""
        parts, room = [], PIECE
        while queue and room > 0:
            payload = queue[0]
            if self._sent == 0:
                parts.append(frame_header(payload))
            part = payload[self._sent : self._sent + room]
            parts.append(part)
            room -= len(part)
            self._sent += len(part)
            if self._sent == len(payload):
                queue.popleft()
                self._queued -= len(payload)
                self._sent = 0
        return b"".join(parts)

    def _forget(self) -> None:
        self._queue, self._queued, self._sent = None, 0, 0

    def end(self, error: Error) -> None:
        """Say why, and hang up."""
        self.send(encode(error))
        if self._transport is None:
            return
        if self._queue is not None:  # a slow reader would not hear it for long, and nothing else would end it
            self._transport.abort()
        self._transport.close()

    def known(self) -> None:
        """It is a member's: it may send more."""
        self._decoder.limit = LIMIT_AFTER_LOGIN
