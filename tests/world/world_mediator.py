"""The mediator's machine: the real hub and relay table, a store that keeps its word, and ways to die."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core.leasegrants import GrantLease
from mediator.core.relay_table import RelayTable
from mediator.core.viewcache import ViewCache
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.wire import stun
from netctl.wire.control import encode
from netctl.wire.datagram import DatagramKind, classify
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame
from tests.world.world_clock import Clock, Timer
from tests.world.world_net import End, Internet, Site

ADDRESS = "198.51.100.1"
EXPIRE_S = 5.0
RESERVE_GENERATIONS = 1000


class MemoryStore:
    """Survives the process. All or nothing, and its constraints are those of the real schema."""

    def __init__(self) -> None:
        self.full = False
        self.by_address: dict[tuple[str, IPv4Address], WireGuardKey] = {}
        self.ports: dict[WireGuardKey, int] = {}
        self.generation = 0
        self.history: set[tuple[str, WireGuardKey, IPv4Address]] = set()
        """Every lease that there ever was: by network id."""

    def leases(self) -> dict[tuple[str, WireGuardKey], IPv4Address]:
        """By network id and key."""
        return {(network, key): address for (network, address), key in self.by_address.items()}

    def add(self, leases: Iterable[GrantLease], ports: Iterable[tuple[WireGuardKey, int]]) -> None:
        """One transaction. Raises LocalError and changes nothing."""
        if self.full:
            raise LocalError("the disk is full")
        table, numbers = dict(self.by_address), dict(self.ports)
        for lease in leases:
            for place in [
                p
                for p, key in table.items()
                if p[0] == lease.network and key in (lease.key, lease.taken_from)
            ]:
                del table[place]
            if table.setdefault((lease.network, lease.address), lease.key) != lease.key:
                raise AssertionError(f"{lease.address} is granted twice in {lease.network}")
        for key, port in ports:
            numbers.pop(key, None)
            if port in numbers.values():
                raise AssertionError(f"relay port {port} is given twice")
            numbers[key] = port
        self.by_address, self.ports = table, numbers
        self.history.update((network, key, address) for (network, address), key in table.items())


class _Life:
    """One process: what is gone after a crash."""

    def __init__(self, hub: h.Hub, relay: RelayTable) -> None:
        self.hub = hub
        self.relay = relay
        self.ends: dict[int, tuple[End, FrameDecoder]] = {}
        self.next = 0


class SimMediator:
    """A machine with an identity, a document file and a disk."""

    def __init__(self, clock: Clock, net: Internet, identity: bytes, on_change: Callable[[], None]) -> None:
        self.site = Site(ADDRESS, nat=False, delay_s=0.005)
        self.address = SocketAddress(ADDRESS, 8443)
        self.powered = True
        self.skew_s = 0
        self.lie = ""
        """What the next process does that an honest one never would: "rollback" or "stranger"."""
        self.store = MemoryStore()
        self.document: Document | None = None
        self.crash_at_store: str | None = None
        """"before" or "after" the next commit; None: live on."""
        self._clock, self._net, self._changed = clock, net, on_change
        self._private = Ed25519PrivateKey.from_private_bytes(identity)
        self.identity = IdentityKey(self._private.public_key().public_bytes_raw())
        self._secret = net.chance.randbytes(32)
        self.life: _Life | None = None
        self._timer = Timer(clock, self._due)
        net.stations.append(self)

    @property
    def _unix(self) -> int:
        """What this machine's wall clock shows."""
        return self._clock.unix + self.skew_s

    # -- life and death -------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process, from what the disk has."""
        if self.life is not None or self.document is None:
            return
        generation = max(self._unix, self.store.generation)
        self.store.generation = generation + RESERVE_GENERATIONS
        if self.lie == "rollback":
            generation = 5
        hub = h.Hub(self.identity, self._private.sign, self._secret, generation=generation)
        if self.lie == "stranger":
            other = Ed25519PrivateKey.from_private_bytes(b"\x0b" * 32)
            hub._view_cache = ViewCache(IdentityKey(other.public_key().public_bytes_raw()), other.sign)
        ports = range(*self.document.mediators[0].relay_ports)
        relay = RelayTable(self._secret, self._net.chance.randbytes(32), ports)
        self.life = life = _Life(hub, relay)
        hub.restore(self.store.leases(), self.store.ports)
        self._clock.say("mediator starts")
        self._perform(hub.load(self.document, self.document.mediators[0], self._unix))
        self._clock.after(EXPIRE_S, lambda: self._expire(life))

    def crash(self) -> None:
        """At once, without a word of its own; the kernel closes the sockets."""
        if self.life is not None:
            self._clock.say("mediator crashes")
            life, self.life = self.life, None
            for end, _ in life.ends.values():
                end.close()

    def load(self, document: Document) -> None:
        """The operator has written a new document."""
        self.document = document
        if self.life is not None:
            self._perform(self.life.hub.load(document, document.mediators[0], self._unix))

    # -- streams --------------------------------------------------------------------------------------------

    def accept(self, end: End, source: SocketAddress) -> None:
        """A TLS connection is up."""
        life = self.life
        assert life is not None
        life.next += 1
        number = life.next
        decoder = FrameDecoder()
        life.ends[number] = end, decoder
        end.on_bytes = lambda data: self._bytes(life, number, data)
        end.on_lost = lambda: self._lost(life, number)
        self._perform(life.hub.connected(number, source, self._net.chance.randbytes(32), self._clock.now))

    def forget_all(self) -> None:
        """The mediator's end of every connection dies in silence."""
        if self.life is not None:
            for number, (end, _) in list(self.life.ends.items()):
                end.vanish()
                self._lost(self.life, number)

    def _bytes(self, life: _Life, number: int, data: bytes) -> None:
        if self.life is not life or number not in life.ends:
            return
        for payload in life.ends[number][1].feed(data):
            self._perform(life.hub.received(number, payload, self._clock.now, self._unix))

    def _lost(self, life: _Life, number: int) -> None:
        if self.life is life and life.ends.pop(number, None) is not None:
            self._perform(life.hub.disconnected(number))

    def _due(self) -> None:
        if self.life is not None:
            self._perform(self.life.hub.handle_timer(self._clock.now, self._unix))

    def _expire(self, life: _Life) -> None:
        if self.life is life:
            life.relay.expire(self._clock.now)
            self._clock.after(EXPIRE_S, lambda: self._expire(life))

    def _perform(self, effects: list[fx.Effect]) -> None:
        pending = list(reversed(effects))
        life = self.life
        while pending and life is not None and self.life is life:
            match pending.pop():
                case fx.Send(number, message):
                    if number in life.ends:
                        life.ends[number][0].write(encode_frame(encode(message)))
                case fx.Deliver(numbers, payloads):
                    for number in numbers:
                        if number in life.ends:
                            life.ends[number][0].write(b"".join(map(encode_frame, payloads)))
                case fx.Drop(number, error):
                    if number in life.ends:
                        end, _ = life.ends.pop(number)
                        self._clock.say(f"mediator drops {number}: {error.code}")
                        end.write(encode_frame(encode(error)))
                        end.close()
                case fx.LoggedIn(number, member):
                    self._clock.say(f"mediator: {member} logs in")
                    life.ends[number][1].limit = LIMIT_AFTER_LOGIN
                case fx.Store(leases, ports):
                    pending.extend(reversed(self._commit(life, leases, ports)))
                case fx.Say(text):
                    self._clock.say(f"mediator says: {text}")
        if self.life is not None:
            self._timer.set(self.life.hub.next_timer())

    def _commit(
        self, life: _Life, leases: tuple[GrantLease, ...], ports: tuple[tuple[WireGuardKey, int], ...]
    ) -> list[fx.Effect]:
        moment, self.crash_at_store = self.crash_at_store, None
        if moment != "before":
            try:
                self.store.add(leases, ports)
            except LocalError as error:
                self._clock.say(f"no new leases: {error}")
                return life.hub.refused(self._clock.now)
            self._changed()
        if moment is not None:
            self.crash()
            return []
        return life.hub.stored(leases, ports, (), (), self._unix)

    # -- datagrams ------------------------------------------------------------------------------------------

    def datagram(self, data: bytes, source: SocketAddress, port: int) -> None:
        """STUN and the relay."""
        if self.life is None:
            return
        if port in (3478, 3479):
            answer = stun.respond(data, source)
            if answer is not None:
                self._net.send(self, port, source, answer)
            return
        kind, relay = classify(data), self.life.relay
        if kind is DatagramKind.RELAY:
            for out in relay.handle_control(data, source, port, self._clock.now, self._unix):
                self._net.send(self, out.port, out.destination, out.data)
        elif kind is DatagramKind.WIREGUARD:
            flow = relay.flow(port, source, self._clock.now)
            if flow is not None and flow.toll.take(len(data), self._clock.now):
                self._net.send(self, flow.port, flow.destination, data)
