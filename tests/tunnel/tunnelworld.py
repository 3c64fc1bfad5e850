"""A few devices on a simulated wire: an honest shell in miniature, packet by packet, with a clock that jumps."""

import heapq
import ipaddress
import random
from collections.abc import Callable
from itertools import count

from cryptography.exceptions import InvalidTag

from netctl.model.addresses import SocketAddress
from netctl.tunnel import Device, Effect, FlushStaged, Peer, SendDatagram, SendKeepalive
from netctl.tunnel.messages import (
    TRANSPORT,
    message_type,
    transport_fields,
    transport_header,
    transport_nonce,
)

LATENCY_S = 0.01
UNIX_EPOCH_OF_WORLD = 1_700_000_000.0


def ipv4(source: str, destination: str, payload: bytes = b"") -> bytes:
    """An IPv4 header (no checksum: nobody here looks) and a payload, padded to 16."""
    packet = bytes([0x45]) + bytes(11) + ipaddress.ip_address(source).packed
    packet += ipaddress.ip_address(destination).packed + payload
    return packet + bytes(-len(packet) % 16)


class Host:
    """A device with its shell."""

    def __init__(self, world: "World", number: int, seed: int) -> None:
        self.world = world
        self.inner = f"10.0.0.{number}"
        self.address = SocketAddress(f"192.0.2.{number}", 51820)
        rng = random.Random(seed)
        self.private_key = rng.randbytes(32)
        self.device = Device(self.private_key, rng.randbytes)
        self.inbox: list[bytes] = []
        self.refused_sources = 0
        self.sent: list[tuple[float, bytes]] = []
        """Every datagram that left, with its time."""

    def know(self, other: "Host", *, endpoint: bool = True) -> Peer:
        """Configure `other` as a peer that owns its inner address."""
        key = other.device.public_key
        assert key is not None
        peer = self.device.add_peer(key)
        assert peer is not None
        self.device.allowed_ips.insert(ipaddress.ip_network(other.inner), peer)
        if endpoint:
            self.device.set_endpoint(peer, other.address, self.world.now)
        return peer

    def restart(self) -> None:
        """Lose everything but the configuration."""
        old = self.device
        self.device = Device(self.private_key, random.Random(self.world.rng.random()).randbytes)
        for key, before in old.peers.items():
            peer = self.device.add_peer(key)
            assert peer is not None
            peer.endpoint = before.endpoint
            for prefix in old.allowed_ips.prefixes(before):
                self.device.allowed_ips.insert(prefix, peer)

    def send(self, packet: bytes) -> None:
        """A packet comes out of the TUN."""
        peer = self.device.lookup(packet[16:20])
        if peer is not None:
            self.transmit(peer, [packet])

    def transmit(self, peer: Peer, packets: list[bytes]) -> None:
        now = self.world.now
        keypair = peer.sendable_keypair(now)
        first = keypair.reserve(len(packets), now) if keypair is not None else None
        if keypair is None or first is None:
            self.perform(self.device.stage(peer, packets, now))
            return
        assert peer.endpoint is not None
        for counter, packet in enumerate(packets, first):
            sealed = keypair.send.encrypt(transport_nonce(counter), packet, b"")
            self.put(peer.endpoint, transport_header(keypair.remote_index, counter) + sealed)
        peer.data_sent(now, keypair, is_keepalive=not any(packets))

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendDatagram(_, destination, data):
                    self.put(destination, data)
                case SendKeepalive(peer):
                    self.transmit(peer, [b""])
                case FlushStaged(peer):
                    self.transmit(peer, peer.take_staged())

    def put(self, destination: SocketAddress, datagram: bytes) -> None:
        self.sent.append((self.world.now, datagram))
        self.world.carry(self.address, destination, datagram)

    def receive(self, datagram: bytes, source: SocketAddress) -> None:
        now = self.world.now
        if message_type(datagram) != TRANSPORT:
            self.perform(self.device.handle_handshake(datagram, source, now, self.world.unix_now))
            return
        index, counter = transport_fields(datagram)
        keypair = self.device.keypair(index, now)
        if keypair is None or not keypair.replay.check_one(counter):
            return
        try:
            packet = keypair.receive.decrypt(transport_nonce(counter), datagram[16:], b"")
        except InvalidTag:
            return
        if not keypair.replay.accept_one(counter):
            return
        keypair.peer.data_received(keypair, source, now, is_keepalive=not packet)
        if not packet:
            return
        if self.device.lookup(packet[12:16]) is keypair.peer:
            self.inbox.append(packet)
        else:
            self.refused_sources += 1

    def types_sent(self) -> list[int | None]:
        return [message_type(datagram) for _, datagram in self.sent]


class World:
    """Hosts by address, datagrams under way, one clock."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.clock_error = 0.0
        self.hosts: list[Host] = []
        self.by_address: dict[SocketAddress, Host] = {}
        self.drop: Callable[[SocketAddress, SocketAddress, bytes], bool] = lambda *_: False
        self.forging: dict[SocketAddress, SocketAddress] = {}
        """Source address rewriting: what a NAT or a move does."""
        self._wire: list[tuple[float, int, SocketAddress, SocketAddress, bytes]] = []
        self._order = count()

    @property
    def unix_now(self) -> float:
        return UNIX_EPOCH_OF_WORLD + self.now + self.clock_error

    def add(self) -> Host:
        host = Host(self, len(self.hosts) + 1, self.rng.randrange(1 << 30))
        self.hosts.append(host)
        self.by_address[host.address] = host
        return host

    def pair(self) -> tuple[Host, Host]:
        """Two hosts that know each other."""
        a, b = self.add(), self.add()
        a.know(b)
        b.know(a)
        return a, b

    def carry(self, source: SocketAddress, destination: SocketAddress, datagram: bytes) -> None:
        source = self.forging.get(source, source)
        if not self.drop(source, destination, datagram):
            entry = (self.now + LATENCY_S, next(self._order), source, destination, datagram)
            heapq.heappush(self._wire, entry)

    def run(self, seconds: float) -> None:
        """Let `seconds` pass."""
        end = self.now + seconds
        while True:
            timers = [at for host in self.hosts if (at := host.device.next_timer()) is not None]
            wire = [self._wire[0][0]] if self._wire else []
            at = max(min(timers + wire, default=end + 1), self.now)
            if at > end:
                self.now = end
                return
            self.now = at
            while self._wire and self._wire[0][0] <= at:
                _, _, source, destination, datagram = heapq.heappop(self._wire)
                if destination in self.by_address:
                    self.by_address[destination].receive(datagram, source)
            for host in self.hosts:
                due = host.device.next_timer()
                if due is not None and due <= at:
                    host.perform(host.device.handle_timer(at, self.unix_now))

    def talk(self, a: Host, b: Host) -> None:
        """One packet from a to b, and its arrival asserted."""
        packet = ipv4(a.inner, b.inner, str(next(self._order)).encode())
        a.send(packet)
        self.run(0.1)
        assert packet in b.inbox
