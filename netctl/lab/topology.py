"""Topology of the lab: which member is behind which box, with addresses. Pure.

A sidecar file beside the document (`networks.yaml` → `networks.lab.yaml`) may define the boxes:

    nats:
      home: {kind: port-restricted, members: [laptop, console]}
      work: {kind: symmetric-random, members: [desktop], hairpin: true}
      flat: {behind: carrier, members: [nas]}
      carrier: {kind: port-changed}

`behind` puts a box behind another box, as a home router behind a carrier's NAT (RFC 6598 addresses between
the two). `netctl.lab.properties` lists the other keys of an entry.

Members that the file does not name (without a file: all members) get the default: the first two share one
port-restricted NAT called `home`, each of the others is behind its own port-restricted NAT.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NamedTuple

from netctl.config.load.loader import clean, parse
from netctl.config.load.schema import fits_definition
from netctl.lab.nat import NatKind
from netctl.lab.properties import PLAIN, Ipv6, Properties, parse_properties
from netctl.model.document import Document, Mediator
from netctl.model.errors import ConfigError, LocalError

PUBLIC = IPv4Network("203.0.113.0/24")
"""The public segment: a documentation range (RFC 5737), which no real network uses."""
ROUTER = IPv4Address("203.0.113.1")
FIRST_MEDIATOR = 10
FIRST_NAT = 100
MAX_NATS = 100
"""More boxes would need over 200 namespaces on one machine: a benchmark, not a lab."""
MAX_BEHIND = 100
FIRST_BEHIND = 150
"""The first host number of boxes behind a box; members have lower numbers."""
PUBLIC6 = IPv6Network("2001:db8:ff::/64")
"""The public segment's IPv6 prefix (documentation, RFC 3849); each LAN has its own prefix."""
ROUTER6 = PUBLIC6[1]
SHARED_BY_DEFAULT = 2
"""Members behind one NAT by default: two is the smallest count for a `lan` path."""


@dataclass(frozen=True, slots=True)
class Node:
    """A host of the lab and its address on its segment."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Box:
    """A NAT or open router: its WAN address, the LAN behind it and that LAN's members."""

    name: str
    kind: NatKind
    wan: IPv4Address
    lan: IPv4Network
    members: tuple[Node, ...]
    behind: str | None = None
    """The box whose LAN holds the WAN interface; None: the public segment."""
    properties: Properties = PLAIN
    number: int = 0
    """The number of the box, from 1."""

    @property
    def has_ipv6(self) -> bool:
        """Whether the hosts behind the box have IPv6 addresses."""
        return self.properties.ipv6 is not Ipv6.NONE

    @property
    def wan6(self) -> IPv6Address:
        """The box's IPv6 address on the public segment, if it has IPv6."""
        return PUBLIC6[FIRST_NAT + self.number]

    @property
    def lan6(self) -> IPv6Network:
        """The IPv6 prefix of the LAN, if the box has IPv6."""
        return IPv6Network(f"2001:db8:{self.number:x}::/64")

    @property
    def gateway(self) -> IPv4Address:
        """The box's address inside the LAN."""
        return self.lan[1]


class Nat(NamedTuple):
    """A box as a sidecar file defines it."""

    kind: NatKind
    members: tuple[str, ...]
    behind: str | None = None
    properties: Properties = PLAIN


Wish = Nat | tuple[NatKind, tuple[str, ...]]
"""The definition of a box: complete, or only kind and members."""


@dataclass(frozen=True, slots=True)
class Topology:
    """All hosts and boxes of the lab."""

    mediators: tuple[tuple[Mediator, Node], ...]
    boxes: tuple[Box, ...]
    left_out: tuple[str, ...] = ()
    """Members that have no agent (stock WireGuard apps)."""

    @property
    def members(self) -> tuple[str, ...]:
        """The members with an agent, box by box."""
        return tuple(node.name for box in self.boxes for node in box.members)

    def box_of(self, member: str) -> Box:
        """The box in front of a member."""
        return next(box for box in self.boxes for node in box.members if node.name == member)


def parse_sidecar(text: str, file: str) -> dict[str, Nat]:
    """The `nats` of a sidecar file. Raises ConfigError for bad YAML, LocalError for a wrong shape."""
    source = parse(text, file)
    if source.findings:
        raise ConfigError(source.findings)
    tree: Any = source.tree
    nats = tree.get("nats") if isinstance(tree, dict) else None
    if not isinstance(nats, dict):
        raise LocalError(f"{file}: expected a mapping `nats:` of names to {{kind: …, members: […]}}")
    for name in nats:
        if not fits_definition("name", name):
            raise LocalError(
                f"{file}: {clean(str(name))!r} is no name of a box: small letters, digits, inner hyphens"
            )
    carriers = {entry.get("behind") for entry in nats.values() if isinstance(entry, dict)}
    return {str(name): _nat(entry, f"{file}: nats.{name}", name in carriers) for name, entry in nats.items()}


