"""TLS connections of members with blocked UDP at the relay, used like sources of datagrams.

state            event                                        next
HANDSHAKE        the TLS handshake is done, within 5 s        UNAUTHENTICATED
UNAUTHENTICATED  the relay says BOUND on it, within 10 s      MEMBER: an older connection of that member is closed
MEMBER           frames, at least one in `IDLE_S`             MEMBER
any              time is up, garbage, the other side ends it  closed

Each connection has its own address in the discard-only prefix (RFC 6666), from which no datagram can come. For
`RelayTable` it is a source like any other: BIND, COOKIE and CONFIRM pass over it, and prove on this connection that the
member holds the key that it was granted over its control connection. Until then only the relay's own messages are
read. A member's packets go where its own bindings say, so it cannot act as another member.
"""

from __future__ import annotations

import logging
import random
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path

from mediator.core.admissionlimiter import AdmissionLimiter, Admittance, Offence
from mediator.shell.passing import Taker
from mediator.shell.relayserver import STAND_IN, RelayServer
from mediator.shell.waitingsockets import WaitingSockets
from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError, RemoteError
from netctl.system.tlslink import LinkState, TlsLink
from netctl.wire.datagram import DatagramKind, classify
from netctl.wire.relay import RelayKind, peek_allocation
from netctl.wire.relayframe import LIMIT_BEFORE_LOGIN, MAX_DATAGRAM

_LOG = logging.getLogger("mediator.relay")

MAX_LINKS = 4096
"""Most connections, about 60 KB each: even networks with only blocked members are smaller."""
MAX_QUEUED_IN_ALL = 64 << 20
"""Queued bytes for all slow readers together; above it their datagrams are dropped."""
MAX_BEFORE_LOGIN = 128 * 1024
"""Bytes received before login: a member with a thousand peers binds for all at once, 66 bytes each."""
BACKLOG = 128
ACCEPTS_PER_TURN = 64
"""Connections accepted before packets get their turn."""
TLS_S = 5.0
LOGIN_S = 10.0
IDLE_S = 90.0
"""A member refreshes its bindings every 20 s."""
OFFENCES: Mapping[str, Offence] = {"tls": "tls", "frame.too-long": "garbage"}
"""Errors that count as an offence of the source; a plain close does not."""


class _Link:
    """One connection of a member, or of a client before login."""

    def __init__(
        self,
        listener: TlsListener,
        tls: TlsLink,
        source: SocketAddress,
        stand_in: SocketAddress,
        now: float,
        ticket: int,
    ) -> None:
        self.tls = tls
        self.ticket = ticket
        """The admission limiter's ticket, while the connection is unauthenticated."""
        self.source = source
        self.stand_in = stand_in
        self.began = self.heard = now
        self.writes_watched = False
        self.claimed: int | None = None
        """The relay port that its messages claim; proven after login."""
        self.member = False
        self.counted = 0
        """Queued bytes of this connection that are included in the listener's sum."""
        self._listener = listener

    def put(self, port: int, datagram: bytes, now: float) -> None:
        """Send it a datagram from this relay port."""
        if not self.member and classify(datagram) is DatagramKind.RELAY and datagram[4] == RelayKind.BOUND:
            self._listener.login(self, now)
        self._listener.queue(self, port, datagram, now)


