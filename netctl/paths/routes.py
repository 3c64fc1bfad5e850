"""All routes to one peer: its candidates, the addresses from which its pings came, and the probes on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netctl.model.addresses import Prefix, SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.paths.budget import Bucket
from netctl.paths.candidates import in_reach, path_kind, usable
from netctl.paths.constants import (
    ANSWERED_LATELY,
    HEARD_BURST,
    HEARD_FROM_KEPT,
    HEARD_RATE,
    MAX_HEARD_FROM,
    MAX_ROUTES,
    PONGS_PER_SECOND,
    UNPROVEN_BURST,
    UNPROVEN_RATE,
)
from netctl.paths.effects import SendDatagram
from netctl.paths.freshness import Freshness, Numbers
from netctl.paths.route import Route
from netctl.wire import probe
from netctl.wire.probe import Probe, ProbeFlag, ProbeKeys, ProbeType

WIREGUARD_OVERHEAD = 32
"""Bytes that WireGuard adds to a packet, inside UDP."""


@dataclass(frozen=True, slots=True)
class Self:
    """A pair's knowledge of its own host; replaced as a whole when it changes."""

    key: WireGuardKey
    addresses: tuple[SocketAddress, ...] = ()
    """Our own candidates of every kind, which are never probed."""
    hosts: tuple[SocketAddress, ...] = ()
    """Our own host candidates: addresses near one of them are in a LAN."""
    mtu: int = 0
    """The MTU of this host's tunnels in bytes; 0: not known."""
    inside: tuple[Prefix, ...] = ()
    """Prefixes inside the tunnels: a path to such an address would carry the tunnel inside itself."""

    def takes(self, address: SocketAddress) -> bool:
        """Whether packets to a peer may be sent to this address."""
        return usable(address) and address not in self.addresses and not self.is_inside(address)

    def is_inside(self, address: SocketAddress) -> bool:
        """Whether packets to this address enter a tunnel."""
        ip = address.address
        return any(ip in prefix for prefix in self.inside)