def _nat(entry: Any, where: str, carrier: bool) -> Nat:
    members = entry.get("members", [] if carrier else None) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(members, list) or not (members or carrier):
        raise LocalError(f"{where}: expected {{kind: …, members: [NAME, …]}}")
    try:
        kind = NatKind(str(entry.get("kind", NatKind.PORT_RESTRICTED)))
    except ValueError as error:
        raise LocalError(f"{where}.kind: expected one of {', '.join(NatKind)}") from error
    behind = entry.get("behind")
    return Nat(
        kind,
        tuple(str(member) for member in members),
        None if behind is None else str(behind),
        parse_properties(entry, where),
    )


def make_topology(document: Document, nats: Mapping[str, Wish], *, offline: Collection[str] = ()) -> Topology:
    """Assign boxes and addresses. `offline`: members without a host, which are never online. Raises LocalError if a lab
    cannot run the document."""
    mediators = _mediators(document)
    unhosted = frozenset(offline)
    present = [
        member
        for member in document.members.values()
        if member.wireguard is not None and member.name not in unhosted
    ]
    playable = [member.name for member in present if member.identity is not None or not mediators]
    left_out = tuple(member.name for member in present if member.name not in playable)
    wanted: list[tuple[str, Nat]] = []
    placed: set[str] = set()
    for name, wish in nats.items():
        nat = Nat(*wish)
        for member in nat.members:
            if member not in playable:
                raise LocalError(f"nats.{name}: {member!r} is no member with an identity in the document")
            if member in placed:
                raise LocalError(f"nats.{name}: {member!r} is already behind another NAT")
            placed.add(member)
        wanted.append((name, nat))
    free = [name for name in playable if name not in placed]
    if not nats and len(free) > SHARED_BY_DEFAULT:
        wanted.append(("home", Nat(NatKind.PORT_RESTRICTED, tuple(free[:SHARED_BY_DEFAULT]))))
        free = free[SHARED_BY_DEFAULT:]
    wanted.extend((f"{name}-nat", Nat(NatKind.PORT_RESTRICTED, (name,))) for name in free)
    if not wanted:
        raise LocalError("the document has no member that could run in a lab: members need an identity")
    if len(wanted) > MAX_NATS or any(len(nat.members) > MAX_BEHIND for _, nat in wanted):
        raise LocalError(f"a lab holds up to {MAX_NATS} NATs with {MAX_BEHIND} members each")
    return Topology(mediators=mediators, boxes=_boxes(dict(wanted)), left_out=left_out)


def _mediators(document: Document) -> tuple[tuple[Mediator, Node], ...]:
    nodes = []
    for index, mediator in enumerate(document.mediators):
        try:
            ipaddress.ip_address(mediator.host)
        except ValueError:
            name = "mediator" if index == 0 else f"mediator{index + 1}"
            nodes.append((mediator, Node(name, PUBLIC[FIRST_MEDIATOR + index])))
        else:
            raise LocalError(
                f"mediators: a lab gives {mediator.host} an address of its own: write the mediator by name"
            )
    return tuple(nodes)


def _boxes(wanted: Mapping[str, Nat]) -> tuple[Box, ...]:
    """Boxes on the public segment first, then the boxes behind them, so that a carrier is wired before its boxes."""
    for name, nat in wanted.items():
        _check_nat(name, nat, wanted)
    ordered = sorted(wanted.items(), key=lambda entry: entry[1].behind is not None)
    carriers = {nat.behind for nat in wanted.values()}
    boxes: dict[str, Box] = {}
    places: dict[str, int] = {}
    for number, (name, nat) in enumerate(ordered, 1):
        wan = PUBLIC[FIRST_NAT + number - 1]
        if nat.behind is not None:
            place = places[nat.behind] = places.get(nat.behind, -1) + 1
            wan = boxes[nat.behind].lan[FIRST_BEHIND + place]
        if not nat.kind.translates:
            lan = IPv4Network(f"198.51.{99 + number}.0/24")
        else:
            lan = IPv4Network(f"100.64.{number}.0/24" if name in carriers else f"192.168.{number}.0/24")
        members = tuple(Node(member, lan[10 + place]) for place, member in enumerate(nat.members))
        boxes[name] = Box(name, nat.kind, wan, lan, members, nat.behind, nat.properties, number)
    return tuple(boxes.values())


def _check_nat(name: str, nat: Nat, wanted: Mapping[str, Nat]) -> None:
    where = f"nats.{name}"
    if nat.properties.hairpin and not nat.kind.translates:
        raise LocalError(f"{where}.hairpin: {nat.kind} translates nothing, so there is nothing to hairpin")
    if nat.behind is None:
        return
    if nat.behind not in wanted or nat.behind == name:
        raise LocalError(f"{where}.behind: no other box {nat.behind!r} in `nats`")
    if wanted[nat.behind].behind is not None:
        raise LocalError(f"{where}.behind: {nat.behind!r} is itself behind a box: a lab has two layers")
    if not nat.kind.translates:
        raise LocalError(f"{where}.behind: a box behind another one must translate, {nat.kind} does not")
    if nat.properties.ipv6 is not Ipv6.NONE:
        raise LocalError(f"{where}.ipv6: only a box on the public segment has IPv6")
