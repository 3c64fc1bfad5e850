"""Port mappings: values, effects, constants, and the base class of the protocols that ask a router for one."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal

from netctl.model.addresses import SocketAddress

ProtocolName = Literal["PCP", "NAT-PMP", "UPnP"]

LEASE_S = 1200
"""Seconds of lease that we ask for: a crashed host's mapping ends soon, and a lost one is detected at half of it."""
LEASE_LONGEST_S = 86_400
"""Longest lease in seconds that we use: a mapping with a longer one is renewed daily (RFC 6887 §15.1.1)."""
LEASE_SHORTEST_S = 30
"""Shortest lease in seconds that we use: a shorter one would cause a flood of renewals."""
PERMANENT_CHECK_S = 600.0
"""Seconds between checks of a mapping without an end: the router may have restarted."""
ASK_WAITS = (0.25, 0.5, 0.5)
"""Seconds to wait after each request to a router, which is on our LAN; then the next protocol is tried."""
SEARCH_WAITS = (0.5, 1.0, 1.5)
"""The same for UPnP's search, whose answers may be delayed by MX seconds (UDA 1.1 §1.3.3)."""
RENEW_REST_S = 15.0
"""Least seconds between tries to renew; a lease with less time left is given up."""
REST_FIRST_S = 60.0
REST_LONGEST_S = 1800.0
"""Seconds between rounds of requests to a router that maps nothing: doubles, up to the second value."""
CHECK_REST_S = 30.0
"""Least seconds between renewals that an event causes, not the clock."""
CONFLICT_TRIES = 5
"""Ports tried on a UPnP router where another host has ours."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The router of the IPv4 default route, and this host's own address towards it."""

    router: IPv4Address
    own: IPv4Address


@dataclass(frozen=True, slots=True)
class Mapping:
    """A UDP port of the router that leads to ours. `lifetime_s` 0: until it is removed."""

    protocol: ProtocolName
    internal_port: int
    external: SocketAddress
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class Granted:
    """The success of a protocol; `lifetime_s` 0: no end."""

    external: SocketAddress
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The failure of a protocol, in words for people; `silent`: there was no answer at all."""

    reason: str
    silent: bool = False


@dataclass(frozen=True, slots=True)
class ToRouter:
    """Send to the router's PCP port, from our own address."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Search:
    """Send to SSDP's group and to the router's own SSDP port."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """Make one HTTP exchange with the router over TCP; the answer is passed back with the same ticket."""

    ticket: int
    port: int
    data: bytes


@dataclass(frozen=True, slots=True)
class MappingChanged:
    """The mapping has changed, for candidates, status and logs; None: there is none any more."""

    mapping: Mapping | None


PortEffect = ToRouter | Search | Fetch | MappingChanged


class Asker:
    """One protocol's exchange with one router about one port. `outcome` is None while it is running."""

    name: ProtocolName

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self.port = port
        self.outcome: Granted | Refused | None = None
        self._due: float | None = None

    def begin(self, suggested_port: int, now: float) -> list[PortEffect]:
        """Ask for the mapping, or for its renewal."""
        raise NotImplementedError

    def remove(self) -> list[PortEffect]:
        """Ask the router to remove the mapping, without waiting for an answer."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return self._due if self.outcome is None else None

    def handle_timer(self, now: float) -> list[PortEffect]:
        """Ask again, or give up."""
        raise NotImplementedError

    def handle_router(self, data: bytes, now: float) -> bool:
        """Take a datagram of the router's PCP port or an announcement. True: the router has lost its mappings."""
        del data, now
        return False

    def handle_unreachable(self) -> None:
        """The router reports its PCP port as closed."""

    def handle_search(self, data: bytes, now: float) -> list[PortEffect]:
        """Take the router's answer to our search."""
        del data, now
        return []

    def handle_fetched(self, ticket: int, status: int, body: bytes, now: float) -> list[PortEffect]:
        """Take the answer to a Fetch; status 0: there was none."""
        del ticket, status, body, now
        return []
