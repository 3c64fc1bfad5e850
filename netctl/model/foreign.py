"""What is on a host and not ours, as far as it could be in the way. Netctl names it and leaves it alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netctl.model.addresses import Address, Prefix
from netctl.model.hoststate import Opening
from netctl.model.packetfilter import PacketFilter


@dataclass(frozen=True, slots=True)
class ForeignRoute:
    """A route or an address on a link that is not ours. An address is its /32 or /128."""

    destination: Prefix
    what: str
    """For people: ``the route 10.77.0.0/16 over eth0``, ``the address 10.77.0.9 on lo``."""
    is_address: bool = False
    link: str = ""


@dataclass(frozen=True, slots=True)
class ForeignName:
    """A line of the hosts file outside our block that gives a name an address."""

    name: str
    address: Address
    line: int
    """From 1."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Everything that is in nobody's document."""

    routes: tuple[ForeignRoute, ...] = ()
    own: frozenset[Prefix] = frozenset()
    """Where routes of ours to more than one address lead at present: what is already ours stays."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Links without our mark under names that we would use (``nseg…``), to their kinds."""
    segment_port: str = ""
    """Who holds the UDP port that segments need, for people: ``the VXLAN link vx0``; empty: nobody else."""
    names: tuple[ForeignName, ...] = ()
    """Only names below our domain."""
    resolvers: tuple[Address, ...] = ()
    """Whom this host asks for names (resolv.conf(5)), other than itself."""
    stacked: tuple[str, ...] = ()
    """Links that others have made on ours (a VLAN or a VXLAN on the tunnels): the kernel removes them with ours."""

    no_ipv6: str = ""
    """Why this host can have no IPv6 on links of ours, for people; empty: it can."""
    packet_filter: PacketFilter = field(default_factory=PacketFilter)
    """The host's own firewall."""
    opened: frozenset[Opening] = frozenset()
    """What of it is there because of us."""

    def differs(self, other: Foreign) -> bool:
        """Whether something foreign came or went; what is ours does not count, and a firewall only by its effects."""
        one, two = (
            replace(each, own=frozenset(), packet_filter=PacketFilter(), opened=frozenset())
            for each in (self, other)
        )
        return one != two
