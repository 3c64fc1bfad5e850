"""The changes a plan is made of. Each is one step that an engine can do, and safe to do again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netctl.model.addresses import Address, Prefix
from netctl.model.hoststate import FilterTable, Opening, Peer, Route, SegmentLink, WireGuardLink
from netctl.model.keys import WireGuardKey


@dataclass(frozen=True, slots=True)
class CreateWireGuard:
    """Make the WireGuard link (and start the userspace engine where one is needed), without its peers."""

    link: WireGuardLink


@dataclass(frozen=True, slots=True)
class SetWireGuard:
    """Set key, port and MTU of the existing link."""

    link: WireGuardLink
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenameLink:
    """Give a link of ours its name back."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class DeleteWireGuard:
    """Remove the link with all its peers."""

    name: str


@dataclass(frozen=True, slots=True)
class SetPeer:
    """Add a peer, or set what `changed` names on an existing one; its session goes on."""

    link: str
    peer: Peer
    added: bool
    changed: tuple[str, ...] = ()
    gained: frozenset[Prefix] = frozenset()
    """Allowed IPs that an existing peer gets; `lost`: that it gives up. For people: `peer` says all."""
    lost: frozenset[Prefix] = frozenset()


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Remove a peer; its tunnel drops."""

    link: str
    key: WireGuardKey
    path: str = ""


@dataclass(frozen=True, slots=True)
class CreateSegment:
    """Make a segment device, without flood entries and addresses."""

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
    """Let a prefix of ours go nowhere while no link of ours leads there."""

    destination: Prefix


@dataclass(frozen=True, slots=True)
class RemoveUnreachable:
    """Let a prefix that is ours no more go wherever the host's other routes lead."""

    destination: Prefix


@dataclass(frozen=True, slots=True)
class SetFilter:
    """Load our nftables table in one transaction."""

    table: FilterTable
    added: bool
    changed: tuple[str, ...] = ()
    """What is different from the table that is there, in words."""


@dataclass(frozen=True, slots=True)
class RemoveFilter:
    """Remove our nftables table."""


@dataclass(frozen=True, slots=True)
class RemoveRewrites:
    """Remove the table that rewrites ports: there is no link any more that it could be for."""


@dataclass(frozen=True, slots=True)
class SetNames:
    """Write the managed block of the hosts file; an empty mapping removes it."""

    names: Mapping[str, tuple[Address, ...]]
    added: int = 0
    removed: int = 0
    moved: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class OpenFirewall:
    """Have the host's own firewall let something through; also where it was open and somebody has closed it."""

    opening: Opening


@dataclass(frozen=True, slots=True)
class CloseFirewall:
    """Take back what the host's own firewall lets through because of us."""

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
