"""Transport for blocked UDP: one TLS connection to a relay, and a loopback address for each peer.

state        event                          next
UNWANTED     wanted                         CONNECTING
CONNECTING   TLS is up, its pin is right    UP
CONNECTING   an error                       WAITING: with full jitter, then the next port
UP           lost                           WAITING
UP           routes changed, no answer      CONNECTING
any          unwanted                       UNWANTED, after `LINGER_S` when UP

It leads to the mediator's relay, or where that cannot be reached to a relay apart that the document gives TCP ports
(`tls`), in the document's order. While the mediator is away, relays apart are tried first.

An engine sends only datagrams. So its endpoint for a peer is a loopback address of this module. Packets to the address
become frames for the relay's port of that peer, and frames from that port become packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import ssl
import time
from collections.abc import Callable

from netctl.agent.log import warn
from netctl.agent.mediators.proxy import connect, proxy_for
from netctl.model.addresses import Address, SocketAddress
from netctl.model.document import Mediator
from netctl.model.errors import NetctlError, RemoteError
from netctl.node.snapshot import TunnelStatus
from netctl.session import PROOF_S, Backoff
from netctl.system.guard import Guard
from netctl.system.pinned import client_context, is_relay_of
from netctl.system.tasks import Tasks
from netctl.system.tlslink import LinkState, TlsLink
from netctl.wire.datagram import DatagramKind, classify
from netctl.wire.relayframe import MAX_DATAGRAM, RELAY_ALPN

CONNECT_TIMEOUT_S = 10.0
"""For DNS, TCP, the proxy and TLS together; a slow satellite link needs 4 s."""
LINGER_S = 10.0
"""How long connection and address stay after UDP has taken over, so that packets in flight arrive."""
RETRY_BASE_S = 1.0
RETRY_CAP_S = 30.0
"""A relay restarts within a second; without it, its pairs have no path."""
STABLE_S = 30.0
"""A connection that lasted so long resets the back-off."""
DIAL_AGAIN_S = 1.0
"""Age at which a connection attempt is restarted when routes change, as TCP itself would retry no sooner."""
DRAIN = 128
"""Most datagrams read from one peer before others get their turn."""
BUFFER = 1 << 20
"""Bytes of buffer of a peer's socket: a burst of the engine."""


