"""Many members at several real hubs on a bus in memory: what each event costs in messages, bytes and processor time.

The hubs, the messages, the signatures and the bus's messages are the product's. Left out: TLS, sockets, the store's
disk, and loss on the bus. Members are a few numbers each; members in `real` are whole `ClientSession`s, which check
all that they are sent.
"""

from __future__ import annotations

import hashlib
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from statistics import median

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core import busmessages as b
from mediator.core import effects as fx
from mediator.core.audience import INTEREST_ABOVE
from mediator.core.hub import Hub
from netctl.model.addresses import SocketAddress
from netctl.model.derive import network_id
from netctl.model.document import Document, Member, Mode, Network, Rule
from netctl.model.document import Mediator as Entry
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.session import client as c
from netctl.session.login import make_login
from netctl.session.replica import Kept
from netctl.wire import control as w
from netctl.wire.frame import HEADER_LEN

SIGNING = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
PIN = IdentityKey(SIGNING.public_key().public_bytes_raw())
SECRET = bytes(range(32))
STORE = "a store for counting"
BUS_DELAY_S = 0.01
QUIET_S = 0.4
"""Within this time after an event everything has been gathered, sent and answered, and no beat is due."""
RELAY_PORTS = (1024, 65535)
"""All there are. Members beyond them have no port at the relay."""
UNIT_BYTES = 1_000_000
CANDIDATES = [
    w.Candidate("host", "192.168.1.23:51820"),
    w.Candidate("host", "10.11.12.13:51820"),
    w.Candidate("srflx", "198.51.100.77:51820"),
]
NAT = w.Nat("fixed", "198.51.100.77", 51820)


class _Tagged(msgspec.Struct):
    type: str


_TAG = msgspec.json.Decoder(_Tagged)


class Acl(Enum):
    """Whom the ACLs of a shape let see whom. A document has at most 256 networks, so many small groups are sites."""

    NONE = "networks"
    """Each part is a network of its own, without ACLs."""
    SITES = "sites"
    """All are in one network; the members of a part see each other alone."""
    SPOKES = "spokes"
    """All are in one network; in each part the first `servers` members and the others see each other."""


@dataclass(frozen=True)
class Shape:
    """Who sees whom. Members are numbered from 0; parts are of one size, except the last."""

    name: str
    members: int
    part: int
    acl: Acl
    servers: int = 0

    @property
    def parts(self) -> list[range]:
        """The members of each part."""
        return [
            range(first, min(first + self.part, self.members)) for first in range(0, self.members, self.part)
        ]

    def part_of(self, number: int) -> range:
        """The part of a member."""
        first = number - number % self.part
        return range(first, min(first + self.part, self.members))

    def is_server(self, number: int) -> bool:
        """Whether the member is a server of its part."""
        return number % self.part < self.servers

    def peers(self, number: int) -> list[int]:
        """Whom this member sees, and who sees it: all but itself."""
        part = self.part_of(number)
        if self.acl is not Acl.SPOKES:
            return [other for other in part if other != number]
        return list(part[self.servers :] if self.is_server(number) else part[: self.servers])

    def talks_to(self, number: int, peers: int) -> list[int]:
        """The peers that a member has tunnels with: the next few; a server has them with all of its sensors."""
        seen = self.peers(number)
        if self.is_server(number):
            return seen
        if self.acl is Acl.SPOKES:
            return seen[:peers]
        at = number - self.part_of(number).start
        return [seen[(at + step) % len(seen)] for step in range(min(peers, len(seen)))]


def networks(members: int, size: int) -> Shape:
    """Networks of `size` members, without ACLs."""
    return Shape(f"{-(-members // size):,} networks of {size:,}", members, size, Acl.NONE)


def sites(members: int, size: int) -> Shape:
    """One network, in which groups of `size` members see each other."""
    return Shape(f"{-(-members // size):,} groups of {size:,}", members, size, Acl.SITES)


def hub_and_spokes(members: int, site: int, servers: int) -> Shape:
    """One network. Each site has `servers` servers and for the rest sensors, which see their own servers alone."""
    all_servers = servers * -(-members // site)
    name = f"{members - all_servers:,} sensors, {all_servers:,} servers"
    return Shape(name, members, site, Acl.SPOKES, servers)


def name_of(number: int) -> str:
    """A member's name."""
    return f"m{number:06}"


def make_document(shape: Shape, mediators: int) -> tuple[Document, list[Ed25519PrivateKey]]:
    """The document of a shape, and the members' private identities. Keys follow from the members' numbers."""
    private = [
        Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"identity %d" % number).digest())
        for number in range(shape.members)
    ]
    members = {
        name_of(number): Member(
            name_of(number),
            WireGuardKey(hashlib.sha256(b"key %d" % number).digest()),
            IdentityKey(private[number].public_key().public_bytes_raw()),
            groups=_groups(shape, number),
        )
        for number in range(shape.members)
    }
    entries = tuple(
        Entry(f"m{number}.example.org", 8443, (PIN,), relay_ports=RELAY_PORTS) for number in range(mediators)
    )
    return Document(members, _networks(shape), entries, "scale-0001", digest="00" * 32), private


