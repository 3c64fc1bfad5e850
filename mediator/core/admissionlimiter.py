"""Who may connect: limits before login, and bans of single addresses (DESIGN §8), without I/O.

    a source (IPv4 address, IPv6 /64) is      when                                      its connections are
    free                                      it has tokens, and its penalty is low     let in
    slowed                                    it used up its tokens: each costs one,    closed at once
                                              a login gives it back
    banned                                    its penalty reached BAN_AT                closed at once, until the
                                                                                        ban ends or is lifted

A penalty comes from what is done wrong before the login, fades with time, and belongs to one source: never to a range.
A source that comes back wrong after a ban is banned for twice as long. What is logged in is never touched.

Unauthenticated connections are limited together, too: in a neighbourhood (/24, /56), where the next one is refused; in
a region (/16, /48: what one customer of a provider has), likewise; by family and in all, where room is made: of the
most crowded region the connection that came first goes. So whoever has one /48, or many, holds no more places than
there are, and whoever comes from elsewhere still gets in.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from netctl.model.addresses import SocketAddress

MAX_UNAUTHENTICATED = 1000
MAX_OF_A_FAMILY = 750
"""Connections before login, in all and of one IP version: whoever floods by one leaves a quarter to the other."""
MAX_UNAUTHENTICATED_PER_PREFIX = 64
"""From one /24 or /56: a house full of members behind one NAT, at once."""
MAX_UNAUTHENTICATED_PER_REGION = {4: 256, 6: 128}
"""From one /16 (a carrier's customers share it) or /48 (one site has all of it, RFC 6177)."""
TOKENS = 128.0
TOKENS_PER_S = 4.0
"""Connections of one source that lead to no login: a house full of members that reconnect twice, then slowly."""
BAN_AT = 30.0
FADES_PER_S = 0.25
"""A member with a wrong key tries again at most every few seconds, and so never gets there."""
BAN_S = 60.0
MAX_BAN_S = 3600.0
FORGET_S = 4 * 3600.0
"""After so long in peace a ban starts at its shortest again."""
MAX_SOURCES = 16_384
"""Remembered at once, some 6 MB; past it the quiet ones are forgotten, then new ones are let in unremembered."""
SWEEP_EVERY_S = 5.0

Offence = Literal["tls", "invite", "login", "timeout", "garbage"]
POINTS: Mapping[Offence, float] = {"tls": 1.0, "timeout": 1.0, "invite": 0.5, "login": 2.0, "garbage": 5.0}
"""Not speaking TLS, staying silent, an invite that is used up (a class room tries the same one), a login that is
refused, and what no client of ours sends."""
Refusal = Literal["banned", "slowed", "prefix full", "region full"]


@dataclass(slots=True)
class _Source:
    seen_at: float
    tokens: float = TOKENS
    penalty: float = 0.0
    ban_s: float = 0.0
    """How long the last ban was."""
    until: float = float("-inf")
    """End of the last ban."""
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Ban:
    """A source that is banned now."""

    source: str
    left_s: float
    refused: int
    """Connections closed since the ban began."""


@dataclass(frozen=True, slots=True)
class Admittance:
    """What becomes of a connection that came."""

    refused: Refusal | None
    """None: it is in, unauthenticated, until `leave` or `authenticated`."""
    ticket: int = 0
    """The number of a connection that is in."""
    evicted: int | None = None
    """The ticket of another connection, which has to go now."""


@dataclass(frozen=True, slots=True)
class _Unauthenticated:
    address: SocketAddress
    prefix: str
    region: str
    version: int


def source_of(address: SocketAddress) -> str:
    """What is counted as one: an IPv4 address, an IPv6 /64."""
    if not address.is_ipv6:
        return address.host
    return str(ipaddress.ip_network((address.host.partition("%")[0], 64), strict=False))


def prefix_of(address: SocketAddress) -> str:
    """The neighbourhood whose connections are limited together: /24 or /56."""
    if not address.is_ipv6:
        return address.host.rpartition(".")[0] + ".0/24"
    return str(ipaddress.ip_network((address.host.partition("%")[0], 56), strict=False))


def region_of(address: SocketAddress) -> str:
    """What one customer of a provider may have whole: /16 or /48."""
    if not address.is_ipv6:
        return ".".join(address.host.split(".")[:2]) + ".0.0/16"
    return str(ipaddress.ip_network((address.host.partition("%")[0], 48), strict=False))


class AdmissionLimiter:
    """Counts unauthenticated connections and judges sources. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}
        self._unauthenticated: dict[int, _Unauthenticated] = {}
        """By ticket, the one that came first at the front."""
        self._prefixes: Counter[str] = Counter()
        self._regions: Counter[str] = Counter()
        self._versions: Counter[int] = Counter()
        self._tickets = 0
        self._swept_at = float("-inf")

    @property
    def unauthenticated(self) -> int:
        """Connections before login."""
        return len(self._unauthenticated)

    def admit(self, address: SocketAddress, now: float) -> Admittance:
        """A connection came."""
        source = self._source(address, now)
        if source is not None:
            if now < source.until:
                source.refused += 1
                return Admittance("banned")
            if source.tokens < 1.0:
                source.refused += 1
                return Admittance("slowed")
        version = 6 if address.is_ipv6 else 4
        connection = _Unauthenticated(address, prefix_of(address), region_of(address), version)
        if self._prefixes[connection.prefix] >= MAX_UNAUTHENTICATED_PER_PREFIX:
            return Admittance("prefix full")
        if self._regions[connection.region] >= MAX_UNAUTHENTICATED_PER_REGION[version]:
            return Admittance("region full")
        evicted = None
        if self._versions[version] >= MAX_OF_A_FAMILY:
            evicted = self._make_room(version)
        elif len(self._unauthenticated) >= MAX_UNAUTHENTICATED:
            evicted = self._make_room(None)
        if source is not None:
            source.tokens -= 1.0
        self._tickets += 1
        self._unauthenticated[self._tickets] = connection
        for counter, key in self._counters(connection):
            counter[key] += 1
        return Admittance(None, self._tickets, evicted)

    def authenticated(self, ticket: int, now: float) -> None:
        """The connection is authenticated now, and its source may come back as often as it can do that."""
        connection = self._unauthenticated.get(ticket)
        if connection is None:
            return
        self.leave(ticket)
        source = self._source(connection.address, now)
        if source is not None:
            source.tokens = min(TOKENS, source.tokens + 1.0)

    def leave(self, ticket: int) -> None:
        """An unauthenticated connection is gone. Idempotent: one that had to make room has left already."""
        connection = self._unauthenticated.pop(ticket, None)
        if connection is None:
            return
        for counter, key in self._counters(connection):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]

    def _counters(self, connection: _Unauthenticated) -> tuple[tuple[Counter[Any], str | int], ...]:
        return (
            (self._prefixes, connection.prefix),
            (self._regions, connection.region),
            (self._versions, connection.version),
        )

    def _make_room(self, version: int | None) -> int:
        """Of the most crowded region (of this IP version) the connection that came first; its ticket."""
        there = [
            item for item in self._unauthenticated.items() if version is None or item[1].version == version
        ]
        most = max(self._regions[connection.region] for _, connection in there)
        ticket = next(number for number, connection in there if self._regions[connection.region] == most)
        self.leave(ticket)
        return ticket

    def offend(self, address: SocketAddress, offence: Offence, now: float) -> Ban | None:
        """An unauthenticated connection did wrong. The ban that this led to, if it did."""
        source = self._source(address, now)
        if source is None or now < source.until:
            return None
        source.penalty += POINTS[offence]
        if source.penalty < BAN_AT:
            return None
        recent = now - source.until < FORGET_S
        source.ban_s = min(2 * source.ban_s, MAX_BAN_S) if source.ban_s and recent else BAN_S
        source.until, source.penalty, source.refused = now + source.ban_s, 0.0, 0
        return Ban(source_of(address), source.ban_s, 0)

    def bans(self, now: float) -> list[Ban]:
        """The sources that are banned now, the longest first."""
        found = [
            Ban(name, source.until - now, source.refused)
            for name, source in self._sources.items()
            if now < source.until
        ]
        return sorted(found, key=lambda ban: (-ban.left_s, ban.source))

    def unban(self, name: str) -> bool:
        """Forget what is held against a source. False: nothing is."""
        return self._sources.pop(name, None) is not None

    def _source(self, address: SocketAddress, now: float) -> _Source | None:
        name = source_of(address)
        source = self._sources.get(name)
        if source is None:
            if len(self._sources) >= MAX_SOURCES and not self._sweep(now):
                return None
            source = self._sources[name] = _Source(now)
        passed = max(0.0, now - source.seen_at)
        source.seen_at = now
        source.tokens = min(TOKENS, source.tokens + passed * TOKENS_PER_S)
        source.penalty = max(0.0, source.penalty - passed * FADES_PER_S)
        return source

    def _sweep(self, now: float) -> bool:
        """Forget whoever nothing is held against. Once in a while: a flood of sources must not make it work."""
        if now - self._swept_at < SWEEP_EVERY_S:
            return False
        self._swept_at = now
        quiet = max(TOKENS / TOKENS_PER_S, BAN_AT / FADES_PER_S)
        self._sources = {
            name: source
            for name, source in self._sources.items()
            if now < source.until or now - source.seen_at < quiet
        }
        return len(self._sources) < MAX_SOURCES
