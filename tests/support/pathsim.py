"""A tiny deterministic internet for path managers: a jumping clock, NATs after RFC 4787, a mediator, a relay.

Everything that decides is real (PathManager, RelayTable, the codecs); only wires, NATs and WireGuard itself
are models. WireGuard is modelled by what matters here: it sends to its endpoint and roams to the source of
what it hears.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mediator.core.introducer import PUNCH_AFTER_MS
from mediator.core.relay_grants import grant
from mediator.core.relay_table import RelayTable
from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.paths.constants import ECHOES, LAZY_IDLE
from netctl.paths.effects import (
    AnotherPort,
    CloseBatch,
    Effect,
    Fold,
    LimitSize,
    LivenessChanged,
    LookSoon,
    OpenBatch,
    OpenTunnel,
    PathChanged,
    Rewrite,
    SendControl,
    SendDatagram,
    SendEcho,
    SendFrame,
    SendFrom,
    SendThrough,
    SetEndpoint,
    StandIn,
    WantTunnel,
)
from netctl.paths.manager import PathManager
from netctl.wire import stun
from netctl.wire.control import Candidate, Candidates, Introduction, Punch, RelayGrant, RelayRequest
from netctl.wire.datagram import DatagramKind, classify
from netctl.wire.wireguard import INITIATION, INITIATION_LEN, RESPONSE, RESPONSE_LEN, TRANSPORT

WAN_DELAY = 0.010
LAN_DELAY = 0.001
MEDIATOR = "198.51.100.1"
MEDIATOR6 = "2001:db8:ff::1"
STUN6 = [SocketAddress(MEDIATOR6, 3478), SocketAddress(MEDIATOR6, 3479)]
STUN = [SocketAddress(MEDIATOR, 3478), SocketAddress(MEDIATOR, 3479)]
RELAY_PORTS = range(40000, 40100)
SECRET = bytes(range(32))
THROUGH = 2**32 - 1
"""Sequence number of what goes through the tunnel because a peer asked for it, or this host was suspended."""
ECHO, REPLY = 2**31, 2**30
"""Sequence numbers from ECHO on are echo requests through the tunnel, with REPLY more their replies."""
KEEPALIVE = 2**32 - 2
"""Sequence number of WireGuard's keepalives."""
KEEPALIVE_LEN = 32
KEEPALIVE_S = 10.0
UNIX_EPOCH = 1_800_000_000.0
DOORBELLS = 7
"""The port of all doorbells."""
RESTING_S = 10
"""Between looks at an engine all of whose peers are folded up, as the agent does it."""
SESSION_S = 180.0
"""Of WireGuard, after the last packet at most."""
REKEY_TIMEOUT_S, REKEY_JITTER_S = 5.0, 0.334
"""WireGuard sends no two initiations to a peer within the first; it tries again after both, the second at random."""


def length(sequence: int) -> int:
    """Bytes of the WireGuard message with this sequence number."""
    if sequence == KEEPALIVE:
        return KEEPALIVE_LEN
    return ECHOES[0] if ECHO <= sequence < KEEPALIVE else 100


def _private(index: int) -> bytes:
    return bytes([index + 1]) * 32


def _public(private: bytes) -> WireGuardKey:
    return WireGuardKey(X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw())