class TlsListener:
    """The TLS connections of one RelayServer; runs in its loop."""

    def __init__(
        self,
        relay: RelayServer,
        context: ssl.SSLContext,
        taker: Taker | None = None,
        clock: Callable[[], float] = time.monotonic,
        patience_s: float = TLS_S,
    ) -> None:
        """`taker`: receives connections that the mediator passes on. `patience_s`: limit of a TLS handshake."""
        self._patience_s = patience_s
        self.limiter = AdmissionLimiter(random.random)
        self.queued = 0
        """Bytes in all queues together."""
        self._relay = relay
        self._context = context
        self._taker = taker
        self._clock = clock
        self._links: dict[int, _Link] = {}
        self._unauthenticated: dict[int, _Link] = {}
        """By the limiter's ticket."""
        self._waiting = WaitingSockets(self.limiter, clock)
        self._of_member: dict[int, _Link] = {}
        self._dirty: dict[int, _Link] = {}
        self._number = 0
        if taker is not None:
            relay.listen(taker.fileno(), self._take)
        relay.watch(self._expire)
        relay.after_turn(self._take_turns)
        relay.after_turn(self._flush)

    def __len__(self) -> int:
        return len(self._links)

    def close(self) -> None:
        """Close every connection."""
        for link in list(self._links.values()):
            self._drop(link)
        self._waiting.close()
        if self._taker is not None:
            self._taker.close()

    # -- new connections --------------------------------------------------------------------------------------

    def _take(self) -> None:
        assert self._taker is not None
        for connection in self._taker.take():
            self._relay.guard.run("a connection", self.adopt, connection)

    def adopt(self, connection: socket.socket) -> None:
        """Take a new, unauthenticated connection."""
        now = self._clock()
        try:
            host, port = connection.getpeername()[:2]
            source = SocketAddress.of(host.partition("%")[0], port)
        except (OSError, ValueError):
            connection.close()
            return
        if len(self._links) + len(self._waiting) >= MAX_LINKS:
            connection.close()
            return
        admittance = self.limiter.admit(source, now)
        if admittance.waits:
            self._waiting.add(admittance.ticket, connection, source)
        else:
            self._decided(connection, source, admittance, now)

    def _take_turns(self) -> None:
        """Go on with connections that need to wait no longer."""
        for connection, source, admittance in self._waiting.take():
            self._decided(connection, source, admittance, self._clock())

    def _decided(
        self, connection: socket.socket, source: SocketAddress, admittance: Admittance, now: float
    ) -> None:
        if (
            admittance.evicted is not None
            and (evicted := self._unauthenticated.get(admittance.evicted)) is not None
        ):
            self._drop(evicted)
        if admittance.refused is not None:
            connection.close()
            return
        try:
            tls = TlsLink(connection, self._context, server=True, limit=LIMIT_BEFORE_LOGIN)
        except OSError:
            connection.close()
            self.limiter.leave(admittance.ticket)
            return
        self._number += 1
        stand_in = SocketAddress(str(IPv6Address(int(IPv6Address(STAND_IN)) + self._number)), 1)
        link = _Link(self, tls, source, stand_in, now, admittance.ticket)
        self._unauthenticated[admittance.ticket] = link
        self._links[tls.fileno()] = link
        self._relay.links[stand_in] = link
        self._relay.listen(tls.fileno(), lambda: self._turn(link))

    def login(self, link: _Link, now: float) -> None:
        """A connection has proven the key of a grant."""
        link.member = True
        link.tls.reader.limit = MAX_DATAGRAM
        self._unauthenticated.pop(link.ticket, None)
        self.limiter.authenticated(link.ticket, now)
        assert link.claimed is not None
        older = self._of_member.get(link.claimed)
        self._of_member[link.claimed] = link
        if older is not None and older is not link:
            self._drop(older)

    # -- frames -----------------------------------------------------------------------------------------------

    def _turn(self, link: _Link) -> None:
        """Read frames. An unexpected exception ends only this connection, which would else stay readable for ever."""
        if not self._relay.guard.run("a frame", self._read, link):
            self._drop(link)

    def _read(self, link: _Link) -> None:
        now = self._clock()
        try:
            frames = link.tls.turn(now)
        except RemoteError as error:
            self._drop(link, OFFENCES.get(error.code))
            return
        if not link.member and link.tls.received > MAX_BEFORE_LOGIN:
            self._drop(link, "garbage")
            return
        if frames:
            link.heard = now
        for port, datagram in frames:
            if not self._frame(link, port, datagram, now):
                self._drop(link, "garbage")
                return
        self._watch_writes(link)

    def _frame(self, link: _Link, port: int, datagram: bytes, now: float) -> bool:
        """Handle a frame; False: no client of ours sends it."""
        if classify(datagram) is DatagramKind.RELAY:
            try:
                own = peek_allocation(datagram).own_port
            except RemoteError:
                return False
            if link.claimed is not None and own != link.claimed:
                return False
            link.claimed = own
        elif not link.member:
            return False
        self._relay.take(port, link.stand_in, datagram, now)
        return True

    def queue(self, link: _Link, port: int, datagram: bytes, now: float) -> None:
        """Queue a datagram, to be sent at the end of this turn."""
        if self.queued > MAX_QUEUED_IN_ALL or link.tls.fileno() not in self._links:
            return
        link.tls.put(port, datagram, now)
        self._count(link)
        self._dirty[link.tls.fileno()] = link

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        now = self._clock()
        for link in dirty.values():
            if link.writes_watched:
                continue  # the socket is full: the loop calls when there is room
            if not self._relay.guard.run("a frame to be sent", self._write, link, now):
                self._drop(link)

    def _write(self, link: _Link, now: float) -> None:
        try:
            link.tls.write(now)
        except RemoteError:
            self._drop(link)
            return
        self._watch_writes(link)

    def _count(self, link: _Link) -> None:
        self.queued += link.tls.queue.size - link.counted
        link.counted = link.tls.queue.size

    def _watch_writes(self, link: _Link) -> None:
        self._count(link)
        if link.tls.fileno() in self._links and link.tls.wants_write != link.writes_watched:
            link.writes_watched = link.tls.wants_write
            self._relay.watch_writes(link.tls.fileno(), wanted=link.writes_watched)

    # -- ends of connections ----------------------------------------------------------------------------------

    def _expire(self, now: float) -> None:
        for link in list(self._links.values()):
            if link.member:
                if now - link.heard > IDLE_S:
                    self._drop(link)
            elif now - link.began > (self._patience_s if link.tls.state is LinkState.SHAKING else LOGIN_S):
                self._drop(link, "timeout")

    def _drop(self, link: _Link, offence: Offence | None = None) -> None:
        if self._links.pop(link.tls.fileno(), None) is None:
            return
        self._relay.forget(link.tls.fileno())
        self._relay.links.pop(link.stand_in, None)
        if link.claimed is not None and self._of_member.get(link.claimed) is link:
            del self._of_member[link.claimed]
        link.tls.close()
        self._count(link)
        if link.member:
            return
        self._unauthenticated.pop(link.ticket, None)
        self.limiter.leave(link.ticket)
        if (
            offence is not None
            and (ban := self.limiter.offend(link.source, offence, self._clock())) is not None
        ):
            _LOG.warning(
                f"{ban.source} is banned from the relay for {ban.left_s:.0f} s: connections that led to no login"
            )


