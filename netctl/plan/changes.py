"""The kinds of changes in a plan. Each is one step of an engine, and safe to repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netctl.model.addresses import Address, Prefix
from netctl.model.hoststate import FilterTable, Opening, Peer, Route, SegmentLink, WireGuardLink
from netctl.model.keys import WireGuardKey


@dataclass(frozen=True, slots=True)
class CreateWireGuard:
    """Create the WireGuard link (and start the userspace engine where one is needed), without its peers."""

    link: WireGuardLink


@dataclass(frozen=True, slots=True)
class SetWireGuard:
    """Set key, port and MTU of the existing link."""

    link: WireGuardLink
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenameLink:
    """Give a link of ours its own name back."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class DeleteWireGuard:
    """Remove the link with all its peers."""

    name: str


@dataclass(frozen=True, slots=True)
class SetPeer:
    """Add a peer, or set the fields in `changed` of an existing one, whose session goes on."""

    link: str
    peer: Peer
    added: bool
    changed: tuple[str, ...] = ()
    gained: frozenset[Prefix] = frozenset()
    """Allowed IPs that an existing peer gets; `lost`: those that it gives up. They are for people: `peer` has the
    whole set.
    """
    lost: frozenset[Prefix] = frozenset()


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Remove a peer; its tunnel drops."""

    link: str
    key: WireGuardKey
    path: str = ""


@dataclass(frozen=True, slots=True)
class CreateSegment:
    """Create a segment device, without flood entries and addresses."""

    segment: SegmentLink


@dataclass(frozen=True, slots=True)
class SetSegmentMtu:
    """Set the MTU of a segment device, in bytes."""

    name: str
    mtu: int


@dataclass(frozen=True, slots=True)
class DeleteSegment:
    """Remove a segment device."""

    name: str


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Put an address on a link of ours."""

    link: str
    address: Address
    prefix_len: int


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """Take an address off a link of ours."""

    link: str
    address: Address
    prefix_len: int


@dataclass(frozen=True, slots=True)
class AddFlood:
    """Replicate broadcast of a segment to one underlay address."""

    segment: str
    destination: Address


@dataclass(frozen=True, slots=True)
class RemoveFlood:
    """Stop replicating broadcast to one underlay address."""

    segment: str
    destination: Address


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Add a route, or move an existing one to another source."""

    route: Route
    added: bool


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    """Remove a route of ours."""

    route: Route


@dataclass(frozen=True, slots=True)
class AddUnreachable:
    """Add an `unreachable` route for a prefix of ours, used while no link of ours leads there."""

    destination: Prefix


@dataclass(frozen=True, slots=True)
class RemoveUnreachable:
    """Remove the `unreachable` route of a prefix that is ours no more: the host's other routes count again."""

    destination: Prefix


@dataclass(frozen=True, slots=True)
class SetFilter:
    """Load our nftables table in one transaction."""

    table: FilterTable
    added: bool
    changed: tuple[str, ...] = ()
    """The differences from the table on the host, in words."""


@dataclass(frozen=True, slots=True)
class RemoveFilter:
    """Remove our nftables table."""


@dataclass(frozen=True, slots=True)
class RemoveRewrites:
    """Remove the table that rewrites ports, because our link is gone."""


@dataclass(frozen=True, slots=True)
class SetNames:
    """Write the managed block of the hosts file; an empty mapping removes it."""

    names: Mapping[str, tuple[Address, ...]]
    added: int = 0
    removed: int = 0
    moved: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class OpenFirewall:
    """Open something in the host's own firewall; also an opening of ours that another program has removed."""

    opening: Opening


@dataclass(frozen=True, slots=True)
class CloseFirewall:
    """Remove an opening that netctl made in the host's own firewall."""

    opening: Opening


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """Set a kernel parameter, keeping what it was."""

    key: str
    value: str
    before: str | None = None


@dataclass(frozen=True, slots=True)
class RestoreSysctl:
    """Give a kernel parameter the value it had before us."""

    key: str


Change = (
    CreateWireGuard
    | SetWireGuard
    | RenameLink
    | DeleteWireGuard
    | SetPeer
    | RemovePeer
    | CreateSegment
    | SetSegmentMtu
    | DeleteSegment
    | AddAddress
    | RemoveAddress
    | AddFlood
    | RemoveFlood
    | SetRoute
    | RemoveRoute
    | AddUnreachable
    | RemoveUnreachable
    | SetFilter
    | RemoveFilter
    | RemoveRewrites
    | SetNames
    | SetSysctl
    | RestoreSysctl
    | OpenFirewall
    | CloseFirewall
)