class Nat:
    """Port-restricted filter; `symmetric` gives every destination another port; no hairpin.

    `ports` chooses the port of a symmetric one's next flow. One that `accepts` takes an early packet from outside
    for itself, as many Linux routers do: a flow of a host to there then gets another port than its own.
    `tests/world/world_boxes.py` has the other kinds, and rows of boxes.
    """

    isolated = False
    """Hosts behind it see one another."""

    def __init__(
        self,
        public: str,
        *,
        symmetric: bool = False,
        ports: Callable[[], int] | None = None,
        accepts: bool = False,
        blocked: Callable[[SocketAddress], bool],
    ) -> None:
        self.public = public
        self.symmetric = symmetric
        self.ports = ports
        self.accepts = accepts
        self._taken: set[tuple[int, SocketAddress]] = set()
        self._clashed: dict[tuple[SocketAddress, SocketAddress], int] = {}
        self.blocked = blocked
        self._out: dict[tuple[SocketAddress, SocketAddress | None], int] = {}
        self._back: dict[int, SocketAddress] = {}
        self._allowed: set[tuple[int, SocketAddress]] = set()
        self._next = 61000
        self.forwarded: dict[int, SocketAddress] = {}
        """Ports mapped by request (PCP and the like): open for everybody."""

    def outbound(self, source: SocketAddress, destination: SocketAddress) -> SocketAddress | None:
        if self.blocked(destination):
            return None
        if self.accepts and (source.port, destination) in self._taken:
            port = self._clashed.setdefault((source, destination), 30000 + len(self._clashed))
            self._back[port] = source
            self._allowed.add((port, destination))
            return SocketAddress(self.public, port)
        flow = (source, destination if self.symmetric else None)
        if flow not in self._out:
            port = source.port if not self.symmetric and source.port not in self._back else self._next_port()
            self._out[flow] = port
            self._back[port] = source
        port = self._out[flow]
        self._allowed.add((port, destination))
        return SocketAddress(self.public, port)

    def _next_port(self) -> int:
        self._next += 7
        while self.ports is not None:
            port = self.ports()
            if port not in self._back:
                return port
        return self._next - 7

    def inbound(self, source: SocketAddress, port: int) -> SocketAddress | None:
        if self.accepts and (port, source) not in self._allowed:
            self._taken.add((port, source))
        if port in self.forwarded and not self.blocked(source):
            self._out[self.forwarded[port], source if self.symmetric else None] = port  # answers leave by it
            return self.forwarded[port]
        return self._back.get(port) if (port, source) in self._allowed and not self.blocked(source) else None

    def take(self, source: SocketAddress, destination: SocketAddress, port: int) -> None:
        """What chance may give: this port for this flow."""
        self._out[source, destination if self.symmetric else None] = port
        self._back[port] = source

    def rebind(self) -> None:
        """The box rebooted: all mappings are gone."""
        self._out.clear()
        self._back.clear()
        self._allowed.clear()
        self._next += 500


@dataclass
class Host:
    name: str
    key: WireGuardKey
    manager: PathManager
    address: SocketAddress
    nat: Any
    """A `Nat` or a `Way`; None: it has a public address."""
    control: bool = False
    endpoints: dict[WireGuardKey, SocketAddress] = field(default_factory=dict)
    doorbells: dict[SocketAddress, WireGuardKey] = field(default_factory=dict)
    """Of its folded peers."""
    deaf: bool = False
    """What the engine sends to a doorbell is lost."""
    rx: dict[WireGuardKey, int] = field(default_factory=dict)
    tx: dict[WireGuardKey, int] = field(default_factory=dict)
    heard: list[tuple[float, WireGuardKey, int]] = field(default_factory=list)
    """(time, from whom, sequence number) of data that arrived."""
    changes: list[tuple[float, str]] = field(default_factory=list)
    steered: list[tuple[float, SocketAddress]] = field(default_factory=list)
    no_udp: bool = False
    tunnel: SocketAddress | None = None
    """Its TLS connection, as the relay knows it."""
    tunnel_wanted: bool = False
    stand_ins: set[SocketAddress] = field(default_factory=set)
    batches: dict[int, list[int]] = field(default_factory=dict)
    """Local ports of its batches of sockets."""
    rewrites: dict[SocketAddress, int] = field(default_factory=dict)
    next_port: int = 33000
    opened_to: list[tuple[float, WireGuardKey]] = field(default_factory=list)
    """When a tunnel was opened anew because this host had been suspended, and to whom."""
    lost: set[WireGuardKey] = field(default_factory=set)
    """The peers with whom its engine has no session any more; until then handshakes are not modelled."""
    initiated: dict[WireGuardKey, float] = field(default_factory=dict)
    """When its engine sent the last initiation."""
    handshakes: dict[WireGuardKey, float] = field(default_factory=dict)
    """Unix times of handshakes, where a test needs them."""
    crossed: set[WireGuardKey] = field(default_factory=set)
    """The peers whose initiation made the last one to them void; their data confirms the session."""
    waiting: dict[WireGuardKey, int] = field(default_factory=dict)
    """The sequence number of the packet that waits for a session."""
    deaf_to_handshakes: bool = False
    """Its engine answers no initiation."""
    renewed: list[WireGuardKey] = field(default_factory=list)
    """The peers with whom its engine was made to begin a handshake anew."""
    limits: dict[WireGuardKey, int | None] = field(default_factory=dict)
    """The size of packets to a peer that it was told last."""
    limits_told: list[int | None] = field(default_factory=list)
    """Sizes that probes have shown, in order."""
    far: float = 0.0
    """Seconds that the mediator's word takes longer to it than to others."""
    opened: int = 0
    """Sockets of batches, ever."""
    four: bool = True
    """It has IPv4, at `address`."""
    translated: bool = False
    """Its IPv4 is a NAT64: it goes by `nat`, and is no address of its own."""
    six: SocketAddress | None = None
    """Its IPv6 address, behind a stateful firewall."""
    six_works: bool = True
    """What it sends over IPv6 arrives."""
    passed: set[SocketAddress] = field(default_factory=set)
    """Whom its IPv6 firewall lets in."""
    on: bool = True
    """Its cable is in."""
    echoes: bool = True
    """It answers echo requests."""
    asked: list[tuple[WireGuardKey, bytes]] = field(default_factory=list)
    """Echo requests: who was asked, and with what."""
    liveness: list[tuple[float, bool | None]] = field(default_factory=list)
    """Whether its peers answer, as it changed."""
    told: list[Candidates] = field(default_factory=list)
    """Its offers."""
    left: list[int] = field(default_factory=list)
    """The ports that it has left for others."""


