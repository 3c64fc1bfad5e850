"""Port mappings: the values, the effects, the numbers, and what every way of asking a router has in common."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal

from netctl.model.addresses import SocketAddress

ProtocolName = Literal["PCP", "NAT-PMP", "UPnP"]

LEASE_S = 1200
"""Asked for, seconds: what a crashed host leaves behind is soon gone, and a lost mapping is noticed at half of it."""
LEASE_LONGEST_S = 86_400
"""A router that gives longer is asked again daily (RFC 6887 §15.1.1)."""
LEASE_SHORTEST_S = 30
"""A router that gives less is taken for one that gives this much: no flood of renewals."""
PERMANENT_CHECK_S = 600.0
"""A mapping without an end is looked at this often: the router may have restarted."""
ASK_WAITS = (0.25, 0.5, 0.5)
"""Seconds after each question to a router, which is on our own network; then the next protocol's turn."""
SEARCH_WAITS = (0.5, 1.0, 1.5)
"""The same for UPnP's search, whose answers may be delayed by MX seconds (UDA 1.1 §1.3.3)."""
RENEW_REST_S = 15.0
"""Between tries to renew, at least; and what is left of a lease below this is given up."""
REST_FIRST_S = 60.0
REST_LONGEST_S = 1800.0
"""Between rounds of questions to a router that maps nothing: doubles."""
CHECK_REST_S = 30.0
"""Between renewals that something but the clock asks for."""
CONFLICT_TRIES = 5
"""Ports tried on a UPnP router where others have taken ours."""


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
    """A protocol's success."""

    external: SocketAddress
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A protocol's failure, in words for people; `silent`: nobody answered at all."""

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
    """One HTTP exchange with the router over TCP; the answer comes back under the same ticket."""

    ticket: int
    port: int
    data: bytes


@dataclass(frozen=True, slots=True)
class MappingChanged:
    """For candidates, status and logs; None: there is none any more."""

    mapping: Mapping | None


PortEffect = ToRouter | Search | Fetch | MappingChanged


class Asker:
    """One protocol's conversation about one port with one router. `outcome` is None while it goes on."""

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
        """Ask the router to forget the mapping; nobody waits for the answer."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return self._due if self.outcome is None else None

    def handle_timer(self, now: float) -> list[PortEffect]:
        """Ask again, or give up."""
        raise NotImplementedError

    def handle_router(self, data: bytes, now: float) -> bool:
        """A datagram of the router's PCP port or to its announcement port. True: it has lost its mappings."""
        del data, now
        return False

    def handle_unreachable(self) -> None:
        """The router says that nobody listens on its PCP port."""

    def handle_search(self, data: bytes, now: float) -> list[PortEffect]:
        """A datagram of the router answered our search."""
        del data, now
        return []

    def handle_fetched(self, ticket: int, status: int, body: bytes, now: float) -> list[PortEffect]:
        """The answer to a Fetch; status 0: there was none."""
        del ticket, status, body, now
        return []
