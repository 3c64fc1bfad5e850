"""The relay's sockets around `mediator.core.relay_table`.

One UDP socket per member's port. Datagrams are received in batches with `UDP_GRO` and sent with `UDP_SEGMENT`, so a
sender that batches is relayed 64 KB at a time. Single datagrams are read with recvmmsg(2) and batched here, or in C if
that was built (`forwarding`). Only WireGuard message types and the
members' relayed probes are forwarded, and only between bound addresses; other datagrams get no answer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import select
import signal
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple, Protocol

from mediator.core.relay_limits import Limits
from mediator.core.relay_pairs import PairTable
from mediator.core.relay_table import MAX_BINDINGS, Flow, RelayTable
from mediator.shell import native
from mediator.shell.forwarding import Arrival, Arrivals, Native, Ring, Route
from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError
from netctl.model.forpeople import counted
from netctl.model.portspans import spans, spans_text
from netctl.system import mmsg, pktinfo
from netctl.system.guard import Guard
from netctl.wire.datagram import DatagramKind, classify

_LOG = logging.getLogger("mediator.relay")

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
BUFFER = 65536
"""Bytes of one GRO batch."""
CONTROL_SPACE = socket.CMSG_SPACE(4) + pktinfo.SPACE
"""Space for ancillary data: a merged batch's segment size, and the destination address."""
SOCKET_BUFFER = 4 << 20
"""A burst of 64 batches; forced as root, else as far as the system allows."""
MAX_GSO_BYTES = 65_507
"""Most bytes of one UDP GSO send."""
UNMERGED = 2
"""Unmerged datagrams in a row after which many are read per system call."""
BATCHES_PER_TURN = 64
"""Batches read from one socket before others get their turn."""
MIN_MESSAGE = 32
"""The shortest WireGuard message, a keepalive: header and tag."""
EXPIRE_EVERY_S = 5.0
WATCH_EVERY_S = 0.5
"""Interval of checks for changed ports of pairs."""
MAX_ASKED = MAX_BINDINGS
"""Sources remembered with the local address that they use, about 300 bytes each; for others the system chooses one."""
MAX_CACHED_FLOWS = 16384
"""Cached flows: four per member of a full port range; the cache is emptied when it is full."""
RETRY_FIRST_S, RETRY_CAP_S = 1.0, 60.0
"""Pauses between tries of ports that other programs hold: each is twice as long as the one before."""
SPANS_SAID = 16
"""Spans of such ports in one line of the log."""
SPARE_FILES = 64
"""File descriptors besides the ports' sockets."""
_SO_RCVBUFFORCE = 33
_SO_SNDBUFFORCE = 32
_TYPES = frozenset(struct.pack("<I", kind) for kind in (1, 2, 3, 4))
_TRANSPORT = frozenset((struct.pack("<I", 4),))

STAND_IN = "100::"
"""Prefix of the addresses of TLS connections: the discard-only prefix (RFC 6666)."""
RawAddress = tuple[str, int] | tuple[str, int, int, int]


@dataclass(slots=True)
class Counters:
    """Counts of the relay's work, for the log and the tests."""

    forwarded_bytes: int = 0
    dropped_stranger: int = 0
    dropped_type: int = 0
    dropped_rate: int = 0
    """Datagrams beyond a rate or a quota."""
    dropped_nowhere: int = 0
    """Datagrams from port 0, to which no answer is possible (RFC 768)."""


class Link(Protocol):
    """A member that is reached by a TLS connection instead of an address."""

    def put(self, port: int, datagram: bytes, now: float) -> None:
        """Send it a datagram from this relay port."""


class _Way(NamedTuple):
    """A flow in the form that sockets need."""

    flow: Flow
    out: socket.socket
    destination: RawAddress
    local: list[pktinfo.Control]
    link: Link | None