@dataclass
class Apart:
    """A relay on a machine of its own."""

    name: str
    address: str
    secret: bytes
    table: RelayTable
    up: bool = True
    first: int = 50000
    load: int = 0


class World:
    """The clock, the wires and the mediator."""

    def __init__(self, seed: int = 1, *, loss: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.jitter = 0.0
        """Of the delay over the internet: up to this part more."""
        self.now = 100.0
        self.hosts: list[Host] = []
        self.mediator_up = True
        self.secret = SECRET
        """Of mediator and relay."""
        self.relay = RelayTable(self.secret, b"c" * 32, RELAY_PORTS)
        self.cut: set[frozenset[str]] = set()
        """Pairs of public addresses between which the internet carries nothing."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._offers: dict[tuple[WireGuardKey, WireGuardKey], Candidates] = {}
        self.sent = 0
        self.short_reach = True
        """A packet with few hops dies between the two NATs."""
        self.moves_after: float | None = None
        """Seconds until a host listens on the other port that it wants; None: it stays, and its port is never new."""
        self.tls_up = True
        self.second_address: str | None = None
        """The mediator's, which its STUN may answer from."""
        self._tunnels = 0
        self.tls_to: Apart | None = None
        """The relay apart to which connections over TLS lead; None: to the mediator's."""
        self.lazy = False
        """Pairs open with the first packet."""
        self.idle_s = LAZY_IDLE
        self.fold_late, self.fold_fails = 0.0, 0.0
        """Seconds until the engine has a doorbell as endpoint, at most; and the part of attempts that fail,
        after which the next look at the engine sets it."""
        self.mediator_families = [4]
        """What the mediator's name has, the one that control connections take first."""
        self.apart: dict[str, Apart] = {}
        """Relays apart, by address."""
        self.beside_up = True
        """The relay beside the mediator."""
        self.farther: dict[tuple[str, str], float] = {}
        """Seconds that a packet between a public address and a server takes longer, each way."""

    # --- building ---

    def nat(
        self,
        public: str,
        *,
        symmetric: bool = False,
        ports: Callable[[], int] | None = None,
        accepts: bool = False,
    ) -> Nat:
        return Nat(
            public,
            symmetric=symmetric or ports is not None,
            ports=ports or (lambda: self.random.randint(1024, 65535)) if symmetric or ports else None,
            accepts=accepts,
            blocked=lambda other: frozenset((public, other.host)) in self.cut,
        )

    def relay_apart(self, address: str, seed: int = 0) -> Apart:
        """One more relay, before anybody starts."""
        name = f"ed25519:{chr(65 + len(self.apart)) * 42}A="
        secret = bytes([len(self.apart) + 1]) * 32
        found = Apart(name, address, secret, RelayTable(secret, b"e" * 32, range(50000, 50100)))
        self.apart[address] = found
        return found

    def _manager(self, index: int) -> PathManager:
        """Of the host with this index: a new life of its agent, with the key that it always has."""
        private = _private(index)
        return PathManager(
            _public(private), private, self.random.randbytes, epoch_s=UNIX_EPOCH, idle_s=self.idle_s
        )

    def host(self, name: str, address: str, nat: Any = None) -> Host:
        index = len(self.hosts)
        key = _public(_private(index))
        host = Host(name, key, self._manager(index), SocketAddress(address, 51820), nat)
        self.hosts.append(host)
        return host

    def start(self) -> None:
        """Everyone logs in, and observes its engine every second from then on."""
        for host in self.hosts:
            self.start_one(host)

    def start_one(self, host: Host) -> None:
        """One host logs in, and looks at its engine every second; nobody is told."""
        self._log_in(host)
        self.at(self.now + 1, lambda: self._observe(host))

    def _log_in(self, host: Host, live: frozenset[WireGuardKey] = frozenset()) -> None:
        if self.moves_after is not None:
            host.manager.port_opened()
        own = [Candidate("host", str(host.address))] if host.four and not host.translated else []
        own += [Candidate("host", str(host.six))] if host.six is not None else []
        self.perform(host, host.manager.set_local(own, self.now))
        stun = [one for family in self.mediator_families for one in (STUN6 if family == 6 else STUN)]
        self.perform(host, host.manager.set_stun(stun, self.now))
        if self.apart:
            relays = {one.name: [SocketAddress(one.address, 3478)] for one in self.apart.values()}
            self.perform(host, host.manager.set_relays(relays, self.now))
        others = [other.key for other in self.hosts if other is not host]
        lazy = frozenset(others if self.lazy else ())
        self.perform(host, host.manager.set_peers(others, self.now, lazy=lazy, live=live))
        if self.mediator_up:
            host.control = True
            self.perform(host, host.manager.control_up(self.now))

    def _observe(self, host: Host) -> None:
        if not host.manager.resting or int(self.now) % RESTING_S == 0:
            self._look(host)
        self.at(self.now + 1, lambda: self._observe(host))

    def _look(self, host: Host) -> None:
        for other in self.hosts:
            if other is not host:
                endpoint = host.endpoints.get(other.key)
                status = PeerStatus(
                    None if endpoint in host.doorbells else endpoint,
                    host.handshakes.get(other.key, 0.0),
                    host.rx.get(other.key, 0),
                    host.tx.get(other.key, 0),
                )
                self.perform(host, host.manager.observe(other.key, status, self.now))
                if host.manager.is_folded(other.key) and host.endpoints.get(other.key) not in host.doorbells:
                    self._fold(host, other.key)

    # --- time ---

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due, host = end, None
            for one in self.hosts:
                at = one.manager.next_timer()
                if at is not None and at < due:
                    due, host = at, one
            event = self._queue[0][0] if self._queue else end
            if min(due, event) >= end:
                self.now = end
                return
            if event <= due:
                self.now = max(self.now, event)
                heapq.heappop(self._queue)[2]()
            else:
                assert host is not None
                self.now = max(self.now, due)
                self.perform(host, host.manager.handle_timer(self.now))

    # --- what hosts do ---

    def perform(self, host: Host, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram(destination, data, ttl, _):
                    self.transmit(host, destination, data, ttl=ttl)
                case OpenBatch(batch, count):
                    ports = [host.next_port + number for number in range(count)]
                    host.next_port += count
                    host.opened += count
                    host.batches[batch] = ports
                    self.perform(host, host.manager.batch_opened(batch, tuple(ports), self.now))
                case SendFrom(batch, index, destination, data):
                    self.transmit(host, destination, data, port=host.batches[batch][index])
                case CloseBatch(batch):
                    host.batches.pop(batch, None)
                case Rewrite(remote, local_port, wanted):
                    if wanted:
                        host.rewrites[remote] = local_port
                    else:
                        assert host.rewrites.pop(remote) == local_port
                case SendFrame(port, data):
                    self._by_tls(host, port, data)
                case WantTunnel(wanted):
                    host.tunnel_wanted = wanted
                    self.at(self.now + (3 * WAN_DELAY if wanted else 10.0), lambda: self._tunnel(host))
                case StandIn(address, wanted):
                    (host.stand_ins.add if wanted else host.stand_ins.discard)(address)
                case AnotherPort():
                    if self.moves_after is not None:
                        self.at(self.now + self.moves_after, partial(self._move, host))
                case SendControl(message):
                    if isinstance(message, Candidates):
                        host.told.append(message)
                    if host.control and self.mediator_up:
                        self.at(self.now + WAN_DELAY, partial(self._mediate, host, message))
                case SendThrough(key, count):
                    other = next(one for one in self.hosts if one.key == key)
                    for _ in range(count):
                        self.data(host, other, THROUGH)
                case OpenTunnel(key, anew):
                    host.opened_to.append((self.now, key))
                    if anew:
                        host.renewed.append(key)
                        host.rx[key] = host.tx[key] = 0
                        host.initiated.pop(key, None)
                        host.waiting.pop(key, None)
                        host.lost.add(key)
                    self.data(host, next(one for one in self.hosts if one.key == key), THROUGH)
                case SendEcho(key, transaction):
                    host.asked.append((key, transaction))
                    other = next(one for one in self.hosts if one.key == key)
                    self.data(host, other, ECHO + len(host.asked) - 1)
                case LivenessChanged(key):
                    host.liveness.append((self.now, host.manager.status()[key].answers))
                case LookSoon(after_s):
                    self.at(self.now + after_s, lambda: self._look(host))
                case LimitSize(key, mtu, found):
                    host.limits[key] = mtu
                    if found:
                        host.limits_told.append(mtu)
                case SetEndpoint(key, endpoint):
                    if host.endpoints.get(key) != endpoint:
                        host.steered.append((self.now, endpoint))
                    host.endpoints[key] = endpoint
                case Fold(key):
                    host.doorbells[self._doorbell(key)] = key
                    if not self.fold_fails or self.random.random() >= self.fold_fails:
                        self._fold(host, key)
                case PathChanged(_, status):
                    host.changes.append((self.now, status.kind))

    def _move(self, host: Host) -> None:
        """Its engine listens on another port from now on."""
        host.left.append(host.address.port)
        host.address = SocketAddress(host.address.host, 18017 + 100 * len(host.left) + self.hosts.index(host))
        host.manager.port_changed()
        host.manager.port_opened()
        own = [Candidate("host", str(host.address))]
        self.perform(host, host.manager.set_local(own, self.now))

    def _doorbell(self, key: WireGuardKey) -> SocketAddress:
        number = next(n for n, other in enumerate(self.hosts) if other.key == key)
        return SocketAddress(f"127.128.0.{number + 1}", DOORBELLS)

    def _fold(self, host: Host, key: WireGuardKey) -> None:
        """The engine gets the doorbell as endpoint, now or later, unless the pair is open again by then."""

        def steer() -> None:
            if host.manager.is_folded(key):
                host.endpoints[key] = self._doorbell(key)

        if self.fold_late:
            self.at(self.now + self.random.uniform(0, self.fold_late), steer)
        else:
            steer()

    def data(self, host: Host, peer: Host, sequence: int) -> None:
        """One WireGuard transport message, sent to wherever the engine's endpoint is; without a session it waits."""
        if peer.key in host.lost:
            host.waiting[peer.key] = sequence
            self._initiate(host, peer)
            return
        self._wireguard(host, peer, TRANSPORT, sequence.to_bytes(4, "big"), length(sequence))

    def _wireguard(self, host: Host, peer: Host, kind: int, data: bytes, counted: int) -> None:
        endpoint = host.endpoints.get(peer.key)
        host.tx[peer.key] = host.tx.get(peer.key, 0) + counted
        if endpoint is not None:
            who = self.hosts.index(host)
            self.transmit(host, endpoint, bytes([kind, 0, 0, 0, who]) + data)

    def lose_sessions(self, host: Host) -> None:
        """As the kernel does before any suspend."""
        host.lost = {other.key for other in self.hosts if other is not host}

    def _initiate(self, host: Host, peer: Host) -> None:
        """An initiation, and another one while none is answered."""
        if self.now - host.initiated.get(peer.key, float("-inf")) < REKEY_TIMEOUT_S:
            return
        began = host.initiated[peer.key] = self.now
        host.crossed.discard(peer.key)
        self._wireguard(host, peer, INITIATION, bytes(INITIATION_LEN - 5), INITIATION_LEN)

        def again() -> None:
            if peer.key in host.lost and host.initiated.get(peer.key) == began:
                self._initiate(host, peer)

        self.at(self.now + REKEY_TIMEOUT_S + self.random.uniform(0, REKEY_JITTER_S), again)

    def _shake_hands(self, host: Host, peer: Host, kind: int) -> None:
        """An initiation or a response arrived."""
        if kind == INITIATION and not host.deaf_to_handshakes:
            host.rx[peer.key] = host.rx.get(peer.key, 0) + INITIATION_LEN
            host.crossed.add(peer.key)
            self._wireguard(host, peer, RESPONSE, bytes(RESPONSE_LEN - 5), RESPONSE_LEN)
        elif kind == RESPONSE and peer.key in host.lost - host.crossed:
            host.rx[peer.key] = host.rx.get(peer.key, 0) + RESPONSE_LEN
            host.lost.discard(peer.key)
            self.data(host, peer, host.waiting.pop(peer.key, KEEPALIVE))

    def stream(self, host: Host, peer: Host, *, every: float, until: float) -> None:
        """Data at a steady rate; the sequence number counts."""
        count = 0

        def tick() -> None:
            nonlocal count
            self.data(host, peer, count)
            count += 1
            if self.now + every < until:
                self.at(self.now + every, tick)

        self.at(self.now, tick)

    # --- TLS ---

    def _tunnel(self, host: Host) -> None:
        """The connection, as it is wanted now."""
        up = host.tunnel_wanted and self.tls_up
        if up == (host.tunnel is not None):
            return
        self._tunnels += up
        host.tunnel = SocketAddress(f"100::{self._tunnels:x}", 1) if up else None
        leads_to = self.tls_to.name if self.tls_to is not None else ""
        self.perform(host, host.manager.tunnel(up, self.now, leads_to))

    def kill_tunnels(self) -> None:
        """Every connection is lost, and made again in a second."""
        for host in self.hosts:
            if host.tunnel is not None:
                host.tunnel = None
                self.perform(host, host.manager.tunnel(False, self.now))
                self.at(self.now + 1, partial(self._tunnel, host))

    def _by_tls(self, host: Host, port: int, data: bytes) -> None:
        source, apart = host.tunnel, self.tls_to
        if source is not None and apart is not None:
            self.at(self.now + WAN_DELAY, lambda: self._relay_machine(apart, source, port, data))
        elif source is not None:
            self.at(self.now + WAN_DELAY, lambda: self._server(source, port, data))

    def _from_tls(self, stand_in: SocketAddress, port: int, data: bytes) -> None:
        for host in self.hosts:
            if host.tunnel == stand_in:
                if classify(data) in (DatagramKind.RELAY, DatagramKind.RELAYED_PROBE):
                    self.perform(host, host.manager.handle_frame(port, data, self.now))
                    return
                for address in host.stand_ins:
                    if address.port == port:
                        self._arrive(host, address, data)

    # --- wires ---

    def transmit(
        self,
        host: Host,
        destination: SocketAddress,
        data: bytes,
        *,
        ttl: int | None = None,
        port: int | None = None,
    ) -> None:
        self.sent += 1
        if not host.on:
            return
        if destination in host.doorbells:
            self.sent -= 1  # nothing leaves the host
            if not host.deaf:
                self.perform(host, host.manager.ring(host.doorbells[destination], data, self.now))
            return
        if destination.host.startswith("127."):
            if destination in host.stand_ins:
                self._by_tls(host, destination.port, data)
            return
        if host.no_udp:
            return
        if self.random.random() < self.loss:
            return
        if destination.is_ipv6:
            if host.six is not None and host.six_works:
                six = host.six
                host.passed.add(destination)
                self.at(self.now + WAN_DELAY, lambda: self._internet(six, destination, data))
            return
        if not host.four:
            return
        for other in self.hosts:
            if host.nat is None or host.nat.isolated:
                break
            if other.address == destination and other.nat is host.nat:
                self.at(self.now + LAN_DELAY, partial(self._arrive, other, host.address, data))
                return
        local = SocketAddress(host.address.host, port or host.rewrites.get(destination, host.address.port))
        source: SocketAddress | None = local
        if host.nat is not None:
            source = host.nat.outbound(local, destination)
        if source is not None and (ttl is None or not self.short_reach):
            delay = WAN_DELAY * (1 + self.random.uniform(0, self.jitter)) if self.jitter else WAN_DELAY
            delay += self.farther.get((source.host, destination.host), 0.0)
            self.at(self.now + delay, lambda: self._internet(source, destination, data))

    def _internet(self, source: SocketAddress, destination: SocketAddress, data: bytes) -> None:
        if frozenset((source.host, destination.host)) in self.cut:
            return
        if destination.host in (MEDIATOR, MEDIATOR6):
            self._server(source, destination.port, data)
            return
        if destination.host in self.apart:
            self._relay_machine(self.apart[destination.host], source, destination.port, data)
            return
        for host in self.hosts:
            if host.no_udp:
                continue
            if host.six == destination and host.six_works and source in host.passed:
                self._arrive(host, source, data)
                return
            if host.nat is None and host.address.host == destination.host:
                self._inside(host, destination.port, source, data)
                return
            if host.nat is not None and host.nat.public == destination.host:
                inner = host.nat.inbound(source, destination.port)
                if inner is not None and inner.host == host.address.host:
                    self._inside(host, inner.port, source, data)
                    return

    def _inside(self, host: Host, port: int, source: SocketAddress, data: bytes) -> None:
        """To one of the host's own ports."""
        if port == host.rewrites.get(source, host.address.port):
            self._arrive(host, source, data)
            return
        for batch, ports in list(host.batches.items()):
            if port in ports:
                self.perform(
                    host, host.manager.handle_batch(batch, ports.index(port), data, source, self.now)
                )

    def _arrive(self, host: Host, source: SocketAddress, data: bytes) -> None:
        if not host.on:
            return
        if classify(data) is DatagramKind.WIREGUARD:
            peer = self.hosts[data[4]].key
            if data[0] == TRANSPORT and peer in host.crossed:
                host.lost.discard(peer)
            if data[0] == TRANSPORT and peer in host.lost:
                return  # of a session that this host does not have
            host.endpoints[peer] = source  # WireGuard roams
            if data[0] != TRANSPORT:
                self._shake_hands(host, self.hosts[data[4]], data[0])
                return
            sequence = int.from_bytes(data[5:9], "big")
            host.rx[peer] = host.rx.get(peer, 0) + length(sequence)
            if self.lazy and sequence != KEEPALIVE:
                sent = host.tx.get(peer, 0)
                self.at(self.now + KEEPALIVE_S, lambda: self._keepalive(host, self.hosts[data[4]], sent))
            if ECHO <= sequence < ECHO + REPLY and host.echoes:
                self.data(host, self.hosts[data[4]], sequence + REPLY)
            elif ECHO + REPLY <= sequence < KEEPALIVE:
                key, transaction = host.asked[sequence - ECHO - REPLY]
                self.perform(host, host.manager.echo_answered(key, transaction, self.now))
            elif sequence < ECHO:
                host.heard.append((self.now, peer, sequence))
        else:
            self.perform(host, host.manager.handle_datagram(data, source, self.now))

    def _keepalive(self, host: Host, peer: Host, sent: int) -> None:
        """WireGuard answers data with a keepalive where nothing else went back."""
        if host.tx.get(peer.key, 0) == sent:
            self.data(host, peer, KEEPALIVE)

    # --- the mediator's machine ---

    def _server(self, source: SocketAddress, port: int, data: bytes) -> None:
        if not self.mediator_up:
            return
        if port in (3478, 3479):
            sibling = 3478 + 3479 - port
            second = self.second_address
            other = SocketAddress(second or MEDIATOR, sibling)
            answer = stun.answer_from(data, source, other, second_address=second is not None)
            if answer is not None:
                at = second if answer.other_address and second is not None else self._mediator(source)
                self._reply(sibling if answer.other_port else port, source, answer.data, at)
            return
        if self.beside_up:
            self._relayed(self.relay, source, port, data, "")

    def _relay_machine(self, apart: Apart, source: SocketAddress, port: int, data: bytes) -> None:
        if not apart.up:
            return
        if port == 3478:
            answer = stun.respond(data, source, apart.load)
            if answer is not None:
                self._reply(port, source, answer, apart.address)
            return
        self._relayed(apart.table, source, port, data, apart.address)

    def _relayed(self, table: RelayTable, source: SocketAddress, port: int, data: bytes, at: str) -> None:
        kind = classify(data)
        if kind is DatagramKind.RELAY:
            for out in table.handle_control(data, source, port, self.now, UNIX_EPOCH):
                self._reply(out.port, out.destination, out.data, at)
        elif kind in (DatagramKind.WIREGUARD, DatagramKind.RELAYED_PROBE):
            flow = table.flow(port, source, self.now)
            if flow is not None and flow.toll.take(len(data), self.now):
                self._reply(flow.port, flow.destination, data, at)

    @staticmethod
    def _mediator(peer: SocketAddress) -> str:
        return MEDIATOR6 if peer.is_ipv6 else MEDIATOR

    def _reply(self, port: int, destination: SocketAddress, data: bytes, at: str = "") -> None:
        if self.random.random() >= self.loss:
            if destination.host.startswith("100::"):
                self.at(self.now + WAN_DELAY, lambda: self._from_tls(destination, port, data))
                return
            source = SocketAddress(at or self._mediator(destination), port)
            delay = WAN_DELAY + self.farther.get((destination.host, source.host), 0.0)
            self.at(self.now + delay, lambda: self._internet(source, destination, data))

    def _tell(self, host: Host, message: Introduction | Punch | RelayGrant) -> None:
        def deliver() -> None:
            if host.control:
                servers: tuple[SocketAddress, ...] = ()
                if isinstance(message, RelayGrant) and message.relay:
                    at = next(one.address for one in self.apart.values() if one.name == message.relay)
                    servers = (SocketAddress(at, SocketAddress.parse(message.address).port),)
                elif isinstance(message, RelayGrant):
                    port = SocketAddress.parse(message.address).port
                    named = {4: MEDIATOR, 6: MEDIATOR6}
                    servers = tuple(SocketAddress(named[family], port) for family in self.mediator_families)
                self.perform(host, host.manager.handle_message(message, self.now, servers))

        self.at(self.now + WAN_DELAY + host.far, deliver)

    def _mediate(self, host: Host, message: Candidates | RelayRequest) -> None:
        other = next(other for other in self.hosts if str(other.key) == message.peer)
        if not other.control:
            return
        if isinstance(message, RelayRequest) and message.relay:
            apart = next(one for one in self.apart.values() if one.name == message.relay)
            mine, theirs = (apart.first + self.hosts.index(one) for one in (host, other))
            given = grant(apart.secret, mine, theirs, int(UNIX_EPOCH) + 3600)
            told = RelayGrant(
                str(other.key), f"0.0.0.0:{theirs}", given.allocation, given.key, given.expires_s, apart.name
            )
            self._tell(host, told)
            return
        if isinstance(message, RelayRequest):
            mine, theirs = (RELAY_PORTS[self.hosts.index(one)] for one in (host, other))
            given = grant(self.secret, mine, theirs, int(UNIX_EPOCH) + 3600)
            address = str(SocketAddress(MEDIATOR, theirs))
            self._tell(
                host, RelayGrant(str(other.key), address, given.allocation, given.key, given.expires_s)
            )
            return
        self._offers[host.key, other.key] = message
        self._tell(
            other,
            Introduction(str(host.key), message.round, message.candidates, message.nat, message.relays),
        )
        back = self._offers.get((other.key, host.key))
        if back is not None and back.round == message.round:
            for one, peer in ((host, other), (other, host)):
                self._tell(one, Punch(str(peer.key), PUNCH_AFTER_MS))

    def crash(self, host: Host) -> None:
        """Its agent is gone, with timers, sockets and doorbells. The engine stays, with its endpoints."""
        host.control = False
        host.manager = self._manager(self.hosts.index(host))
        host.doorbells.clear()
        host.stand_ins.clear()
        host.batches.clear()
        host.tunnel, host.tunnel_wanted = None, False

    def revive(self, host: Host) -> None:
        """Another agent starts, on the engine that is there."""
        host.manager.adopt(dict(host.rewrites), self.now)
        live = frozenset(who for at, who, _ in host.heard if self.now - at < SESSION_S)
        self._log_in(host, live)

    def lose_mediator(self) -> None:
        self.mediator_up = False
        self.relay = RelayTable(self.secret, b"d" * 32, RELAY_PORTS)
        for host in self.hosts:
            host.control = False
            self.perform(host, host.manager.control_down(self.now))

    def restore_mediator(self) -> None:
        self.mediator_up = True
        self._offers.clear()
        for host in self.hosts:
            host.control = True
            self.perform(host, host.manager.control_up(self.now))