@contextmanager
def accept_connections(
    relay: RelayServer, context: ssl.SSLContext, address: str, ports: Sequence[int]
) -> Iterator[TlsListener]:
    """Listen on TCP ports of the relay's own, while the block runs: for a relay apart, to which nobody passes any.

    A port that another program has is one line for the operator: the others, and UDP, are served all the same.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = TlsListener(relay, context)
    opened: list[socket.socket] = []
    for port in ports:
        try:
            one = _listen(address, port)
        except OSError as error:
            _LOG.warning(f"TCP port {port} cannot be had: {error.strerror or error}")
            continue
        opened.append(one)
        relay.listen(one.fileno(), partial(_accept, one, listener))
    try:
        yield listener
    finally:
        for one in opened:
            relay.forget(one.fileno())
            one.close()
        listener.close()


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    both = family == socket.AF_INET6 and address == "::"
    opened = socket.create_server((address, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    opened.setblocking(False)
    return opened


def _accept(listening: socket.socket, listener: TlsListener) -> None:
    for _ in range(ACCEPTS_PER_TURN):
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        listener.adopt(connection)


@contextmanager
def take_connections(relay: RelayServer, context: ssl.SSLContext, state: Path) -> Iterator[TlsListener]:
    """Take the connections that the mediator passes on, while the block runs.

    If that is impossible it is only logged: UDP is relayed all the same.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one file per connection, besides the ports
    taker = None
    try:
        taker = Taker(state)
    except LocalError as error:
        _LOG.warning(f"{error}: members whose UDP is blocked are not relayed")
    listener = TlsListener(relay, context, taker)
    try:
        yield listener
    finally:
        listener.close()