class RelayServer:
    """Sockets for a range of ports. `serve` blocks; `stop` may be called from a signal handler or thread."""

    def __init__(self, bind_address: str, ports: range, table: RelayTable) -> None:
        """Open the ports, but for those that other programs hold: these are tried again while serving.

        Raises LocalError if no port can be had or file descriptors are too few.
        """
        _allow_files(len(ports) + SPARE_FILES)
        self.counters = Counters()
        self.guard = Guard(_LOG.warning)
        """Counts input that raised an unexpected exception."""
        self.table = table
        self.pairs = PairTable(table)
        """The pairs with members without an agent."""
        self.links: dict[SocketAddress, Link] = {}
        """Members over TLS, by the address of their connection."""
        self._after: list[Callable[[], None]] = []
        self._watches: list[Callable[[float], None]] = []
        self._watch_at = 0.0
        self._readers: dict[int, Callable[[], None]] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._unbound: dict[int, socket.socket] = {}
        """Sockets of the ports that another program holds."""
        self.ports = ports
        """The range, with the ports that this relay does not hold."""
        self._retry = 0.0
        self._retry_s = RETRY_FIRST_S
        self._port_of: dict[int, int] = {}
        self._flows: dict[tuple[int, RawAddress], _Way | None] = {}
        self._flows_of = -1
        self._asked: OrderedDict[tuple[int, SocketAddress], str] = OrderedDict()
        self._poll = select.epoll()
        self._dual = ":" in bind_address
        self._wake_out, self._wake_in = socket.socketpair()
        self._poll.register(self._wake_in, select.EPOLLIN)
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        forwarder = native.load()
        self._native = (
            Native(forwarder, socket.AF_INET6 if self._dual else socket.AF_INET)
            if forwarder is not None
            else None
        )
        self._ring = Ring() if mmsg.AVAILABLE and self._native is None else None
        self._running = True
        self._unix: Callable[[], float] = time.time
        self._bind_address = bind_address
        refused: OSError | None = None
        try:
            for port in ports:
                self._unbound[port] = self._socket()
            for port in ports:
                refused = self._bind(port) or refused
        except OSError as error:
            self.close()
            raise LocalError(f"the relay cannot open its sockets: {error.strerror}") from None
        if refused is not None and not self._sockets:
            self.close()
            raise LocalError(
                f"the relay cannot listen on UDP {bind_address} port {spans_text([(ports[0], ports[-1])])}: "
                f"{refused.strerror}; free the ports or choose another relayPorts range"
            )
        self._note_unheld()
        if self._unbound:
            _LOG.warning(f"{self._unheld_text()}; the relay works with the others, and tries these again")
            self.watch(self._bind_again)

    @property
    def unheld(self) -> frozenset[int]:
        """The ports of the range that another program holds, so that no packet can be relayed at them."""
        return frozenset(self._unbound)

    def _note_unheld(self) -> None:
        self.table.unheld = self.unheld

    def _unheld_text(self) -> str:
        found = spans(self._unbound)
        more = ", …" if len(found) > SPANS_SAID else ""
        return (
            f"{len(self._unbound)} of {counted(len(self.ports), 'relay port')} cannot be had, because other programs "
            f"hold them: UDP {spans_text(found[:SPANS_SAID])}{more}"
        )

    def _bind_again(self, now: float) -> None:
        """Try the ports that were not free, if that is due."""
        if not self._unbound or now < self._retry:
            return
        if not self._retry:
            self._retry = now + self._retry_s
            return
        before = self.unheld
        for port in before:
            self._bind(port)
        if gained := before - self.unheld:
            self._note_unheld()
            left = self._unheld_text() if self._unbound else "the relay has all its ports"
            _LOG.info(f"UDP {spans_text(spans(gained)[:SPANS_SAID])} can be had by now; {left}")
        self._retry_s = min(2 * self._retry_s, RETRY_CAP_S)
        self._retry = now + self._retry_s

    def _bind(self, port: int) -> OSError | None:
        """Bind a socket of `_unbound`; why it cannot be."""
        sock = self._unbound[port]
        try:
            sock.bind((self._bind_address, port))
        except OSError as error:
            return error
        del self._unbound[port]
        self._sockets[port] = sock
        self._port_of[sock.fileno()] = port
        self._poll.register(sock, select.EPOLLIN)
        return None

    def _socket(self) -> socket.socket:
        """A socket for a port, with all options: a relay without rights can bind it later. Raises OSError."""
        family = socket.AF_INET6 if self._dual else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if self._dual:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if self._bind_address == "::" else 1)
        for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER)
        with contextlib.suppress(OSError):  # a kernel before 5.0: only slower
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        pktinfo.ask(sock)
        return sock

    def serve(
        self,
        clock: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] | None = None,
    ) -> None:
        """Relay until `stop`. `unix`: the clock for the expiry of grants."""
        self._unix = unix = unix or self._unix
        expire_at = clock() + EXPIRE_EVERY_S
        while self._running:
            for fileno, _ in self._poll.poll(WATCH_EVERY_S if self._watches else EXPIRE_EVERY_S):
                port = self._port_of.get(fileno)
                if port is not None:
                    self.guard.run("what came to a port", self._drain, port, clock(), unix)
                elif fileno in self._readers:
                    self.guard.run("what a connection brought", self._readers[fileno])
            for call in self._after:
                self.guard.run("what waited to be sent", call)
            now = clock()
            if now >= expire_at:
                expire_at = now + EXPIRE_EVERY_S
                self.guard.run("a look for what is over", self.table.expire, now)
                self.guard.run("a look for pairs that are over", self.pairs.expire, now)
            if now >= self._watch_at:
                self._watch_at = now + WATCH_EVERY_S
                self.settle()
                for watch in self._watches:
                    self.guard.run("a look at what changed", watch, now)

    def watch(self, call: Callable[[float], None]) -> None:
        """Call a function about every `WATCH_EVERY_S` while serving."""
        self._watches.append(call)

    def listen(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call a function whenever the descriptor is readable."""
        self._readers[descriptor] = call
        self._poll.register(descriptor, select.EPOLLIN)

    def watch_writes(self, descriptor: int, *, wanted: bool) -> None:
        """Call the function of `listen` also when the descriptor is writable."""
        self._poll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def forget(self, descriptor: int) -> None:
        """End a `listen`, before the descriptor is closed."""
        if self._readers.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError, ValueError):  # closed already
                self._poll.unregister(descriptor)

    def after_turn(self, call: Callable[[], None]) -> None:
        """Call a function after each turn of `serve`, e.g. to send the turn's datagrams together."""
        self._after.append(call)

    def take(
        self,
        port: int,
        source: SocketAddress,
        datagram: bytes,
        now: float,
        unix: Callable[[], float] | None = None,
    ) -> None:
        """Handle a datagram from one of `links` to one of our ports."""
        if port in self._sockets:
            raw = (source.host, source.port)
            self._batch(port, raw, memoryview(datagram), len(datagram), now, unix or self._unix, ())
        else:
            self.counters.dropped_stranger += 1

    @property
    def data_path(self) -> str:
        """How datagrams are moved, as text for people."""
        return "native" if self._native is not None else "Python"

    def settle(self) -> None:
        """Make the counts of passed bytes exact."""
        if self._native is not None:
            self._native.settle()

    def stop(self) -> None:
        """Make `serve` return soon."""
        self._running = False
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")

    def close(self) -> None:
        """Close every socket."""
        self._poll.close()
        self._wake_in.close()
        self._wake_out.close()
        for sock in (*self._sockets.values(), *self._unbound.values()):
            sock.close()

    def _drain(self, port: int, now: float, unix: Callable[[], float]) -> None:
        sock = self._sockets[port]
        if self._native is not None:
            self._look_at_generation()
            self._take_all(self._native, port, now, unix)
            forwarded, nowhere = self._native.counts()
            self.counters.forwarded_bytes += forwarded
            self.counters.dropped_nowhere += nowhere
            return
        unmerged = 0
        for _ in range(BATCHES_PER_TURN):
            if unmerged >= UNMERGED and self._ring is not None:
                self._take_all(self._ring, port, now, unix)
                return
            try:
                size, extra, _, address = sock.recvmsg_into([self._buffer], CONTROL_SPACE)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier send: no sender to tell
            segment = size
            for level, kind, value in extra:
                if level == SOL_UDP and kind == UDP_GRO:
                    segment = int.from_bytes(value[:4], "little")
            unmerged = unmerged + 1 if segment == size else 0
            if not address[1]:
                self.counters.dropped_nowhere += 1
                continue
            self._batch(port, address, self._view[:size], segment, now, unix, extra)

    def _take_all(self, arrivals: Arrivals, port: int, now: float, unix: Callable[[], float]) -> None:
        types = self._types(port)
        for arrival in arrivals.take(self._sockets[port].fileno(), port):
            self._take(arrival, port, types, now, unix)

    def _take(
        self,
        arrival: Arrival,
        port: int,
        types: frozenset[bytes],
        now: float,
        unix: Callable[[], float],
    ) -> None:
        """Handle datagrams of one source and size; forward them by few sends."""
        address, parts, size = self._address(arrival.source), arrival.parts, arrival.size
        if not address[1]:
            self.counters.dropped_nowhere += len(parts)
        elif (
            arrival.segment < size
            or len(parts) == 1
            or size < MIN_MESSAGE
            or not all(bytes(part[:4]) in types for part in parts)
        ):
            extra = arrival.extra()
            for part in parts:
                self._batch(port, address, part, arrival.segment, now, unix, extra)
        else:
            most = max(1, min(MAX_GSO_BYTES // size, mmsg.COUNT))
            for start in range(0, len(parts), most):
                some = parts[start : start + most]
                self._forward(port, address, some, size * len(some), size, now)

    def _batch(
        self,
        port: int,
        address: RawAddress,
        batch: memoryview,
        segment: int,
        now: float,
        unix: Callable[[], float],
        extra: Sequence[pktinfo.Control],
    ) -> None:
        """Handle one received batch, merged or not, with its ancillary data."""
        size = len(batch)
        types = self._types(port)
        starts = range(0, size, max(segment, 1))
        tail = size - starts[-1] if size else 0
        if tail >= MIN_MESSAGE and all(bytes(batch[at : at + 4]) in types for at in starts):
            self._forward(port, address, [batch], size, segment, now)
            return
        # GRO may have merged a refresh behind data of the same flow.
        for start in starts:
            data = batch[start : start + segment]
            if len(data) >= MIN_MESSAGE and bytes(data[:4]) in types:
                self._forward(port, address, [data], len(data), len(data), now)
            else:
                # One by one: a failure must not affect the datagrams merged with it.
                self.guard.run("a datagram", self._control, port, address, bytes(data), now, unix(), extra)

    def _forward(
        self, port: int, address: RawAddress, parts: list[memoryview], size: int, segment: int, now: float
    ) -> None:
        """Forward `size` bytes as datagrams of `segment` bytes, which the kernel gathers from `parts`."""
        flow = self._flow(port, address, now)
        if flow is None and port in self.pairs:
            first = parts[0][:segment]
            if self.pairs.transport(port, first, _canonical(address), now) is not None:
                flow = self._flow(port, address, now)
        if flow is None:
            self.counters.dropped_stranger += -(-size // segment)
            return
        known, out, destination, local, link = flow
        if not known.toll.take(size, now):
            self.counters.dropped_rate += -(-size // segment)
            return
        if known.heard is not None:
            last = parts[-1]
            known.heard.note(last[(len(last) - 1) // segment * segment :], now)
        if link is not None:
            for part in parts:
                for start in range(0, len(part), segment):
                    link.put(known.port, bytes(part[start : start + segment]), now)
            self.counters.forwarded_bytes += size
            return
        merged = segment < size
        options = [(SOL_UDP, UDP_SEGMENT, struct.pack("H", segment)), *local] if merged else local
        # Not for TLS, which has no UDP socket, nor for apps, whose datagrams must all be read.
        if self._native is not None and known.heard is None and not address[0].startswith(STAND_IN):
            self._native.allow(
                port,
                _source_of(address),
                Route(out.fileno(), _source_of(destination), local),
                known.toll,
                now,
                transport_only=port in self.pairs,
            )
        try:
            out.sendmsg(parts, options, 0, destination)
            self.counters.forwarded_bytes += size
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EMSGSIZE, errno.EIO) and merged:
                self._send_singly(flow, parts, segment)

    def _send_singly(self, way: _Way, parts: list[memoryview], segment: int) -> None:
        """Send datagrams one by one: the device has no segmentation, or the batch is too long for it."""
        with contextlib.suppress(OSError):
            for part in parts:
                for start in range(0, len(part), segment):
                    way.out.sendmsg([part[start : start + segment]], way.local, 0, way.destination)
                self.counters.forwarded_bytes += len(part)

    def _flow(self, port: int, address: RawAddress, now: float) -> _Way | None:
        self._look_at_generation()
        key = (port, address)
        if key in self._flows:
            return self._flows[key]
        source = _canonical(address)
        if _forged(address):
            return None
        flow = (self.pairs if port in self.pairs else self.table).flow(port, source, now)
        found = None
        link = self.links.get(flow.destination) if flow is not None else None
        if flow is not None and (link is not None or not _stands_in(flow.destination)):
            out = self._sockets[flow.port]
            local = self._leave_from(flow.port, flow.destination)
            found = _Way(flow, out, self._raw(flow.destination), local, link)
        self._flows[key] = found
        return found

    def _look_at_generation(self) -> None:
        """Forget cached flows after a change of the table."""
        if self._flows_of != self.table.generation or len(self._flows) > MAX_CACHED_FLOWS:
            self._forget_flows()
            self._flows_of = self.table.generation

    def _forget_flows(self) -> None:
        self._flows.clear()
        if self._native is not None:
            self._native.forget()

    def _types(self, port: int) -> frozenset[bytes]:
        """Message types that are forwarded unread; at the port of a pair handshakes are read."""
        return _TRANSPORT if port in self.pairs else _TYPES

    def _control(
        self,
        port: int,
        address: RawAddress,
        data: bytes,
        now: float,
        unix_now: float,
        extra: Sequence[pktinfo.Control],
    ) -> None:
        source = _canonical(address)
        if _forged(address):
            return
        if port in self.pairs and data[:4] in _TYPES:
            answers = self.pairs.handshake(port, data, source, now)
            self.counters.forwarded_bytes += len(data) if answers else 0
            self.counters.dropped_stranger += not answers
        elif (kind := classify(data)) is DatagramKind.RELAY:
            answers = self.table.handle_control(data, source, port, now, unix_now, at_pair=port in self.pairs)
        elif kind is DatagramKind.RELAYED_PROBE and port not in self.pairs:
            self._forward(port, address, [memoryview(data)], len(data), len(data), now)
            return
        else:
            self.counters.dropped_type += 1
            return
        if answers and not _stands_in(source):
            self._remember(port, source, pktinfo.asked_at(extra))
        for answer in answers:
            if _stands_in(answer.destination):
                if (link := self.links.get(answer.destination)) is not None:
                    link.put(answer.port, answer.data, now)
                continue
            out = self._sockets[answer.port]
            local = self._leave_from(answer.port, answer.destination)
            with contextlib.suppress(OSError):
                out.sendmsg([answer.data], local, 0, self._raw(answer.destination))

    def _remember(self, port: int, source: SocketAddress, asked: str) -> None:
        """Remember which of our addresses an admitted source uses."""
        known = self._asked.get((port, source))
        self._asked[port, source] = asked
        self._asked.move_to_end((port, source))
        if known != asked:
            self._forget_flows()
        while len(self._asked) > MAX_ASKED:
            self._asked.popitem(last=False)

    def _leave_from(self, port: int, destination: SocketAddress) -> list[pktinfo.Control]:
        """Ancillary data that sends from the remembered address."""
        return pktinfo.leave_from(self._asked.get((port, destination), ""), self._sockets[port].family)

    def _address(self, source: tuple[str, int, int]) -> RawAddress:
        host, port, scope = source
        return (host, port, 0, scope) if self._dual else (host, port)

    def _raw(self, address: SocketAddress) -> RawAddress:
        if self._dual and not address.is_ipv6:
            return (f"::ffff:{address.host}", address.port)
        return (address.host, address.port)


def _source_of(address: RawAddress) -> tuple[str, int, int]:
    """An address in the form of `forwarding`."""
    return address[0].partition("%")[0], address[1], address[3] if len(address) == 4 else 0


def _stands_in(address: SocketAddress) -> bool:
    return address.host.startswith(STAND_IN)


def _forged(address: RawAddress) -> bool:
    """Whether a real datagram (a dual socket's address has four parts) claims the address of a TLS connection."""
    return len(address) == 4 and address[0].startswith(STAND_IN)


def _canonical(address: RawAddress) -> SocketAddress:
    return SocketAddress.of(address[0].partition("%")[0], address[1])


def _allow_files(wanted: int) -> None:
    """Raise the soft limit of open files to `wanted`. Raises LocalError if the hard limit forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError):
        raise LocalError(
            f"the relay needs {wanted} open files, the limit is {hard}: raise LimitNOFILE or narrow relayPorts"
        ) from None


def run_relay(
    bind_address: str,
    port_range: tuple[int, int],
    secret: bytes,
    cookie_secret: bytes,
    *,
    limits: Limits | None = None,
    unix: Callable[[], float] = time.time,
    ready: Callable[[], None] = lambda: None,
    also: Callable[[RelayServer], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> None:
    """Relay on ports first to last (inclusive) until SIGTERM or SIGINT; for a separate process.

    `bind_address` ``::`` serves both IP versions; packets to a member leave from the address that the member uses.
    `secret` is shared with the mediator, `cookie_secret` is 32 fresh random bytes. `unix`: the clock for the expiry of
    grants, the mediator's own. `also`: other work in the relay's loop. Raises LocalError as `RelayServer`.
    """
    ports = range(port_range[0], port_range[1] + 1)
    server = RelayServer(bind_address, ports, RelayTable(secret, cookie_secret, ports, limits))

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        with also(server):
            ready()
            server.serve(unix=unix)
    finally:
        server.close()
