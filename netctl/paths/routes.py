"""All the ways to one peer: its candidates, the addresses it was heard from, and the probes on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.paths.candidates import path_kind, usable
from netctl.paths.constants import MAX_ROUTES, PONGS_PER_SECOND
from netctl.paths.effects import SendDatagram
from netctl.paths.route import Route
from netctl.wire import probe
from netctl.wire.probe import Probe, ProbeFlag, ProbeKeys, ProbeType


@dataclass(frozen=True, slots=True)
class Self:
    """What a pair knows about its own host; replaced as a whole when it changes."""

    key: WireGuardKey
    addresses: tuple[SocketAddress, ...] = ()
    """Own candidates of every kind: never probed."""
    hosts: tuple[SocketAddress, ...] = ()
    """Own host candidates: what is near is a LAN."""


class Routes:
    """The routes of one peer by address, at most `MAX_ROUTES`."""

    def __init__(self, keys: ProbeKeys, me: Self, rng: Callable[[int], bytes]) -> None:
        self.keys = keys
        self.me = me
        self._rng = rng
        self._remote: dict[SocketAddress, str] = {}
        self._by_address: dict[SocketAddress, Route] = {}
        self._pong_window = (0.0, 0)

    def __len__(self) -> int:
        return len(self._by_address)

    def get(self, address: SocketAddress) -> Route | None:
        """The route to this address, if it is one."""
        return self._by_address.get(address)

    def all(self) -> list[Route]:
        """Every route."""
        return list(self._by_address.values())

    @property
    def introduced(self) -> bool:
        """The peer's candidates are known."""
        return bool(self._remote)

    @property
    def remote(self) -> Mapping[SocketAddress, str]:
        """The peer's candidates, as it offered them, and their kinds."""
        return self._remote

    def outside(self) -> list[SocketAddress]:
        """Where the peer's NATs are: its IPv4 candidates outside, as far as nothing has answered there yet."""
        kinds = ("srflx", "mapped", "prflx")
        return [
            route.address
            for route in self._by_address.values()
            if route.kind in kinds and route.last_pong_at is None and not route.address.is_ipv6
        ]

    def adopt(self, remote: dict[SocketAddress, str], keep: Route | None) -> None:
        """Replace the peer's candidates; the path in use and what it was heard from stay."""
        self._remote = remote
        for address, route in list(self._by_address.items()):
            if address not in remote and route is not keep and route.kind != "prflx":
                del self._by_address[address]
        for address, kind in remote.items():
            if address not in self.me.addresses and len(self) < MAX_ROUTES:
                route = self._by_address.setdefault(address, Route(address, kind))
                route.kind = kind
                route.path = path_kind(address, kind, remote, self.me.hosts)

    def peer_reflexive(self, source: SocketAddress) -> Route | None:
        """The peer was heard from an address that it did not offer; None when that is no route."""
        if len(self) >= MAX_ROUTES or not usable(source) or source in self.me.addresses:
            return None
        route = Route(source, "prflx", path_kind(source, "prflx", self._remote, self.me.hosts))
        self._by_address[source] = route
        return route

    def ping(self, route: Route, now: float, *, using: bool) -> SendDatagram:
        """A question on this route."""
        transaction = self._rng(probe.TRANSACTION_LEN)
        route.sent(transaction, now)
        return self._send(Probe(ProbeType.PING, transaction, _flags(route, using)), route.address)

    def knock(self, destination: SocketAddress, ttl: int | None = None) -> SendDatagram:
        """A ping that nobody waits for: it opens our NAT, or is a guess at the peer's.

        A peer that hears it pings back where it came from, and that is a route then.
        """
        sent = self._send(Probe(ProbeType.PING, self._rng(probe.TRANSACTION_LEN)), destination)
        return SendDatagram(sent.destination, sent.data, ttl)

    def pong(self, ping: Probe, source: SocketAddress, now: float, *, using: bool) -> list[SendDatagram]:
        """The answer to a ping, unless there were too many."""
        start, count = self._pong_window
        if now - start >= 1.0:
            start, count = now, 0
        self._pong_window = (start, count + 1)
        if count >= PONGS_PER_SECOND:
            return []
        answer = Probe(ProbeType.PONG, ping.transaction, _flags(self.get(source), using), source)
        return [self._send(answer, source)]

    def _send(self, message: Probe, destination: SocketAddress) -> SendDatagram:
        return SendDatagram(destination, probe.seal(self.keys, message, self._rng(probe.NONCE_LEN)))


def _flags(route: Route | None, using: bool) -> ProbeFlag:
    known = ProbeFlag.NONE if route is None else route.flags
    return known | ProbeFlag.USING if using else known
