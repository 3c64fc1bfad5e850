"""The shape of the small internet: which member sits behind which box. Pure: document in, values out.

A file beside the document (`networks.yaml` → `networks.lab.yaml`) may say it:

    nats:
      home: {kind: port-restricted, members: [laptop, console]}
      work: {kind: symmetric-random, members: [desktop]}

Members it does not name, and all of them without such a file, get the default: the first two share one
port-restricted NAT called `home`, everybody else is behind a port-restricted NAT of their own.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from netctl.config.loader import parse
from netctl.lab.nat import NatKind
from netctl.model.document import Document, Mediator
from netctl.model.errors import ConfigError, LocalError

PUBLIC = IPv4Network("203.0.113.0/24")
"""The public segment: a documentation range (RFC 5737), so it is nobody's."""
ROUTER = IPv4Address("203.0.113.1")
FIRST_MEDIATOR = 10
FIRST_NAT = 100
MAX_NATS = 100
"""Two hundred and more namespaces on one machine are for a benchmark, not for a lab."""
MAX_BEHIND = 100
SHARED_BY_DEFAULT = 2
"""Two behind one NAT: the smallest home in which the `lan` path exists."""


@dataclass(frozen=True, slots=True)
class Node:
    """A host of the lab and its address on its own segment."""

    name: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Box:
    """A NAT (or an open router), its public address, the LAN behind it and who lives there."""

    name: str
    kind: NatKind
    wan: IPv4Address
    lan: IPv4Network
    members: tuple[Node, ...]

    @property
    def gateway(self) -> IPv4Address:
        """Its own address inside the LAN."""
        return self.lan[1]


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole internet."""

    mediators: tuple[tuple[Mediator, Node], ...]
    boxes: tuple[Box, ...]
    left_out: tuple[str, ...] = ()
    """Members that have no agent (stock WireGuard apps)."""

    @property
    def members(self) -> tuple[str, ...]:
        """The members with an agent, box by box."""
        return tuple(node.name for box in self.boxes for node in box.members)

    def box_of(self, member: str) -> Box:
        """The box that this member is behind."""
        return next(box for box in self.boxes for node in box.members if node.name == member)


def parse_sidecar(text: str, file: str) -> dict[str, tuple[NatKind, tuple[str, ...]]]:
    """The `nats` of a sidecar file. Raises ConfigError for bad YAML, LocalError for a wrong shape."""
    source = parse(text, file)
    if source.findings:
        raise ConfigError(source.findings)
    tree: Any = source.tree
    nats = tree.get("nats") if isinstance(tree, dict) else None
    if not isinstance(nats, dict):
        raise LocalError(f"{file}: expected a mapping `nats:` of names to {{kind: …, members: […]}}")
    kinds = ", ".join(NatKind)
    found: dict[str, tuple[NatKind, tuple[str, ...]]] = {}
    for name, entry in nats.items():
        members = entry.get("members") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(members, list) or not members:
            raise LocalError(f"{file}: nats.{name}: expected {{kind: …, members: [NAME, …]}}")
        try:
            kind = NatKind(str(entry.get("kind", NatKind.PORT_RESTRICTED)))
        except ValueError as error:
            raise LocalError(f"{file}: nats.{name}.kind: expected one of {kinds}") from error
        found[str(name)] = (kind, tuple(str(member) for member in members))
    return found


def make_topology(document: Document, nats: dict[str, tuple[NatKind, tuple[str, ...]]]) -> Topology:
    """Lay out addresses. Raises LocalError when the document cannot be played in a lab."""
    mediators = _mediators(document)
    present = [member for member in document.members.values() if member.wireguard is not None]
    playable = [member.name for member in present if member.identity is not None or not mediators]
    left_out = tuple(member.name for member in present if member.name not in playable)
    wanted: list[tuple[str, NatKind, tuple[str, ...]]] = []
    placed: set[str] = set()
    for name, (kind, members) in nats.items():
        for member in members:
            if member not in playable:
                raise LocalError(f"nats.{name}: {member!r} is no member with an identity in the document")
            if member in placed:
                raise LocalError(f"nats.{name}: {member!r} is already behind another NAT")
            placed.add(member)
        wanted.append((name, kind, members))
    free = [name for name in playable if name not in placed]
    if not nats and len(free) > SHARED_BY_DEFAULT:
        wanted.append(("home", NatKind.PORT_RESTRICTED, tuple(free[:SHARED_BY_DEFAULT])))
        free = free[SHARED_BY_DEFAULT:]
    wanted.extend((f"{name}-nat", NatKind.PORT_RESTRICTED, (name,)) for name in free)
    if not wanted:
        raise LocalError("the document has no member that could run in a lab: members need an identity")
    if len(wanted) > MAX_NATS or any(len(members) > MAX_BEHIND for _, _, members in wanted):
        raise LocalError(f"a lab holds up to {MAX_NATS} NATs with {MAX_BEHIND} members each")
    boxes = tuple(_box(index, name, kind, members) for index, (name, kind, members) in enumerate(wanted))
    return Topology(mediators=mediators, boxes=boxes, left_out=left_out)


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


def _box(index: int, name: str, kind: NatKind, members: tuple[str, ...]) -> Box:
    lan = (
        ipaddress.ip_network(f"192.168.{index + 1}.0/24")
        if kind.translates
        else ipaddress.ip_network(f"198.51.{100 + index}.0/24")
    )
    assert isinstance(lan, IPv4Network)
    nodes = tuple(Node(member, lan[10 + place]) for place, member in enumerate(members))
    return Box(name=name, kind=kind, wan=PUBLIC[FIRST_NAT + index], lan=lan, members=nodes)