def _groups(shape: Shape, number: int) -> frozenset[str]:
    if shape.acl is Acl.NONE:
        return frozenset()
    kind = "servers" if shape.is_server(number) else "all"
    return frozenset({f"{kind}-{number // shape.part}"})


def _networks(shape: Shape) -> dict[str, Network]:
    if shape.acl is Acl.NONE:
        bits = (2 * shape.part + 2).bit_length()
        first = int(IPv4Address("10.0.0.0"))
        pools = (IPv4Network((first + (at << bits), 32 - bits)) for at in range(len(shape.parts)))
        made = (
            _network(f"n{at:05}", pool, part, None)
            for at, (pool, part) in enumerate(zip(pools, shape.parts, strict=True))
        )
        return {network.name: network for network in made}
    there = "servers" if shape.acl is Acl.SPOKES else "all"
    rules = tuple(
        Rule(f"part-{at}", (f"group:all-{at}",), (f"group:{there}-{at}",)) for at in range(len(shape.parts))
    )
    return {"fleet": _network("fleet", IPv4Network("10.0.0.0/8"), range(shape.members), rules)}


def _network(name: str, pool: IPv4Network, part: range, rules: tuple[Rule, ...] | None) -> Network:
    names = tuple(map(name_of, part))
    return Network(name, network_id("scale-0001", name), Mode.ROUTED, pool, None, names, names, acls=rules)


# -- what is counted ----------------------------------------------------------------------------------------


@dataclass
class Count:
    """What an event, or several of one kind, cost. Bytes are of payloads with their frame headers, before TLS."""

    to_members: Counter[str] = field(default_factory=Counter)
    """Messages by kind."""
    bytes_to_members: Counter[str] = field(default_factory=Counter)
    from_members: Counter[str] = field(default_factory=Counter)
    bytes_from_members: int = 0
    bus: Counter[str] = field(default_factory=Counter)
    """Messages that mediators published, by kind."""
    bytes_bus: Counter[str] = field(default_factory=Counter)
    """Their bytes, once each: the bus carries each to all other mediators."""
    cpu_s: dict[bytes, float] = field(default_factory=dict)
    """Processor time of each mediator's core with the encoding of messages, by run id."""
    longest_s: float = 0.0
    """The longest that one mediator's core worked without a pause: it hears and says nothing meanwhile."""

    @property
    def messages(self) -> int:
        """All messages to members."""
        return self.to_members.total()

    @property
    def bytes(self) -> int:
        """All bytes to members."""
        return self.bytes_to_members.total()

    @property
    def cpu(self) -> float:
        """Processor seconds of all mediators."""
        return sum(self.cpu_s.values())


def unit_s(rounds: int = 9) -> float:
    """Seconds of processor time for the SHA-256 of a megabyte: the unit in which processor time is compared."""
    data, found = bytes(UNIT_BYTES), []
    for _ in range(rounds):
        began = time.thread_time()
        hashlib.sha256(data).digest()
        found.append(time.thread_time() - began)
    return median(found)


# -- members ------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Host:
    """One member: what it knows between its connections."""

    number: int
    key: WireGuardKey
    identity: IdentityKey
    private: Ed25519PrivateKey
    talks_to: tuple[int, ...] = ()
    """The peers with which it has tunnels."""
    node: Node | None = None
    connection: int = 0
    hello: str = ""
    digest: str = ""
    newest: int = 0
    interested: bool = False
    """Whether it has said on this connection whose presence it wants to hear."""
    real: bool = False
    session: c.ClientSession | None = None
    kept: Kept | None = None
    presence: dict[WireGuardKey, bool | None] = field(default_factory=dict)
    """Of a real member: what it was told last of each peer; None: it is not told of this one."""
    refused: str = ""


# -- mediators ----------------------------------------------------------------------------------------------


