"""One TLS connection in the event loop: OpenSSL reads and writes the socket itself.

| state    | event                                            | next                                              |
|----------|--------------------------------------------------|---------------------------------------------------|
| OPEN     | bytes from the other side                        | OPEN: the protocol has them                       |
| OPEN     | `close`, and something waits for the reader      | FLUSHING                                          |
| OPEN     | `close`                                          | ENDING, with close_notify (RFC 8446 §6.1)         |
| FLUSHING | everything is sent                               | ENDING, with close_notify                         |
| FLUSHING, ENDING | bytes from the other side                | dropped                                           |
| any      | the other side's end, an error, `abort`, `LINGER_S` after `close` | CLOSED: `connection_lost`        |

An asyncio transport with TLS keeps buffers of its own for each connection, as large as the largest piece that it ever
held, and room for one read. Here OpenSSL's own buffers are all, and it frees them when they are empty (Python sets
SSL_MODE_RELEASE_BUFFERS).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from enum import Enum

LINGER_S = 5.0
"""Longest wait for the other side's end after `close`: what it still sends would make the kernel reset the connection,
and our last words could be lost.
"""
READ = 64 * 1024
"""Bytes of one read: four records, and more than any agent sends at once."""
CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What Python raises if the other side has closed without a word: the first with OpenSSL 3 since Python 3.11.4, the
second before, as on Debian 12.
"""
_BUFFER = memoryview(bytearray(READ))
"""For all connections: what was read is copied at once."""


class State(Enum):
    """The states of the table above."""

    OPEN = "open"
    FLUSHING = "flushing"
    ENDING = "ending"
    CLOSED = "closed"


class TlsStream:
    """The transport of a protocol, after the handshake."""

    __slots__ = ("_blocked", "_ending", "_fd", "_linger", "_loop", "_protocol", "_tls", "_unsent", "state")

    def __init__(self, tls: ssl.SSLSocket, protocol: asyncio.Protocol, ending: set[TlsStream]) -> None:
        """`tls`: non-blocking, its handshake done (`shake_hands`). `ending`: has those that wait for their other side's
        end.
        """
        self.state = State.OPEN
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        self._fd = tls.fileno()
        self._protocol = protocol
        self._ending = ending
        self._unsent = b""
        self._blocked = False
        """Whether the kernel takes no more bytes at present."""
        self._linger: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Tell the protocol, and read from now on."""
        self._loop.add_reader(self._fd, self._readable)
        self._protocol.connection_made(self)  # type: ignore[arg-type]  # what a protocol of ours uses of a transport

    @property
    def alpn(self) -> str | None:
        """The negotiated protocol (ALPN)."""
        return self._tls.selected_alpn_protocol()

    def is_closing(self) -> bool:
        """Whether nothing is sent any more."""
        return self.state is not State.OPEN

    def write(self, data: bytes) -> None:
        """Send bytes. What the kernel does not take is kept, and the protocol told to wait (`pause_writing`)."""
        if self.state is State.OPEN:
            self._unsent = self._unsent + data if self._unsent else data
            if not self._blocked:
                self._write()

    def close(self) -> None:
        """Send what waits, and end the connection in good order."""
        if self.state is State.OPEN:
            self.state = State.FLUSHING
            self._ending.add(self)
            self._linger = self._loop.call_later(LINGER_S, self.abort)
            if not self._unsent:
                self._say_end()

    def abort(self) -> None:
        """End the connection now."""
        self._end(None)

    def _readable(self) -> None:
        try:
            while True:
                count = self._tls.recv_into(_BUFFER)
                if not count:
                    self._end(None)
                elif self.state is State.OPEN:
                    self._protocol.data_received(bytes(_BUFFER[:count]))
                if self.state is State.CLOSED or not self._tls.pending():
                    return
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            self._end(error)

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = self._tls.send(self._unsent)
                self._unsent = self._unsent[sent:]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if not self._blocked:
                self._blocked = True
                self._loop.add_writer(self._fd, self._write)
                self._protocol.pause_writing()
            return
        except OSError as error:
            self._end(error)
            return
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._fd)
            if self.state is State.OPEN:
                self._protocol.resume_writing()
        if self.state is State.FLUSHING and not self._unsent:
            self._say_end()

    def _say_end(self) -> None:
        self.state = State.ENDING
        try:
            with contextlib.suppress(ssl.SSLError):  # the other side has not ended yet
                self._tls.unwrap()
            self._tls.shutdown(socket.SHUT_WR)  # from now on what is read are bare bytes, to be dropped
        except (OSError, ValueError):
            self._end(None)

    def _end(self, error: OSError | None) -> None:
        if self.state is State.CLOSED:
            return
        self.state = State.CLOSED
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._ending.discard(self)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self._tls.close()
        self._unsent = b""
        self._loop.call_soon(self._protocol.connection_lost, error)


async def shake_hands(connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Perform the handshake of a server, and take the socket over.

    Raises OSError, or EOFError if the client has closed; then the socket is closed.
    """
    tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    try:
        while True:
            try:
                tls.do_handshake()
                return tls
            except ssl.SSLWantReadError:
                await ready(tls.fileno())
            except ssl.SSLWantWriteError:
                await ready(tls.fileno(), writable=True)
            except CLOSED as error:
                raise EOFError("the client closed during the handshake") from error
    except BaseException:
        tls.close()
        raise


async def ready(fd: int, *, writable: bool = False) -> None:
    """Wait until a descriptor, which nothing else waits for, is readable or writable."""
    loop = asyncio.get_running_loop()
    is_ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writable else (loop.add_reader, loop.remove_reader)
    add(fd, _done, is_ready)
    try:
        await is_ready
    finally:
        remove(fd)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
