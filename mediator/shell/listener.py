"""Listening: every connection is judged by `AdmissionLimiter` before a byte of TLS costs anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import struct
from collections.abc import Callable

from mediator.core.admissionlimiter import AdmissionLimiter, Ban, Offence
from netctl.model.addresses import SocketAddress
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks
from netctl.wire import clienthello

_LOG = logging.getLogger("mediator.server")

BACKLOG = 1024
ACCEPTS_PER_TURN = 64
"""Before others get their turn."""
REST_S = 0.1
"""How long nobody is accepted after the process ran out of files."""
SAY_EVERY_S = 60.0
"""How often the operator is told that there are no files left: a line, not a flood."""
TLS_TIMEOUT_S = 5.0
"""A TLS handshake takes two round trips; the worst real link needs a second."""
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset, and nothing of a refused connection stays in the kernel."""


class Listener:
    """The listening sockets, and the handshakes under way. For one event loop."""

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
        """`factory` makes the protocol of a connection from an address, with its ticket; TLS comes first.

        `divert` sees which protocols a connection asks for before anything is read; True: somebody else has it now.
        `guard` counts what could not be handled. `on_full`: the process may open no more files, said once in a while.
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
        self._hang_up: dict[int, Callable[[], object]] = {}
        """How each unauthenticated connection is ended when it has to make room, by its ticket."""

    def listen(self, address: str, port: int, *, both: bool) -> int:
        """Listen on a port (0: any); `both`: IPv4 on an IPv6 socket, too. The port. Raises OSError."""
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
        """Stop listening, and give up the handshakes under way."""
        for opened in self._sockets:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()
        self._sockets.clear()
        self._handshakes.cancel()

    def authenticated(self, ticket: int) -> None:
        """A connection is authenticated."""
        self._hang_up.pop(ticket, None)
        self._limiter.authenticated(ticket, self._clock())

    def leave(self, ticket: int) -> None:
        """An unauthenticated connection is gone."""
        self._hang_up.pop(ticket, None)
        self._limiter.leave(ticket)

    def offend(self, source: SocketAddress, offence: Offence) -> None:
        """An unauthenticated connection did wrong."""
        ban = self._limiter.offend(source, offence, self._clock())
        if ban is not None:
            self._on_ban(ban)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, raw = listening.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._rest(listening)  # the backlog keeps them until there are files again
                return
            if not raw[1]:  # a SYN from port 0 (RFC 768, RFC 9293: reserved): nobody honest
                connection.close()
                continue
            source = SocketAddress.of(raw[0].partition("%")[0], raw[1])
            admittance = self._limiter.admit(source, self._clock())
            if admittance.evicted is not None:
                self._hang_up.pop(admittance.evicted, _nothing)()
            if admittance.refused is not None:
                with contextlib.suppress(OSError):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.close()
                continue
            try:
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:  # it has hung up already
                connection.close()
                self._limiter.leave(admittance.ticket)
                continue
            task = self._handshakes.start(
                "a handshake", self._shake_hands(connection, source, admittance.ticket)
            )
            self._hang_up[admittance.ticket] = task.cancel

    def _rest(self, listening: socket.socket) -> None:
        """Without files nothing can be accepted, and the socket would stay readable for ever: look again later."""
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
        """After this the connection belongs to its protocol, which tells the limiter when it leaves."""
        try:
            async with asyncio.timeout(TLS_TIMEOUT_S):
                asked = await _asked_for(connection)
            if self._divert(connection, asked):
                connection.close()  # our end of it
                self.leave(ticket)
                return
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._factory(source, ticket),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=TLS_TIMEOUT_S,
            )
            if ticket in self._hang_up:
                self._hang_up[ticket] = transport.abort
        except (Exception, asyncio.CancelledError) as error:
            expected = isinstance(error, (OSError, EOFError, asyncio.CancelledError))
            if not expected:  # TLS and time-out errors are OSErrors: this is a fault of ours
                self._guard.caught("a handshake", error)
            with contextlib.suppress(OSError):  # uvloop has closed it by itself, and says so
                connection.close()
            self.leave(ticket)
            if isinstance(error, TimeoutError):
                self.offend(source, "timeout")
            elif isinstance(error, ssl.SSLError):  # who just hangs up, as a health check does, does no wrong
                self.offend(source, "tls")


def _nothing() -> None:
    """Of a connection that has ended by itself."""


async def _asked_for(connection: socket.socket) -> tuple[bytes, ...]:
    """The protocols in a connection's first record, which stays unread. Empty: it is no TLS, or the other side left."""
    header = await _peek(connection, clienthello.RECORD_HEADER)
    size = clienthello.needed(header)
    if size is None:
        return ()
    record = await _peek(connection, size)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    return clienthello.protocols(record)


async def _peek(connection: socket.socket, size: int) -> bytes:
    """So many bytes, still unread; fewer when the other side has hung up."""
    connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_RCVLOWAT, size
    )  # readable means: all of them, or the end
    with contextlib.suppress(BlockingIOError):
        data = connection.recv(size, socket.MSG_PEEK)
        if len(data) == size or not data:
            return data
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection.fileno(), _done, readable)
    try:
        await readable
    finally:
        loop.remove_reader(connection.fileno())
    return connection.recv(size, socket.MSG_PEEK)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
