"""One TLS connection that carries frames of the relay, for any event loop: non-blocking, bounded, drop-oldest.

state       event                                 next
SHAKING     the handshake is done                 OPEN
OPEN        bytes to read, room to write          OPEN
any         end of stream, an error, `close`      CLOSED

The owner waits for readability always and for writability while `wants_write`, and calls `turn` for either. An error
leaves the socket open. The owner stops waiting for the socket and then calls `close`, after which another file may get
the descriptor's number.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import sys
from enum import Enum

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire.relayframe import MAX_DATAGRAM, DropOldest, FrameReader, frame

RECORDS_PER_TURN = 16
"""TLS records of up to 16 KB read in one `turn`, before other connections get their turn."""
WRITES_PER_TURN = 16
RECORD = 16_384
NOT_SENT = 64 * 1024
"""Unsent bytes in the kernel's buffer at most (TCP_NOTSENT_LOWAT): our queue drops late frames, the kernel's buffer
would keep them."""
USER_TIMEOUT_MS = 8_000
"""Data unacknowledged for so long ends the connection (RFC 5482): the network below has changed."""
KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 3), (socket.TCP_KEEPCNT, 3))
"""Seconds, seconds and count: detects within 20 s that the other end of an idle connection is gone."""

_BYTES_RECEIVED_AT = 128
"""Offset of `tcpi_bytes_received`, 64 bits, in `struct tcp_info` (Linux 4.1 and newer:
include/uapi/linux/tcp.h)."""


class LinkState(Enum):
    """The states of the table above."""

    SHAKING = "shaking"
    OPEN = "open"
    CLOSED = "closed"


def tune(sock: socket.socket) -> None:
    """Set the options of a TCP connection that carries datagrams: a late datagram is as bad as a lost one."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NOTSENT_LOWAT, NOT_SENT),
        (socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
        *KEEPALIVE,
    ):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class TlsLink:
    """A TLS connection; owns its socket. `now`: monotonic seconds."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server: bool,
        name: str | None = None,
        limit: int = MAX_DATAGRAM,
    ) -> None:
        """Take over a connected socket. `name`: the server name that a client sends (SNI). Raises OSError."""
        sock.setblocking(False)
        tune(sock)
        self.state = LinkState.SHAKING
        self.reader = FrameReader(limit)
        self.queue = DropOldest()
        self.local = SocketAddress.of(sock.getsockname()[0].partition("%")[0], 1).address
        """The local address of the connection."""
        self.closed = False
        """Whether the socket is closed, too."""
        self.received = 0
        """Bytes received, with the headers of frames."""
        self._writing = b""
        self._tls_wants_write = False
        self._tls = context.wrap_socket(
            sock,
            server_side=server,
            do_handshake_on_connect=False,
            server_hostname=None if server else name,
        )
        self._fileno = self._tls.fileno()

    def fileno(self) -> int:
        """The descriptor's number, also after `close`."""
        return self._fileno

    @property
    def arrived(self) -> int:
        """Bytes that the kernel has received, whether or not they make whole TLS records yet (TCP_INFO)."""
        info = self._tls.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED_AT + 8)
        return int.from_bytes(info[_BYTES_RECEIVED_AT:], sys.byteorder)

    @property
    def certificate(self) -> bytes | None:
        """The certificate of the other side, DER; None unless the state is OPEN."""
        return self._tls.getpeercert(binary_form=True) if self.state is LinkState.OPEN else None

    @property
    def protocol(self) -> str | None:
        """The negotiated protocol (ALPN); None unless the state is OPEN."""
        return self._tls.selected_alpn_protocol() if self.state is LinkState.OPEN else None

    @property
    def wants_write(self) -> bool:
        """Whether `turn` is to be called when the socket is writable, too."""
        if self.state is LinkState.SHAKING:
            return self._tls_wants_write
        return self.state is LinkState.OPEN and bool(
            self._writing or self.queue.size or self._tls_wants_write
        )

    def put(self, port: int, datagram: bytes, now: float) -> None:
        """Queue a datagram, which `turn` or `write` sends; older ones may be dropped. Ignored in state CLOSED."""
        if self.state is not LinkState.CLOSED and len(datagram) <= MAX_DATAGRAM:
            self.queue.put(frame(port, datagram), now)

    def turn(self, now: float) -> list[tuple[int, bytes]]:
        """Shake hands, read and write as far as possible. Returns received (port, datagram) pairs.

        Raises RemoteError: the connection has ended, and the owner must close it.
        """
        try:
            if self.state is LinkState.SHAKING and not self._shake_hands():
                return []
            if self.state is LinkState.CLOSED:
                return []
            found = self._read()
            self._write(now)
            return found
        except RemoteError:
            self.state = LinkState.CLOSED
            raise
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self.state = LinkState.CLOSED
            raise RemoteError(_words(error), "tls" if isinstance(error, ssl.SSLError) else "lost") from error

    def write(self, now: float) -> None:
        """Send queued frames as far as there is room.

        Raises RemoteError: the connection has ended, and the owner must close it.
        """
        if self.state is not LinkState.OPEN:
            return
        try:
            self._write(now)
        except OSError as error:
            self.state = LinkState.CLOSED
            raise RemoteError(_words(error), "lost") from error

    def close(self) -> None:
        """Close the socket, without a TLS close_notify, for which it might have to wait. Idempotent."""
        self.state, self.closed = LinkState.CLOSED, True
        self.queue.clear()
        self._writing = b""
        self._tls.close()

    def _shake_hands(self) -> bool:
        self._tls_wants_write = False
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self._tls_wants_write = True
            return False
        self.state = LinkState.OPEN
        return True

    def _read(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        self._tls_wants_write = False
        for _ in range(
            RECORDS_PER_TURN
        ):  # a record is read whole: further records stay in the kernel, and the socket readable
            try:
                data = self._tls.recv(RECORD)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLWantWriteError:
                self._tls_wants_write = True
                break
            if not data:
                raise RemoteError("the connection was closed", "lost")
            self.received += len(data)
            found += self.reader.feed(data)
        return found

    def _write(self, now: float) -> None:
        for _ in range(WRITES_PER_TURN):
            if not self._writing:
                self._writing = self.queue.take(now)
                if not self._writing:
                    return
            try:
                sent = self._tls.send(self._writing)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            self._writing = self._writing[sent:]


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}".replace("_", " ").lower()
    number = getattr(error, "errno", None)
    if number == errno.ETIMEDOUT:
        return "nothing is acknowledged any more"
    return str(getattr(error, "strerror", None) or error)
