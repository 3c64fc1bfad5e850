"""One control connection after its TLS handshake: reads and writes frames, and gathers news into larger writes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol, cast

from mediator.shell.tlsstream import TlsStream
from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire.control import Error, encode
from netctl.wire.frame import HEADER_LEN, LIMIT_AFTER_LOGIN, FrameDecoder, frame_header

PIECE = 16 * 1024
"""Bytes given to TLS at once: one full record (RFC 8446 §5.1)."""
MAX_QUEUED = 16 * 1024 * 1024
"""Queued bytes at which a slow reader is dropped: three of the largest views. The member reconnects and gets the whole
view.
"""


class Owner(Protocol):
    """Receives the events of connections."""

    def accept(self, connection: Connection, transport: TlsStream) -> None:
        """A TLS handshake is done."""

    def frame(self, connection: Connection, payload: bytes) -> None:
        """A complete frame arrived."""

    def garbage(self, connection: Connection) -> None:
        """A connection sent what no client of ours sends."""

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""


class Connection(asyncio.Protocol):
    """A control connection: unauthenticated until `known` is called."""

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
        """`ticket`: the admission limiter's, while the connection is unauthenticated."""
        self._owner = owner
        self._decoder = FrameDecoder()
        self._transport: TlsStream | None = None
        self.number = 0
        self.source = source
        self.unauthenticated = True
        self.ticket = ticket
        self._paused = False
        self._queue: deque[bytes] | None = None
        """None: nothing to send, as for nearly all of thousands of connections most of the time."""
        self._queued = 0
        self._sent = 0
        """Sent bytes of the first payload in the queue."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the handshake is done."""
        self._transport = cast(TlsStream, transport)
        self._owner.accept(self, self._transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes arrived."""
        try:
            for payload in self._decoder.feed(data):
                self._owner.frame(self, payload)
        except RemoteError as error:
            self._owner.garbage(self)
            self.end(Error(error.code, str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection has ended."""
        self._owner.lost(self)

    def pause_writing(self) -> None:
        """asyncio: written bytes wait for a slow reader."""
        self._paused = True

    def resume_writing(self) -> None:
        """asyncio: the reader has caught up."""
        self._paused = False
        self.flush()

    def send(self, payload: bytes) -> None:
        """Send a payload now, after the gathered ones."""
        if self._queue is None and not self._paused and len(payload) + HEADER_LEN <= PIECE:
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(frame_header(payload) + payload)
            return
        self.gather((payload,))
        self.flush()

    def gather(self, payloads: Iterable[bytes]) -> bool:
        """Queue payloads until `flush`; True: these are the first. Payloads are not copied, so a payload to many
        members is in memory once.
        """
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
        """Send the gathered payloads, as far as the reader keeps up."""
        transport = self._transport
        if transport is None or transport.is_closing():
            self._forget()
            return
        while self._queue is not None and not self._paused:
            transport.write(self._piece(self._queue))
            if not self._queue:
                self._forget()

    def _piece(self, queue: deque[bytes]) -> bytes:
        """The first PIECE bytes of the queue, with the headers of the frames that begin in them."""
        parts, room = [], PIECE
        while queue and room > HEADER_LEN:
            payload = queue[0]
            if self._sent == 0:
                parts.append(frame_header(payload))
                room -= HEADER_LEN
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
        """Send the error, and close the connection."""
        self.send(encode(error))
        if self._transport is None:
            return
        if self._queue is not None:  # a slow reader would get the error late, and the connection would stay
            self._transport.abort()
        self._transport.close()

    def known(self) -> None:
        """The connection has logged in: raise its frame limit."""
        self._decoder.limit = LIMIT_AFTER_LOGIN