class Node:
    """A hub, performed in memory."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.run = hashlib.sha256(b"run %d" % world.runs).digest()[: b.RUN_LEN]
        world.runs += 1
        self.hosts: dict[int, Host] = {}
        self.due: float | None = None
        self._connections = 0
        self.state = 0
        self.hub = Hub(PIN, SIGNING.sign, SECRET, interest_above=world.interest_above)
        self.hub.restore(world.leases, world.ports, generation=1, store=STORE)
        self.hub.join_bus(self.run, f"m{number}", world.now)
        self.take(world.state)

    def take(self, state: int) -> None:
        """Show the store's present state."""
        if state <= self.state:
            return
        self.state = state
        document = self.world.document
        self.hub.follow(state)
        self.call(partial(self.hub.load, document, document.mediators[self.number], 0))
        self.call(partial(self.hub.shows, state))

    def call(self, ask: Callable[[], list[fx.Effect]]) -> None:
        """Let the core work, counted, and perform what it says."""
        began = time.thread_time()
        effects = ask()
        self.due = self.hub.next_bus_timer()
        self._spent(time.thread_time() - began)
        self._perform(effects)

    def _spent(self, seconds: float) -> None:
        spent = self.world.count.cpu_s
        spent[self.run] = spent.get(self.run, 0.0) + seconds
        self.world.count.longest_s = max(self.world.count.longest_s, seconds)

    def _perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.Send(number, message):
                    began = time.thread_time()
                    payload = w.encode(message)
                    self._spent(time.thread_time() - began)
                    self._deliver((number,), payload)
                case fx.Deliver(numbers, payloads):
                    for payload in payloads:
                        self._deliver(numbers, payload)
                case fx.Drop(number, error):
                    self._deliver((number,), w.encode(error))
                    host = self.hosts.pop(number, None)
                    if host is not None and host.node is self and host.connection == number:
                        host.node = None
                case fx.Store() as wanted:
                    self.world.store(wanted)
                    stored = self.hub.stored
                    self.call(partial(stored, wanted.leases, wanted.ports, wanted.pairs, wanted.resting, 0))
                case fx.Publish(message):
                    self.world.publish(self, message)
                case fx.StoreMoved(state):
                    self.take(state)
                case _:
                    pass

    def _deliver(self, numbers: tuple[int, ...], payload: bytes) -> None:
        count, kind = self.world.count, _TAG.decode(w.plain(payload)).type
        count.to_members[kind] += len(numbers)
        count.bytes_to_members[kind] += len(numbers) * (len(payload) + HEADER_LEN)
        if kind == "presence" and not self.world.any_real:
            return
        for number in numbers:
            host = self.hosts.get(number)
            if host is not None and host.node is self and host.connection == number:
                self.world.hear(host, kind, payload)

    def connect(self, host: Host) -> None:
        """A member's connection; what it hears makes it log in."""
        self._connections += 1
        number = self._connections
        self.hosts[number] = host
        host.node, host.connection = self, number
        nonce = hashlib.sha256(self.run + number.to_bytes(8, "big")).digest()
        source = SocketAddress(str(IPv4Address(0xC6120000 + host.number)), 40000 + number % 20000)
        self.call(lambda: self.hub.connected(number, source, nonce, self.world.now))

    def give(self, host: Host, payload: bytes) -> None:
        """A frame from a member."""
        count = self.world.count
        count.from_members[_TAG.decode(w.plain(payload)).type] += 1
        count.bytes_from_members += len(payload) + HEADER_LEN
        number = host.connection
        self.call(lambda: self.hub.received(number, payload, self.world.now, 0))

    def lose(self, host: Host) -> None:
        """A member's connection ends."""
        number, host.node = host.connection, None
        self.hosts.pop(number, None)
        self.call(lambda: self.hub.disconnected(number))

    def hear(self, payload: bytes) -> None:
        """A message of the bus."""
        self.call(lambda: self.hub.heard(b.decode(payload), self.world.now))