class _Peer:
    """The loopback address of one peer."""

    def __init__(self, address: SocketAddress, engine_port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self.socket.setsockopt(socket.SOL_SOCKET, option, BUFFER)
            self.socket.bind((address.host, address.port))
            self.socket.connect(("127.0.0.1", engine_port))  # the kernel drops other senders' datagrams
        except OSError:
            self.socket.close()
            raise


class RelayTls:
    """Keeps the TLS connection to the relay while it is wanted. For the agent's event loop."""

    def __init__(
        self,
        on_state: Callable[[bool, str], None],
        on_message: Callable[[int, bytes], None],
        guard: Guard | None = None,
    ) -> None:
        """`on_state`: the connection came (True) or went, and the relay to which it leads: its name, or empty for
        the mediator's. `on_message`: a message of the relay itself about a port.

        `guard` counts input with unexpected exceptions.
        """
        self._guard = guard if guard is not None else Guard(warn)
        self._tasks = Tasks(self._guard)
        self._on_state = on_state
        self._on_message = on_message
        self._mediators: tuple[Mediator, ...] = ()
        self._names = False
        self._relays: tuple[Mediator, ...] = ()
        """Relays apart with TCP ports."""
        self._away = False
        """Whether the control connection is lost."""
        self._next_place = 0
        """The next of `_places` to connect to."""
        self._name = ""
        """The relay of the present connection, as `on_state` names it."""
        self._engine_port = 0
        self._peers: dict[int, _Peer] = {}
        self._addresses: dict[int, SocketAddress] = {}
        self._closing: dict[int, asyncio.TimerHandle] = {}
        self._link: TlsLink | None = None
        self._poked = asyncio.Event()
        self._shaken = asyncio.Event()
        """Set once the handshake has succeeded or failed."""
        self._writing = False
        self._flush_due: asyncio.Handle | None = None
        self._wanted = False
        self._linger: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[str] | None = None
        self._status = TunnelStatus("unwanted")
        self._dropped = 0
        self._dialling: asyncio.Timeout | None = None
        self._doubted = False
        """Routes have changed since the relay last answered."""
        self._proof_due: asyncio.TimerHandle | None = None

    # -- requests of the path manager -----------------------------------------------------------------------

    def use(self, mediators: tuple[Mediator, ...], *, names: bool = False) -> None:
        """Set the mediators whose relays to use, one of which is connected; a change ends the present connection.

        `names`: `on_state` is told which of them.
        """
        self._away = False
        if (mediators, names) != (self._mediators, self._names):
            self._mediators, self._names = mediators, names
            self._finish("the document names other mediators now")

    def also(self, relays: tuple[Mediator, ...]) -> None:
        """Set the relays apart that can be reached over TLS."""
        if relays != self._relays:
            self._relays = relays
            if self._name and self._name not in (one.relay_name for one in (*self._mediators, *relays)):
                self._finish("the document names that relay no more")
            self._poked.set()

    def mediator_gone(self) -> None:
        """The control connection is lost: perhaps with the mediator's whole machine."""
        if not self._away:
            self._away, self._next_place = True, 0
            self._poked.set()

    def _places(self) -> list[tuple[Mediator, int]]:
        """Where to connect to, in order."""
        beside = [(mediator, port) for mediator in self._mediators for port in mediator.tcp_ports]
        apart = [(relay, port) for relay in self._relays for port in relay.tls]
        return [*apart, *beside] if self._away else [*beside, *apart]

    def moved(self) -> None:
        """After a change of this host's addresses: end a connection from a lost address, and retry now."""
        if self._link is not None and not _ours(self._link.local):
            self._lost(self._link, "this host has another address now")
        self._poked.set()

    def prove(self) -> None:
        """Routes have changed: make a new connection unless the relay answers the next message within `PROOF_S`.

        While bytes arrive, the wait goes on: on a slow connection the answer comes behind them. TCP itself
        would repeat lost segments after ever longer times before it used the new route.
        """
        if self._link is not None:
            self._doubted = True
            return
        self._poked.set()
        dialling = self._dialling
        if dialling is not None and time.monotonic() - self._status.since > DIAL_AGAIN_S:
            dialling.reschedule(asyncio.get_running_loop().time())

    def _unproven(self, link: TlsLink, arrived: int) -> None:
        """The time for the proof is over. `arrived`: bytes that had come when it began."""
        self._proof_due = None
        if link is self._link and link.arrived > arrived:
            self._await_proof(link)
        elif link is self._link:
            self._lost(link, "the relay does not answer since this host's addresses or routes have changed")
            self._poked.set()

    def _await_proof(self, link: TlsLink) -> None:
        self._proof_due = asyncio.get_running_loop().call_later(PROOF_S, self._unproven, link, link.arrived)

    def _proven(self) -> None:
        self._doubted = False
        if self._proof_due is not None:
            self._proof_due.cancel()
            self._proof_due = None

    def engine(self, port: int) -> None:
        """Set the engine's UDP port; 0: none."""
        if port == self._engine_port:
            return
        self._engine_port = port
        for number, address in list(self._addresses.items()):
            self._close_peer(number)
            self._open_peer(number, address)

    def want(self, wanted: bool) -> None:
        """Set whether any pair needs the connection."""
        self._wanted = wanted
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if wanted and self._task is None:
            self._task = self._tasks.keep("the connection to the relay", self._run)
        elif not wanted and self._task is not None:
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self._stop)

    def stand_in(self, address: SocketAddress, wanted: bool) -> None:
        """Open or close the loopback address of a peer; its port number is the relay's port for that peer."""
        number = address.port
        if (closing := self._closing.pop(number, None)) is not None:
            closing.cancel()
        if wanted:
            if self._addresses.get(number) != address:
                self._close_peer(number)
                self._addresses[number] = address
                self._open_peer(number, address)
        elif number in self._addresses:
            loop = asyncio.get_running_loop()
            self._closing[number] = loop.call_later(LINGER_S, self._forget, number)

    def send(self, port: int, datagram: bytes) -> None:
        """Send a datagram to a port of the relay; dropped without a connection."""
        link = self._link
        if link is None:
            return
        link.put(port, datagram, time.monotonic())
        self._soon()
        if self._doubted and self._proof_due is None and classify(datagram) is DatagramKind.RELAY:
            self._await_proof(link)

    def status(self) -> TunnelStatus:
        """The present state of the connection."""
        now = self._status
        dropped = self._dropped + (self._link.queue.dropped if self._link is not None else 0)
        return TunnelStatus(now.state, now.at, now.proxy, now.since, now.error, dropped)

    def close(self) -> None:
        """Close the connection and all sockets."""
        self._stop()
        for timer in self._closing.values():
            timer.cancel()
        for number in list(self._addresses):
            self._forget(number)

    # -- peers ---------------------------------------------------------------------------------------------

    def _open_peer(self, number: int, address: SocketAddress) -> None:
        if not self._engine_port:
            return
        try:
            peer = _Peer(address, self._engine_port)
        except OSError as error:
            warn(f"{address} cannot stand in for a peer whose packets go over TLS: {error.strerror}")
            return
        self._peers[number] = peer
        asyncio.get_running_loop().add_reader(peer.socket.fileno(), self._from_engine, number, peer)

    def _close_peer(self, number: int) -> None:
        peer = self._peers.pop(number, None)
        if peer is not None:
            asyncio.get_running_loop().remove_reader(peer.socket.fileno())
            peer.socket.close()

    def _forget(self, number: int) -> None:
        self._closing.pop(number, None)
        self._addresses.pop(number, None)
        self._close_peer(number)

    def _from_engine(self, number: int, peer: _Peer) -> None:
        now = time.monotonic()
        link = self._link
        for _ in range(DRAIN):
            try:
                datagram = peer.socket.recv(MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error: the engine's port is closed now
            if link is not None:
                link.put(number, datagram, now)
        if link is not None:
            self._write(link)

    def _to_engine(self, port: int, datagram: bytes) -> None:
        kind = classify(datagram)
        if kind is DatagramKind.RELAY:
            self._proven()
        if kind in (DatagramKind.RELAY, DatagramKind.RELAYED_PROBE):
            self._on_message(port, datagram)
            return
        peer = self._peers.get(port)
        if peer is not None:
            with contextlib.suppress(OSError):  # full, or no engine: counts as a lost datagram
                peer.socket.send(datagram)

    # -- the connection ------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._linger = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._drop_link()
        self._status = TunnelStatus("unwanted")

    def _finish(self, reason: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)

    async def _run(self) -> None:
        backoff = Backoff(RETRY_BASE_S, RETRY_CAP_S)
        self._next_place = 0
        while True:
            places = self._places()
            error = "the document names no mediator"
            if places:
                mediator, port = places[self._next_place % len(places)]
                self._next_place += 1
                began = time.monotonic()
                error = await self._once(mediator, port)
                if time.monotonic() - began > STABLE_S:
                    backoff.reset()
                    self._next_place = max(0, self._next_place - 1)  # use the same place again
            self._status = TunnelStatus("waiting", self._status.at, None, time.monotonic(), error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), backoff.next_delay(random.random()))
                backoff.reset()

    async def _once(self, mediator: Mediator, port: int) -> str:
        """Run one connection; returns why it ended."""
        where = f"{mediator.host}:{port}"
        self._status = TunnelStatus("connecting", where, None, time.monotonic(), self._status.error)
        self._ended = asyncio.get_running_loop().create_future()
        try:
            self._poked.clear()  # a later change causes another attempt at once
            async with asyncio.timeout(CONNECT_TIMEOUT_S) as self._dialling:
                proxy = proxy_for(mediator.host)
                await self._dial(mediator, port)
        except TimeoutError:
            return f"{where} does not answer over TCP"
        except NetctlError as error:
            return str(error)
        except OSError as error:
            return f"cannot reach the relay at {where}: {error.strerror or error}"
        finally:
            self._dialling = None
        self._name = mediator.relay_name if mediator.relay_only or self._names else ""
        via = str(proxy) if proxy is not None else None
        self._status = TunnelStatus("up", where, via, time.monotonic())
        warn(
            f"nothing is answered over UDP: the relay is reached over TLS at {where}"
            + (f" through the proxy {via}" if via else "")
        )
        try:
            self._poked.clear()
            self._on_state(True, self._name)
            reason = await self._ended
            warn(f"the relay over TLS at {where} is lost: {reason}")
            return reason
        finally:
            self._drop_link()

    async def _dial(self, mediator: Mediator, port: int) -> None:
        loop = asyncio.get_running_loop()
        raw = (await connect(mediator.host, port)).socket
        try:
            link = TlsLink(raw, client_context(RELAY_ALPN), server=False, name=mediator.host)
        except OSError:
            raw.close()
            raise
        self._writing = False
        self._shaken.clear()
        loop.add_reader(link.fileno(), self._turn, link)
        assert self._ended is not None
        try:
            self._turn(link)
            await self._shaken.wait()
            if link.state is LinkState.CLOSED:
                raise RemoteError(
                    self._ended.result() if self._ended.done() else "the connection was lost", "tls"
                )
            if link.protocol != RELAY_ALPN:
                raise RemoteError(f"{mediator.host}:{port} has no relay over TLS", "tls")
            if not is_relay_of(link.certificate, mediator.identity):
                raise RemoteError(
                    f"{mediator.host}:{port} is not the relay of the mediator that the document pins",
                    "login.wrong-pin",
                )
        except BaseException:
            self._release(link)
            raise
        self._link = link  # only now: nothing is sent to a server without a pinned identity

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        self._proven()
        if link is None:
            return
        self._dropped += link.queue.dropped
        self._release(link)
        if self._status.state == "up":
            self._on_state(False, self._name)

    def _turn(self, link: TlsLink) -> None:
        """Read and write. An unexpected exception ends the connection, which would else stay readable for ever."""
        try:
            self._read(link)
        except Exception as error:
            self._guard.caught("what came over TLS", error)
            self._lost(link, "what came over it could not be handled")

    def _read(self, link: TlsLink) -> None:
        try:
            frames = link.turn(time.monotonic())
        except (RemoteError, ssl.SSLError) as error:
            self._lost(link, str(error))
            return
        if link.state is LinkState.OPEN:
            self._shaken.set()
        if link is self._link:
            for port, datagram in frames:
                self._guard.run("a frame", self._to_engine, port, datagram)
        self._watch_writes(link)

    def _write(self, link: TlsLink) -> None:
        if self._writing:
            return  # the socket is full: the loop calls when there is room
        try:
            link.write(time.monotonic())
        except RemoteError as error:
            self._lost(link, str(error))
            return
        self._watch_writes(link)

    def _soon(self) -> None:
        """Write the queue once, at the end of this turn of the loop."""
        if self._flush_due is None:
            self._flush_due = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = None
        if self._link is not None:
            self._write(self._link)

    def _watch_writes(self, link: TlsLink) -> None:
        if link.closed or link.wants_write == self._writing:
            return
        self._writing = link.wants_write
        loop = asyncio.get_running_loop()
        if self._writing:
            loop.add_writer(link.fileno(), self._turn, link)
        else:
            loop.remove_writer(link.fileno())

    def _lost(self, link: TlsLink, reason: str) -> None:
        self._release(link)
        self._finish(reason)
        self._shaken.set()

    def _release(self, link: TlsLink) -> None:
        """Remove the link from the loop, then close it: else the loop would keep a number that is reused."""
        if link.closed:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(link.fileno())
        loop.remove_writer(link.fileno())
        link.close()


def _ours(address: Address) -> bool:
    """Whether this host has the address now."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True
