"""Limits of connections before login, and bans of single addresses (DESIGN §8), without I/O.

    a source (IPv4 address, IPv6 /64) is      when                                      its connections are
    free                                      it has tokens, and its penalty is low     admitted
    slowed                                    it used up its tokens: each costs one,    closed at once
                                              a login gives it back
    banned                                    its penalty reached BAN_AT                closed at once, until the
                                                                                        ban ends or is lifted

An offence before login adds to the penalty. The penalty fades with time, and belongs to one source, never to a range.
A source that offends again after a ban is banned for twice as long. Logged-in connections are never affected.

Unauthenticated connections also have common limits. Per neighbourhood (/24, /56) and per region (/16, /48: the range
of one customer of a provider), further connections wait for a place (`mediator.core.waitingroom`): nothing is read from
them, and nothing is sent to them. So thousands of members behind one address that lost their mediator at the same time
log in as fast as the mediator can do it, and an attacker has no more places than if it were refused. Per IP version and
in all, a new connection evicts the oldest one of the most crowded region: an attacker with one or many /48 cannot keep
others out.

    a connection       event                                                        then
    comes              its neighbourhood and its region have a place                admitted
    comes              they have none, and there is room to wait                    waits
    comes              there is no room                                             refused: full
    waits              there is a place, and it is chosen by chance                 admitted, as if it came now
    waits              WAIT_S have passed                                           refused: full
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mediator.core.waitingroom import Waiting, WaitingRoom
from netctl.model.addresses import SocketAddress

MAX_UNAUTHENTICATED = 1000
MAX_OF_A_FAMILY = 750
"""Connections before login, in all and per IP version: a flood by one version leaves a quarter to the other."""
MAX_UNAUTHENTICATED_PER_PREFIX = 64
"""Connections before login per /24 or /56: enough for many members behind one NAT at once."""
MAX_UNAUTHENTICATED_PER_REGION = {4: 256, 6: 128}
"""Connections before login per /16 (shared by a carrier's customers) or /48 (the range of one site, RFC 6177)."""
MAX_WAITING = 4096
"""Connections that wait for one of these places, in all. Each costs a file descriptor, and the kernel holds what its
client sends: one small TLS record of an honest one, 64 KB of an attacker's.
"""
MAX_WAITING_PER_REGION = 2048
"""The hosts of a company, or a carrier's customers, that lost their mediator at the same moment."""
WAIT_S = 7.0
"""A client gives up after 10 s (`netctl.session.mediatorchoice.LIMIT_S`): enough is left for its login."""
TOKENS = 128.0
TOKENS_PER_S = 4.0
"""Connections per source without a login: many members behind one NAT reconnect twice, then slowly."""
BAN_AT = 30.0
FADES_PER_S = 0.25
"""Penalty points per second. A member with a wrong key retries every few seconds at most, and so is never banned."""
BAN_S = 60.0
MAX_BAN_S = 3600.0
FORGET_S = 4 * 3600.0
"""After so long without an offence, the next ban is of the shortest length."""
MAX_SOURCES = 16_384
"""Sources remembered, about 6 MB. Above it quiet sources are forgotten, then new ones are admitted without a record."""
SWEEP_EVERY_S = 5.0

Offence = Literal["tls", "invite", "login", "timeout", "garbage"]
POINTS: Mapping[Offence, float] = {"tls": 1.0, "timeout": 1.0, "invite": 0.5, "login": 2.0, "garbage": 5.0}
"""Penalty points: no TLS, silence, an invite that is used up (a class room tries the same one), a refused login, and
bytes that no client of ours sends.
"""
Refusal = Literal["banned", "slowed", "prefix full", "region full"]


@dataclass(slots=True)
class _Source:
    seen_at: float
    tokens: float = TOKENS
    penalty: float = 0.0
    ban_s: float = 0.0
    """Length of the last ban."""
    until: float = float("-inf")
    """End of the last ban."""
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Ban:
    """A banned source."""

    source: str
    left_s: float
    refused: int
    """Connections closed since the ban began."""


@dataclass(frozen=True, slots=True)
class Admittance:
    """The decision on a new connection."""

    refused: Refusal | None
    """Why the connection is refused; None: admitted, and unauthenticated until `leave` or `authenticated`."""
    ticket: int = 0
    """The number of the admitted connection."""
    evicted: int | None = None
    """The ticket of another connection, which the caller must end now."""
    waits: bool = False
    """Whether the connection has to wait: the caller neither reads nor writes until `turns` names its ticket."""


@dataclass(frozen=True, slots=True)
class _Unauthenticated:
    address: SocketAddress
    prefix: str
    region: str
    version: int


def source_of(address: SocketAddress) -> str:
    """The source of an address: the IPv4 address, or the IPv6 /64."""
    if not address.is_ipv6:
        return address.host
    return str(ipaddress.ip_network((address.host.partition("%")[0], 64), strict=False))


def prefix_of(address: SocketAddress) -> str:
    """The neighbourhood of an address, with a common limit: /24 or /56."""
    if not address.is_ipv6:
        return address.host.rpartition(".")[0] + ".0/24"
    return str(ipaddress.ip_network((address.host.partition("%")[0], 56), strict=False))


def region_of(address: SocketAddress) -> str:
    """The region of an address, as one customer of a provider may own: /16 or /48."""
    if not address.is_ipv6:
        return ".".join(address.host.split(".")[:2]) + ".0.0/16"
    return str(ipaddress.ip_network((address.host.partition("%")[0], 48), strict=False))


def _version(address: SocketAddress) -> int:
    return 6 if address.is_ipv6 else 4


class AdmissionLimiter:
    """Counts unauthenticated connections, and bans sources. `now`: monotonic seconds."""

    def __init__(self, chance: Callable[[], float] = lambda: 0.0) -> None:
        """`chance`: random numbers in [0, 1), which decide whose turn it is among those that wait."""
        self._sources: dict[str, _Source] = {}
        self._unauthenticated: dict[int, _Unauthenticated] = {}
        """By ticket, oldest first."""
        self._prefixes: Counter[str] = Counter()
        self._regions: Counter[str] = Counter()
        self._versions: Counter[int] = Counter()
        self._room = WaitingRoom(chance)
        self._due: set[str] = set()
        """Regions in which a connection waits and a place may be free."""
        self._tickets = 0
        self._swept_at = float("-inf")

    @property
    def unauthenticated(self) -> int:
        """Count of connections before login."""
        return len(self._unauthenticated)

    @property
    def waiting(self) -> int:
        """Count of connections that wait for a place."""
        return len(self._room)

    def admit(self, address: SocketAddress, now: float) -> Admittance:
        """Decide on a new connection."""
        refused = self._refused(address, now)
        if refused is not None:
            return Admittance(refused)
        connection = _Unauthenticated(address, prefix_of(address), region_of(address), _version(address))
        crowded = self._crowded(connection)
        if crowded is None:
            return self._enter(self._new_ticket(), connection, now)
        if (
            len(self._room) >= MAX_WAITING
            or self._room.in_region(connection.region) >= MAX_WAITING_PER_REGION
        ):
            return Admittance(crowded)
        ticket = self._new_ticket()
        self._room.enter(ticket, Waiting(address, connection.prefix, connection.region, now))
        return Admittance(None, ticket, waits=True)

    def turns(self, now: float) -> list[Admittance]:
        """Connections that need to wait no longer, admitted or refused, with their tickets.

        To be called after each `leave` and `authenticated`, and now and then, while any connection waits.
        """
        found: list[Admittance] = []
        while self._due:
            region = self._due.pop()
            most = MAX_UNAUTHENTICATED_PER_REGION[6 if ":" in region else 4]
            while self._regions[region] < most:
                ticket = self._room.pick(region, self._is_full)
                if ticket is None:
                    break
                found.append(self._called(ticket, now))
        while (late := self._room.first_since(now - WAIT_S)) is not None:
            waiting = self._room.leave(late)
            assert waiting is not None
            full: Refusal = "prefix full" if self._is_full(waiting.prefix) else "region full"
            found.append(Admittance(full, late))
        return found

    def _called(self, ticket: int, now: float) -> Admittance:
        """The turn of a connection that waited: what it does now counts, as if it came now."""
        waiting = self._room.leave(ticket)
        assert waiting is not None
        address = waiting.address
        if (refused := self._refused(address, now)) is not None:
            return Admittance(refused, ticket)
        connection = _Unauthenticated(address, waiting.prefix, waiting.region, _version(address))
        return self._enter(ticket, connection, now)

    def _new_ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def _refused(self, address: SocketAddress, now: float) -> Refusal | None:
        """Why connections of this source are refused, whatever others do."""
        source = self._source(address, now)
        if source is None:
            return None
        refused: Refusal | None = "banned" if now < source.until else None
        if refused is None and source.tokens < 1.0:
            refused = "slowed"
        source.refused += refused is not None
        return refused

    def _is_full(self, prefix: str) -> bool:
        return self._prefixes[prefix] >= MAX_UNAUTHENTICATED_PER_PREFIX

    def _crowded(self, connection: _Unauthenticated) -> Refusal | None:
        """Which of its ranges leaves a new connection no place, those that wait there before it included."""
        region, prefix = connection.region, connection.prefix
        if self._is_full(prefix):
            return "prefix full"
        if region in self._due or self._regions[region] >= MAX_UNAUTHENTICATED_PER_REGION[connection.version]:
            return "region full"
        return "prefix full" if self._room.in_prefix(region, prefix) else None

    def _enter(self, ticket: int, connection: _Unauthenticated, now: float) -> Admittance:
        """Give a connection a place."""
        version, evicted = connection.version, None
        if self._versions[version] >= MAX_OF_A_FAMILY:
            evicted = self._make_room(version)
        elif len(self._unauthenticated) >= MAX_UNAUTHENTICATED:
            evicted = self._make_room(None)
        source = self._source(connection.address, now)
        if source is not None:
            source.tokens -= 1.0
        self._unauthenticated[ticket] = connection
        for counter, key in self._counters(connection):
            counter[key] += 1
        return Admittance(None, ticket, evicted)

    def authenticated(self, ticket: int, now: float) -> None:
        """A connection has authenticated; its source gets its token back, so logins are not limited."""
        connection = self._unauthenticated.get(ticket)
        if connection is None:
            return
        self.leave(ticket)
        source = self._source(connection.address, now)
        if source is not None:
            source.tokens = min(TOKENS, source.tokens + 1.0)

    def leave(self, ticket: int) -> None:
        """An unauthenticated connection has ended. Idempotent, as an evicted connection has left already."""
        if self._room.leave(ticket) is not None:
            return
        connection = self._unauthenticated.pop(ticket, None)
        if connection is None:
            return
        if self._room.in_region(connection.region):
            self._due.add(connection.region)
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
        """Evict the oldest connection of the most crowded region (of this IP version); returns its ticket."""
        there = [
            item for item in self._unauthenticated.items() if version is None or item[1].version == version
        ]
        most = max(self._regions[connection.region] for _, connection in there)
        ticket = next(number for number, connection in there if self._regions[connection.region] == most)
        self.leave(ticket)
        return ticket

    def offend(self, address: SocketAddress, offence: Offence, now: float) -> Ban | None:
        """Record an offence of an unauthenticated connection; returns the ban that it causes, or None."""
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
        """The banned sources, longest remaining ban first."""
        found = [
            Ban(name, source.until - now, source.refused)
            for name, source in self._sources.items()
            if now < source.until
        ]
        return sorted(found, key=lambda ban: (-ban.left_s, ban.source))

    def unban(self, name: str) -> bool:
        """Forget ban and penalty of a source. False: there is no record."""
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
        """Forget quiet sources, at most every SWEEP_EVERY_S, so that a flood of sources causes little work."""
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