class Routes:
    """The routes of one peer by address, at most `MAX_ROUTES`."""

    def __init__(
        self, keys: ProbeKeys, me: Self, rng: Callable[[int], bytes], unproven: Bucket, numbers: Numbers
    ) -> None:
        """`unproven`: all pairs' budget for addresses that never answered; `numbers`: the numbers of our pings."""
        self.keys = keys
        self._offered = Bucket(UNPROVEN_BURST, UNPROVEN_RATE)
        self._heard = Bucket(HEARD_BURST, HEARD_RATE)
        self._unproven_all = unproven
        self.freshness = Freshness()
        self._numbers = numbers
        self.me = me
        self._rng = rng
        self._remote: dict[SocketAddress, str] = {}
        self._by_address: dict[SocketAddress, Route] = {}
        self._pong_window = (0.0, 0)

    def __len__(self) -> int:
        return len(self._by_address)

    def get(self, address: SocketAddress) -> Route | None:
        """The route to this address, or None."""
        return self._by_address.get(address)

    def all(self) -> list[Route]:
        """Every route."""
        return list(self._by_address.values())

    @property
    def introduced(self) -> bool:
        """Whether the peer's candidates are known."""
        return bool(self._remote)

    @property
    def remote(self) -> Mapping[SocketAddress, str]:
        """The kinds of the peer's offered candidates, by address."""
        return self._remote

    def outside(self) -> list[SocketAddress]:
        """The peer's IPv4 candidates outside its NATs that have not answered yet."""
        kinds = ("srflx", "mapped", "prflx")
        return [
            route.address
            for route in self._by_address.values()
            if route.kind in kinds and route.last_pong_at is None and not route.address.is_ipv6
        ]

    def _has_another_port(self, remote: dict[SocketAddress, str]) -> bool:
        """Whether the peer's socket has another port in these candidates: the same host address with another port."""
        gone = {to.address for to, kind in self._remote.items() if kind == "host" and to not in remote}
        return any(kind == "host" and to.address in gone for to, kind in remote.items())

    def adopt(self, remote: dict[SocketAddress, str], keep: Route | None) -> None:
        """Replace the peer's candidates; the path in use and peer-reflexive addresses stay."""
        if keep is not None:
            keep.left = keep.address not in remote and (keep.left or self._has_another_port(remote))
        self._remote = remote
        for address, route in list(self._by_address.items()):
            if address not in remote and route is not keep and route.kind != "prflx":
                del self._by_address[address]
        for address, kind in remote.items():
            if self.me.takes(address) and (address in self._by_address or self._room(keep)):
                route = self._by_address.setdefault(address, Route(address, kind))
                route.kind = kind
                route.path = path_kind(address, kind, remote, self.me.hosts, self.me.addresses)

    def review(self, me: Self) -> list[Route]:
        """Take our host's changed addresses; forgets and returns the routes that may no longer be used."""
        self.me = me
        gone = [route for route in self._by_address.values() if not me.takes(route.address)]
        for route in gone:
            del self._by_address[route.address]
        return gone

    def _room(self, keep: Route | None) -> bool:
        """Whether there is a place for one more route; may remove a peer-reflexive one, unanswered and oldest first."""
        if len(self) < MAX_ROUTES:
            return True
        heard = [r for r in self._by_address.values() if r.kind == "prflx" and r is not keep]
        if not heard:
            return False
        goes = min(heard, key=lambda route: (route.proven, route.last_pong_at or 0.0, route.heard_at))
        del self._by_address[goes.address]
        return True

    def peer_reflexive(self, source: SocketAddress, now: float) -> Route | None:
        """Add a route to an address that the peer sent from but did not offer; None: it may not be used.

        An attacker who copies a datagram of the peer can send it from any address. So addresses that never answered
        have few places, and the one heard longest ago is removed first.
        """
        if not self.me.takes(source):
            return None
        unproven = [r for r in self._by_address.values() if r.kind == "prflx" and not r.proven]
        unproven.sort(key=lambda route: route.heard_at)
        for route in unproven:
            if now - route.heard_at > HEARD_FROM_KEPT or len(unproven) >= MAX_HEARD_FROM:
                del self._by_address[route.address]
                unproven = unproven[1:]
        if not self._room(None):
            return None
        route = Route(source, "prflx", path_kind(source, "prflx", self._remote, self.me.hosts), heard_at=now)
        self._by_address[source] = route
        return route

    def in_reach(self, route: Route) -> bool:
        """Whether a ping to this route can reach the peer, and no other host, as far as the address tells."""
        return (
            route.proven or route.kind == "prflx" or in_reach(route.address, self.me.addresses, self._remote)
        )

    def describe(self, route: Route) -> str:
        """One line that says why this route is not used."""
        if route.pings_sent or self.in_reach(route):
            return route.describe()
        return f"{route.describe_address()}: of another private network, not tried"

    def is_new(self, ping: Probe, source: SocketAddress, now: float) -> bool:
        """Whether this ping is new and no replay."""
        route = self.get(source)
        answered = route is not None and route.answered_within(ANSWERED_LATELY, now)
        return self.freshness.takes(ping, now, from_peer=answered)

    def may_send(self, route: Route | None, now: float) -> bool:
        """Take a datagram to this route from the budget; False: it is exhausted. A route that answered needs none."""
        if route is not None and route.proven:
            return True
        own = self._heard if route is None or route.kind == "prflx" else self._offered
        return own.has(now) and self._unproven_all.take(now) and own.take(now)

    def ping(self, route: Route, now: float, *, using: bool, data: bool = False) -> list[SendDatagram]:
        """A ping on this route; none if the budget for routes that never answered is exhausted.

        `data`: the ping also asks for a packet through the tunnel.
        """
        if not self.may_send(route, now):
            return []
        transaction = self.transaction()
        route.sent(transaction, now)
        if data:
            route.asks.add(transaction)
        flags = _flags(route, using, now, data=data)
        return [self._send(self._question(transaction, flags, now), route.address)]

    def untracked(self, route: Route, now: float, *, using: bool) -> tuple[bytes, SendDatagram]:
        """A ping whose answer the route does not expect, so that a missing one does not count; and its transaction."""
        transaction = self.transaction()
        return transaction, self._send(
            self._question(transaction, _flags(route, using, now), now), route.address
        )

    def padded(self, route: Route, size: int, now: float, *, using: bool) -> tuple[bytes, SendDatagram]:
        """A ping that is outside as large as a packet of `size` bytes in the tunnel, and its transaction."""
        transaction, sent = self.untracked(route, now, using=using)
        return transaction, SendDatagram(sent.destination, _padded(sent.data, size), whole=True)

    def relayed_ping(self, size: int, now: float) -> tuple[bytes, bytes]:
        """A ping that the relay carries, as large as a packet of `size` bytes in the tunnel, and its transaction.

        It says nothing about any path (no HAVE_PONG, no USING): none is chosen by it. With 0 it is small and has
        no flag PADDED, which tells the peer that our way to the relay is another.
        """
        transaction = self.transaction()
        sealed = self._seal(
            self._question(transaction, ProbeFlag.PADDED if size else ProbeFlag.NONE, now), relayed=True
        )
        return transaction, _padded(sealed, size)

    def relayed_pong(self, ping: Probe, source: SocketAddress, now: float) -> bytes | None:
        """The answer to a ping that came by the relay; None when there were too many."""
        if not self._pongs_left(now):
            return None
        return self._seal(Probe(ProbeType.PONG, ping.transaction, ProbeFlag.PADDED, source), relayed=True)

    def knock(
        self,
        destination: SocketAddress,
        now: float,
        *,
        ttl: int | None = None,
        transaction: bytes | None = None,
    ) -> SendDatagram:
        """A ping whose answer no route expects: it opens our NAT, or guesses the peer's port. Takes no budget here.

        A peer that receives it pings back, and that address becomes a route. `transaction`: of a caller that waits for
        the answer.
        """
        made = self.transaction() if transaction is None else transaction
        sent = self._send(self._question(made, ProbeFlag.NONE, now), destination)
        return SendDatagram(sent.destination, sent.data, ttl)

    def transaction(self) -> bytes:
        """A random transaction: only a receiver of the ping can answer it."""
        return self._rng(probe.TRANSACTION_LEN)

    def _question(self, transaction: bytes, flags: ProbeFlag, now: float) -> Probe:
        return Probe(ProbeType.PING, transaction, flags, number=self._numbers.following(now))

    def pong(
        self, ping: Probe, source: SocketAddress, now: float, *, using: bool, data: bool = False
    ) -> list[SendDatagram]:
        """The answer to a ping, unless there were too many. `data`: the packet that the ping asked for was sent."""
        if not self._pongs_left(now) or not self.may_send(self.get(source), now):
            return []
        flags = _flags(self.get(source), using, now, data=data)
        answer = Probe(ProbeType.PONG, ping.transaction, flags, source)
        return [self._send(answer, source)]

    def _pongs_left(self, now: float) -> bool:
        start, count = self._pong_window
        if now - start >= 1.0:
            start, count = now, 0
        self._pong_window = (start, count + 1)
        return count < PONGS_PER_SECOND

    def _send(self, message: Probe, destination: SocketAddress) -> SendDatagram:
        return SendDatagram(destination, self._seal(message))

    def _seal(self, message: Probe, *, relayed: bool = False) -> bytes:
        return probe.seal(self.keys, message, self._rng(probe.NONCE_LEN), relayed=relayed)


def _padded(data: bytes, size: int) -> bytes:
    return data.ljust(size + WIREGUARD_OVERHEAD, b"\0")


def _flags(route: Route | None, using: bool, now: float, *, data: bool = False) -> ProbeFlag:
    have_pong = route is not None and route.last_pong_at is not None
    refused = route is not None and now < route.refused_until
    return _combined(have_pong, refused, using, data)


@functools.cache
def _combined(have_pong: bool, refused: bool, using: bool, data: bool) -> ProbeFlag:
    """The flags of a probe of ours. Kept, because an enumeration makes each combination anew."""
    known = ProbeFlag.PADDED
    known |= ProbeFlag.HAVE_PONG if have_pong else ProbeFlag.NONE
    known |= ProbeFlag.REFUSED if refused else ProbeFlag.NONE
    known |= ProbeFlag.USING if using else ProbeFlag.NONE
    return known | ProbeFlag.DATA if data else known
