"""Accepts TCP connections: `AdmissionLimiter` decides on each before any TLS work."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import struct
from collections.abc import Callable

from mediator.core.admissionlimiter import AdmissionLimiter, Admittance, Ban, Offence
from mediator.shell.tlsstream import TlsStream, ready, shake_hands
from mediator.shell.waitingsockets import WaitingSockets
from netctl.model.addresses import SocketAddress
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks
from netctl.wire import clienthello

_LOG = logging.getLogger("mediator.server")

BACKLOG = 1024
ACCEPTS_PER_TURN = 64
"""Connections accepted before other work gets its turn."""
REST_S = 0.1
"""Pause of accepting after the process ran out of file descriptors."""
LOOK_S = 0.5
"""Interval of looks for connections that have waited too long for a place."""
SAY_EVERY_S = 60.0
"""Interval of the operator's warnings about missing file descriptors."""
TLS_TIMEOUT_S = 5.0
"""A TLS handshake takes two round trips; the worst real link needs 1 s."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close sends a reset, so that no state of a refused connection stays in the kernel."""


class Listener:
    """The listening sockets and the running handshakes, for one event loop."""

    def __init__(
        self,
        context: ssl.SSLContext,
        factory: Callable[[SocketAddress, int], asyncio.Protocol],
        limiter: AdmissionLimiter,
        clock: Callable[[], float],
        on_ban: Callable[[Ban], None],
        on_full: Callable[[], None],
        divert: Callable[[socket.socket, tuple[bytes, ...]], bool] = lambda connection, protocols: False,
        guard: Guard | None = None,
    ) -> None:
        """`factory` makes the protocol of a connection, from its address and ticket, after TLS.

        `divert` gets the protocols that a connection asks for, before any byte is read; True: `divert` has taken it.
        `guard` counts input with unexpected exceptions. `on_full` is called, at most every SAY_EVERY_S, if the process
        has no file descriptor left.
        """
        self._guard = guard if guard is not None else Guard(_LOG.warning)
        self._handshakes = Tasks(self._guard)
        self._divert = divert
        self._context = context
        self._factory = factory
        self._limiter = limiter
        self._clock = clock
        self._on_ban = on_ban
        self._on_full = on_full
        self._said_full_at = float("-inf")
        self._sockets: list[socket.socket] = []
        self._ending: set[TlsStream] = set()
        self._waiting = WaitingSockets(limiter, clock)
        self._turns: asyncio.Handle | None = None
        self._hang_up: dict[int, Callable[[], object]] = {}
        """A function that ends each unauthenticated connection, for evictions, by ticket."""

    def listen(self, address: str, port: int, *, both: bool) -> int:
        """Listen on a port (0: any); returns the port. `both`: an IPv6 socket serves IPv4 too. Raises OSError."""
        family = socket.AF_INET6 if ":" in address and socket.has_ipv6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
            opened.setblocking(False)
            opened.bind((address, port))
            opened.listen(BACKLOG)
        except OSError:
            opened.close()
            raise
        self._sockets.append(opened)
        asyncio.get_running_loop().add_reader(opened.fileno(), self._accept, opened)
        return int(opened.getsockname()[1])

    def close(self) -> None:
        """Stop listening, and cancel the running handshakes."""
        for opened in self._sockets:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()
        self._sockets.clear()
        self._waiting.close()
        if self._turns is not None:
            self._turns.cancel()
        self._handshakes.cancel()

    def hang_up(self) -> None:
        """End the connections that still wait for their other side's end."""
        for stream in list(self._ending):
            stream.abort()

    def authenticated(self, ticket: int) -> None:
        """A connection has authenticated."""
        self._hang_up.pop(ticket, None)
        self._limiter.authenticated(ticket, self._clock())
        self._soon()

    def leave(self, ticket: int) -> None:
        """An unauthenticated connection has ended."""
        self._hang_up.pop(ticket, None)
        self._limiter.leave(ticket)
        self._soon()

    def offend(self, source: SocketAddress, offence: Offence) -> None:
        """Record an offence of an unauthenticated connection."""
        ban = self._limiter.offend(source, offence, self._clock())
        if ban is not None:
            self._on_ban(ban)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, raw = listening.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._rest(listening)  # connections stay in the backlog meanwhile
                return
            if not raw[1]:  # a SYN from port 0, which is reserved (RFC 768, RFC 9293)
                connection.close()
                continue
            source = SocketAddress.of(raw[0].partition("%")[0], raw[1])
            admittance = self._limiter.admit(source, self._clock())
            if admittance.waits:
                connection.setblocking(False)
                self._waiting.add(admittance.ticket, connection, source)
                if self._turns is None:
                    self._turns = asyncio.get_running_loop().call_later(LOOK_S, self._take_turns)
            else:
                self._decided(connection, source, admittance)

    def _decided(self, connection: socket.socket, source: SocketAddress, admittance: Admittance) -> None:
        if admittance.evicted is not None:
            self._hang_up.pop(admittance.evicted, _nothing)()
        if admittance.refused is not None:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
            return
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # closed by the client already
            connection.close()
            self.leave(admittance.ticket)
            return
        task = self._handshakes.start("a handshake", self._shake_hands(connection, source, admittance.ticket))
        self._hang_up[admittance.ticket] = task.cancel

    def _soon(self) -> None:
        """A place is free: give it to a connection that waits, after the other events of this turn of the loop."""
        if self._waiting:
            if self._turns is not None:
                self._turns.cancel()
            self._turns = asyncio.get_running_loop().call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._turns = None
        for connection, source, admittance in self._waiting.take():
            self._decided(connection, source, admittance)
        if self._waiting and self._turns is None:
            self._turns = asyncio.get_running_loop().call_later(LOOK_S, self._take_turns)

    def _rest(self, listening: socket.socket) -> None:
        """Stop accepting for REST_S: without file descriptors the socket would stay readable for ever."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening.fileno())
        if self._clock() - self._said_full_at >= SAY_EVERY_S:
            self._said_full_at = self._clock()
            self._on_full()
        loop.call_later(REST_S, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening.fileno(), self._accept, listening)

    async def _shake_hands(self, connection: socket.socket, source: SocketAddress, ticket: int) -> None:
        """Perform the TLS handshake. Afterwards the connection's protocol reports its end to the limiter."""
        try:
            async with asyncio.timeout(TLS_TIMEOUT_S):
                asked = await _asked_for(connection)
            if self._divert(connection, asked):
                connection.close()  # our copy; the relay has its own
                self.leave(ticket)
                return
            try:
                async with asyncio.timeout(TLS_TIMEOUT_S):
                    tls = await shake_hands(connection, self._context)
            except TimeoutError as error:  # large packets may not pass: no offence
                raise ConnectionAbortedError("the handshake takes too long") from error
            stream = TlsStream(tls, self._factory(source, ticket), self._ending)
            if ticket in self._hang_up:
                self._hang_up[ticket] = stream.abort
            stream.begin()
        except (Exception, asyncio.CancelledError) as error:
            expected = isinstance(error, (OSError, EOFError, asyncio.CancelledError))
            if not expected:  # TLS errors and time-outs are OSErrors: any other one is our fault
                self._guard.caught("a handshake", error)
            connection.close()
            self.leave(ticket)
            if isinstance(error, TimeoutError):
                self.offend(source, "timeout")
            elif isinstance(error, ssl.SSLError):  # a plain close, as of a health check, is no offence
                self.offend(source, "tls")


def _nothing() -> None:
    """For a connection that has ended already."""


async def _asked_for(connection: socket.socket) -> tuple[bytes, ...]:
    """The ALPN protocols in a connection's first record, which stays unread. Empty: no TLS, or closed."""
    header = await _peek(connection, clienthello.RECORD_HEADER)
    size = clienthello.needed(header)
    if size is None:
        return ()
    record = await _peek(connection, size)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    return clienthello.protocols(record)


async def _peek(connection: socket.socket, size: int) -> bytes:
    """Read `size` bytes without consuming them; fewer if the client has closed."""
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVLOWAT, size
    )  # readable then means: all bytes are there, or the end
    with contextlib.suppress(BlockingIOError):
        data = connection.recv(size, socket.MSG_PEEK)
        if len(data) == size or not data:
            return data
    await ready(connection.fileno())
    return connection.recv(size, socket.MSG_PEEK)
