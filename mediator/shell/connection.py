"""One control connection after its TLS handshake: frames in, frames out, news gathered."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire.control import Error, encode
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame

MAX_SEND_BUFFER = 4 * 1024 * 1024
"""A member that reads this slowly is dropped; it comes back and gets the whole view."""


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
    """Of a stranger at first; `known` once it has logged in."""

    def __init__(self, owner: Owner, source: SocketAddress) -> None:
        self._owner = owner
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None
        self.number = 0
        self.source = source
        self.stranger = True
        self._gathered: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio: the handshake is done."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of asyncio's
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

    def send(self, payload: bytes) -> None:
        """Now, after what was gathered."""
        self._gathered.append(encode_frame(payload))
        self.flush()

    def gather(self, data: bytes) -> bool:
        """Frames that may wait for others, as `flush` sends them; True for the first of them."""
        self._gathered.append(data)
        return len(self._gathered) == 1

    def flush(self) -> None:
        """Send what was gathered, as one."""
        if self._gathered:
            data, self._gathered = b"".join(self._gathered), []
            self.write(data)

    def write(self, data: bytes) -> None:
        """Frames, as they go over the wire."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(data)
        if transport.get_write_buffer_size() > MAX_SEND_BUFFER:
            transport.abort()

    def end(self, error: Error) -> None:
        """Say why, and hang up."""
        self.send(encode(error))
        if self._transport is not None:
            self._transport.close()

    def known(self) -> None:
        """It is a member's: it may send more."""
        self._decoder.limit = LIMIT_AFTER_LOGIN