class World:
    """Members, mediators, the bus and the time."""

    def __init__(
        self,
        shape: Shape,
        mediators: int,
        *,
        real: int = 0,
        peers: int = 3,
        at_once: bool = True,
        interest_above: int = INTEREST_ABOVE,
    ) -> None:
        """`real`: one member in so many is a whole `ClientSession` (0: none). `peers`: with whom each talks.

        `at_once` False: `start` starts the mediators.
        """
        self.shape, self.now, self.runs, self.state = shape, 100.0, 0, 1
        self.interest_above = interest_above
        self.count = Count()
        self.leases: dict[tuple[str, WireGuardKey], IPv4Address] = {}
        self.ports: dict[WireGuardKey, int] = {}
        self.document, private = make_document(shape, mediators)
        self.any_real = bool(real)
        self.hosts = [
            Host(
                number,
                _key(self.document, number),
                IdentityKey(secret.public_key().public_bytes_raw()),
                secret,
                tuple(shape.talks_to(number, peers)),
                real=bool(real) and number % real == 0,
            )
            for number, secret in enumerate(private)
        ]
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._answers: list[tuple[Host, w.Introduction]] = []
        self.nodes: list[Node] = []
        if at_once:
            self.start()

    def start(self) -> None:
        """Start all mediators of the document."""
        for number in range(len(self.document.mediators)):
            self.nodes.append(Node(self, number))
        self.pass_time(3.0)

    # -- the store, the bus, the time

    def store(self, wanted: fx.Store) -> None:
        """Commit."""
        self.leases.update({(lease.network, lease.key): lease.address for lease in wanted.leases})
        self.ports.update(wanted.ports)

    def publish(self, sender: Node, message: b.Message) -> None:
        """To all other mediators."""
        payload = b.encode(message)
        kind = type(message).__name__.lower()
        self.count.bus[kind] += 1
        self.count.bytes_bus[kind] += len(payload)
        for node in self.nodes:
            if node is not sender:
                self.at(self.now + BUS_DELAY_S, partial(node.hear, payload))

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Do something later."""
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, call))

    def pass_time(self, seconds: float) -> None:
        """Everything that is due within the next seconds."""
        end = self.now + seconds
        while True:
            due = min((node.due for node in self.nodes if node.due is not None), default=end + 1)
            if self._queue and self._queue[0][0] <= min(due, end):
                when, _, call = heapq.heappop(self._queue)
                self.now = max(self.now, when)
                call()
            elif due <= end:
                self.now = max(self.now, due)
                for node in self.nodes:
                    if node.due is not None and node.due <= self.now:
                        node.call(partial(node.hub.handle_bus_timer, self.now))
            else:
                break
            self._answer()
        self.now = end

    def after_beats(self) -> None:
        """Wait until the next beats are far enough away."""
        self.pass_time(0.05)
        while self.count.bus["beat"] == 0:
            self.pass_time(0.05)
        self.pass_time(0.1)

    @contextmanager
    def counting(self) -> Iterator[Count]:
        """Count what happens in the block and right after it, without the beats of the bus."""
        self.count = Count()
        self.after_beats()
        self.count = counted = Count()
        yield counted
        self.pass_time(QUIET_S)
        self.count = Count()

    # -- what members do

    def hear(self, host: Host, kind: str, payload: bytes) -> None:
        """A frame for a member."""
        if host.session is not None:
            self._session(host, host.session.receive_frame(payload, self.now))
            return
        match kind:
            case "hello":
                self._log_in(host, w.decode(payload))
            case "sealed":
                sealed = w.decode(payload)
                assert isinstance(sealed, w.Sealed)
                host.digest, host.newest = sealed.digest, sealed.generation
                if not sealed.online and not host.interested:
                    self._declare(host)
            case "introduction":
                message = w.decode(payload)
                assert isinstance(message, w.Introduction)
                self._answers.append((host, message))
            case "error":
                error = w.decode(payload)
                assert isinstance(error, w.Error)
                host.refused = error.code

    def _log_in(self, host: Host, hello: w.Message) -> None:
        assert isinstance(hello, w.Hello)
        assert host.node is not None
        nonce = hashlib.sha256(b"nonce %d" % host.number).digest()
        login = make_login(PIN, bytes.fromhex(hello.nonce), nonce, host.identity, host.key, host.private.sign)
        hints = msgspec.structs.replace(
            login, view=host.digest, previous=host.hello, newest=host.newest, minor=w.MINOR_VERSION
        )
        host.hello = hello.nonce
        host.node.give(host, w.encode(hints))

    def _declare(self, host: Host) -> None:
        """The seal does not say who is online: the member asks about the peers that it has tunnels with."""
        assert host.node is not None
        host.interested = True
        peers = [str(self.hosts[number].key) for number in host.talks_to]
        wanted = w.Interest(peers) if len(peers) <= w.MAX_INTEREST else w.Interest(all=True)
        host.node.give(host, w.encode(wanted))

    def _session(self, host: Host, effects: list[c.Effect]) -> None:
        for effect in effects:
            match effect:
                case c.SendFrame(payload) if host.node is not None:
                    host.node.give(host, payload)
                case c.LoggedIn(hello=hello):
                    host.hello = hello
                case c.ViewChanged(view, kept):
                    host.kept, host.digest, host.newest = kept, kept.seal.digest, kept.seal.generation
                    host.presence.update({key: member.online for key, member in view.members.items()})
                case c.PresenceChanged(key, online):
                    host.presence[key] = online
                case c.PresenceKnown(known, later):
                    if later is not None:
                        host.kept, host.newest = later, later.seal.generation
                    host.presence.update(known)
                case c.PathMessage(w.Introduction() as message):
                    self._answers.append((host, message))
                case c.Closed(error):
                    host.refused = error.code
                case _:
                    pass

    def _answer(self) -> None:
        """Members answer the first offers of peers with offers of their own."""
        while self._answers:
            host, told = self._answers.pop()
            if host.node is not None and told.round % 2 == 0:
                host.node.give(host, _offer(told.peer, told.round + 1))

    def log_in(self, host: Host, node: Node) -> None:
        """A member comes."""
        host.refused, host.interested = "", False
        if host.real:
            host.session = c.ClientSession(
                identity=host.identity,
                key=host.key,
                sign=host.private.sign,
                pin=PIN,
                pins=(PIN,),
                mediator=(SocketAddress("192.0.2.1", 8443),),
                nonce=hashlib.sha256(b"nonce %d" % host.number).digest(),
                now=self.now,
                kept=host.kept,
                previous=host.hello,
                interest=[self.hosts[peer].key for peer in host.talks_to],
            )
        node.connect(host)

    def log_out(self, host: Host) -> None:
        """A member goes."""
        assert host.node is not None
        host.session = None
        host.hello = ""
        host.node.lose(host)

    def forget_view(self, host: Host) -> None:
        """The member has no view: it is new, or its disk was lost."""
        host.kept, host.digest = None, ""

    def move(self, host: Host) -> None:
        """A member's address changes: it connects anew, and offers its new addresses to the peers it talks to."""
        node = host.node
        assert node is not None
        self.log_in(host, node)
        for peer in host.talks_to:
            node.give(host, _offer(str(self.hosts[peer].key), 2 * self.now.__trunc__()))

    def home(self, number: int) -> int:
        """The mediator that a member takes first."""
        return number % len(self.nodes)

    def everybody(self, over_s: float) -> None:
        """All members that are not logged in come, evenly over so many seconds, each to its first mediator."""
        coming = [host for host in self.hosts if host.node is None]
        for index, host in enumerate(coming):
            node = self.nodes[self.home(host.number)]
            when = self.now + over_s * index / len(coming)
            self.at(when, partial(self.log_in, host, node))
        self.pass_time(over_s)

    def change_address(self, number: int) -> None:
        """The document fixes the address of one member."""
        name = name_of(number)
        network = next(one for one in self.document.networks.values() if name in one.member_names)
        assert network.ipv4 is not None
        address = network.ipv4.broadcast_address - 1 - len(network.addresses)
        pinned = replace(network, addresses={**network.addresses, name: (address,)})
        networks: Mapping[str, Network] = {**self.document.networks, network.name: pinned}
        self.state += 1
        self.document = replace(self.document, networks=networks)
        self.nodes[0].take(self.state)

    def kill(self, node: Node) -> list[Host]:
        """A mediator is gone, and its members' connections with it."""
        self.nodes.remove(node)
        for host in node.hosts.values():
            host.node, host.session = None, None
        return list(node.hosts.values())

    def restart_all(self) -> None:
        """All mediators begin anew, with the store."""
        for node in list(self.nodes):
            self.kill(node)
        self._queue.clear()
        self.start()

    def online(self) -> int:
        """Members that are logged in."""
        return sum(node.hub.online for node in self.nodes)

    # -- the formulae of docs/thousands.md

    def is_large(self, host: Host) -> bool:
        """Whether the member is told of those alone that it is interested in."""
        return len(self.shape.peers(host.number)) + 1 > self.interest_above

    def audience(self, host: Host, *, at: Node | None = None) -> int:
        """How many members are told that this one came or went; `at`: those that are logged in there."""
        viewers = (self.hosts[number] for number in self.shape.peers(host.number))
        return sum(
            1
            for viewer in viewers
            if viewer.node is not None and at in (None, viewer.node)
            if not self.is_large(viewer) or host.number in viewer.talks_to
        )


def _key(document: Document, number: int) -> WireGuardKey:
    key = document.members[name_of(number)].wireguard
    assert key is not None
    return key


def _offer(peer: str, round_: int) -> bytes:
    return w.encode(w.Candidates(peer, round_, CANDIDATES, NAT))
