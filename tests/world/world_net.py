"""The wires: sites with and without a NAT, datagrams that get lost and overtake each other, streams that stall."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from netctl.model.addresses import SocketAddress
from tests.world.world_clock import Clock

LAN_DELAY_S = 0.001
JITTER_S = 0.03
"""More than the time between two packets of a burst: they overtake each other."""
STALL_S = 0.5
"""How often a stream that is cut tries again."""
CONNECT_TIMEOUT_S = 10.0


class Station(Protocol):
    """Whoever has a UDP port."""

    site: Site
    address: SocketAddress
    powered: bool

    def datagram(self, data: bytes, source: SocketAddress, port: int) -> None:
        """A datagram came to `port`."""


@dataclass(eq=False)
class Site:
    """A place on the internet. With a NAT: mappings per inner source, filter per outer address and port."""

    public: str
    nat: bool
    delay_s: float
    _ports: dict[SocketAddress, int] = field(default_factory=dict)
    _inner: dict[int, SocketAddress] = field(default_factory=dict)
    _allowed: set[tuple[int, SocketAddress]] = field(default_factory=set)
    _next: int = 61000

    def outbound(self, source: SocketAddress, destination: SocketAddress) -> SocketAddress:
        """The source that the internet sees (RFC 4787: endpoint-independent mapping)."""
        if not self.nat:
            return source
        if source not in self._ports:
            port = source.port
            while port in self._inner:
                port = self._next
                self._next += 1
            self._ports[source], self._inner[port] = port, source
        port = self._ports[source]
        self._allowed.add((port, destination))
        return SocketAddress(self.public, port)

    def inbound(self, source: SocketAddress, port: int) -> SocketAddress | None:
        """Whom a datagram from outside reaches (address- and port-dependent filtering)."""
        return self._inner.get(port) if (port, source) in self._allowed else None

    def rebind(self) -> None:
        """The box was switched off and on."""
        self._ports.clear()
        self._inner.clear()
        self._allowed.clear()
        self._next += 100


class Internet:
    """All sites and what lies between them."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self.clock = clock
        self.chance = chance
        self.loss = 0.0
        self.stations: list[Station] = []
        self.cuts: set[frozenset[str]] = set()
        """Pairs of sites between which nothing passes."""
        self._sites: dict[str, Site] = {}
        """Those that something was sent to, by their address."""

    def cut(self, one: Site, other: Site) -> bool:
        """Whether nothing passes between two sites."""
        return frozenset((one.public, other.public)) in self.cuts

    def delay(self, one: Site, other: Site) -> float:
        """One way, now."""
        return one.delay_s + other.delay_s + self.chance.random() * JITTER_S

    def send(self, sender: Station, port: int, destination: SocketAddress, data: bytes) -> None:
        """One datagram."""
        if not sender.powered or self.chance.random() < self.loss:
            return
        own = sender.address
        source = own if port == own.port else SocketAddress(own.host, port)
        if sender.site.nat:
            for station in self.stations:
                if station.site is sender.site and station.address.host == destination.host:
                    hand = partial(self._hand, station, data, source, destination.port)
                    self.clock.after(LAN_DELAY_S, hand)
                    return
        outer = sender.site.outbound(source, destination)
        found = self._site(destination.host)
        if found is None or found is sender.site or self.cut(sender.site, found):
            return
        site = found
        self.clock.after(self.delay(sender.site, site), lambda: self._enter(site, data, outer, destination))

    def _site(self, host: str) -> Site | None:
        site = self._sites.get(host)
        if site is None:
            site = next((s.site for s in self.stations if s.site.public == host), None)
            if site is not None:
                self._sites[host] = site
        return site

    def _enter(self, site: Site, data: bytes, source: SocketAddress, destination: SocketAddress) -> None:
        inner = site.inbound(source, destination.port) if site.nat else destination
        for station in self.stations:
            if inner is not None and station.site is site and station.address.host == inner.host:
                self._hand(station, data, source, inner.port)
                return

    @staticmethod
    def _hand(station: Station, data: bytes, source: SocketAddress, port: int) -> None:
        if station.powered:
            station.datagram(data, source, port)


class End:
    """One end of a stream. The owner sets `on_bytes` and `on_lost`."""

    def __init__(self, net: Internet, site: Site) -> None:
        self._net = net
        self._site = site
        self._coming: deque[bytes | None] = deque()
        self._pumping = False
        self.closed = False
        self.other: End
        self.on_bytes: Callable[[bytes], None]
        self.on_lost: Callable[[], None]

    def write(self, data: bytes) -> None:
        """Send bytes, torn anywhere."""
        if self.closed:
            return
        middle = self._net.chance.randrange(len(data) + 1)
        for piece in (data[:middle], data[middle:]):
            self.other._queue(piece)

    def close(self) -> None:
        """The other end learns it as soon as anything passes."""
        if not self.closed:
            self.closed = True
            self.other._queue(None)

    def vanish(self) -> None:
        """This end is lost and the other is not told: a machine without power, a forgetful middlebox."""
        self.closed = True

    def _queue(self, piece: bytes | None) -> None:
        self._coming.append(piece)
        if not self._pumping:
            self._pumping = True
            self._net.clock.after(self._net.delay(self._site, self.other._site), self._pump)

    def _pump(self) -> None:
        if self._net.cut(self._site, self.other._site):
            self._net.clock.after(STALL_S, self._pump)
            return
        self._pumping = False
        while self._coming and not self.closed:
            piece = self._coming.popleft()
            if piece is None:
                self.closed = True
                self.on_lost()
            elif piece:
                self.on_bytes(piece)


def stream(net: Internet, one: Site, other: Site) -> tuple[End, End]:
    """Both ends of a new stream."""
    ends = End(net, one), End(net, other)
    ends[0].other, ends[1].other = ends[1], ends[0]
    return ends
