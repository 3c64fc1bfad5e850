"""Routes, addresses, names, links and firewalls of other programs on a host that could conflict with netctl. Netctl
reports them and leaves them alone.
"""

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
    """The line's number, from 1."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """All foreign objects that netctl found on a host."""

    routes: tuple[ForeignRoute, ...] = ()
    own: frozenset[Prefix] = frozenset()
    """Prefixes of more than one address that our routes lead to at present: netctl keeps these routes."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Links without our mark under names that we would use (``nseg…``), to their kinds."""
    segment_port: str = ""
    """The holder of the UDP port that segments need, for people: ``the VXLAN link vx0``; empty: no other program."""
    names: tuple[ForeignName, ...] = ()
    """Only names below our domain."""
    resolvers: tuple[Address, ...] = ()
    """The name servers of this host (resolv.conf(5)), without the host itself."""
    stacked: tuple[str, ...] = ()
    """Links that other programs have made on ours (a VLAN or a VXLAN over the tunnels): the kernel removes them with
    ours.
    """

    no_ipv6: str = ""
    """Why links of ours cannot have IPv6 on this host, for people; empty: they can."""
    packet_filter: PacketFilter = field(default_factory=PacketFilter)
    """The host's own firewall."""
    opened: frozenset[Opening] = frozenset()
    """The openings that netctl has made in the host's own firewall."""

    def differs(self, other: Foreign) -> bool:
        """Whether something foreign came or went; our own objects do not count, and a firewall counts by its effects
        only.
        """
        one, two = (
            replace(each, own=frozenset(), packet_filter=PacketFilter(), opened=frozenset())
            for each in (self, other)
        )
        return one != two
