"""Who may do what with the page, from what a request says and where it comes from. Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import yaml
from msgspec.structs import replace

from netctl.config import Loaded, load_document
from netctl.config.edit.excerpt import excerpt
from netctl.config.load.build import select
from netctl.config.reach.visibility import visible_members
from netctl.model.document import Document
from netctl.ui.websessions import Session
from netctl.wire.agentrequests import PeerState, StatusReply

PART = "networks.yaml"
"""The name in errors and marks of a member's part of the document."""
MAX_WIDTH = 100
"""Columns of a member's part of the document."""
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine on itself; no other machine's browser can be led here by them."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A member that the overlay vouches for, and whether it may change anything."""

    member: str
    operator: bool


def host_of(header: str) -> str | None:
    """The name in a Host header, without its port and in lower case; None for what is none (RFC 9110 §7.2)."""
    if not header or any(mark in header for mark in "/@?#\\ ,"):
        return None
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname


def same_origin(origin: str | None, host: str, scheme: str = "http") -> bool:
    """Whether a change comes from our own page. Every browser says where a POST comes from (RFC 6454 §7)."""
    return origin is not None and origin.lower() == f"{scheme}://{host.lower()}"


def overlay_addresses(status: StatusReply) -> frozenset[str]:
    """This host's own addresses in its networks."""
    return frozenset(a for network in status.networks.values() for a in network.addresses)


def callers(document: Document, status: StatusReply) -> dict[str, Caller]:
    """By overlay address: the members that the document lets in.

    This host's own addresses are nobody's, for every user of this machine can connect from them; and an address that
    two members say they have is nobody's either.
    """
    operators = frozenset(select(document.ui.operators, document.members))
    viewers = frozenset(select(document.ui.viewers, document.members))
    held: dict[str, str | None] = dict.fromkeys(overlay_addresses(status))
    for peer in status.peers:
        for address in {text for texts in peer.addresses.values() for text in texts}:
            held[address] = None if address in held else peer.name
    return {
        address: Caller(name, name in operators)
        for address, name in held.items()
        if name is not None and (name in operators or name in viewers)
    }


def address_of(text: str) -> str:
    """A client's address as the overlay writes it: without a zone, and IPv4 as itself (RFC 4291 §2.5.5.2)."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody may see of a host: these networks, and in them these members.

    `names` None: everybody, and the host's own affairs too (its troubles, what `doctor` says, the whole document).
    """

    networks: frozenset[str]
    names: frozenset[str] | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is kept from it."""
        return self.names is None

    def peers(self, peers: Iterable[PeerState]) -> list[PeerState]:
        """Those of the peers that are in sight, with their addresses in these networks alone."""
        shown = [
            peer
            for peer in peers
            if (self.names is None or peer.name in self.names)
            and not peer.addresses.keys().isdisjoint(self.networks)
        ]
        return shown if self.names is None else [replace(peer, addresses=self._part(peer)) for peer in shown]

    def _part(self, peer: PeerState) -> dict[str, list[str]]:
        return {network: held for network, held in peer.addresses.items() if network in self.networks}


def sight(status: StatusReply | None, session: Session, part: Loaded | None) -> Sight:
    """What a session sees. `part`: a member's part of the document (`part_of`); only a viewer is held to it."""
    if session.member is None or session.operator:
        return Sight(frozenset(status.networks) if status is not None else frozenset())
    if status is None or part is None:
        return Sight(frozenset(), frozenset())
    mine = part.document.networks.keys() & status.networks.keys()
    return Sight(frozenset(mine), frozenset(part.document.members))


def part_of(document: Document, member: str) -> Loaded | None:
    """What a member may see of a document, as the mediator would tell it: its networks, whom it sees there, the
    rules.

    None where that is nothing.
    """
    seen = visible_members(document).get(member)
    if seen is None or member not in document.members:
        return None
    plain = json.loads(excerpt(document, member, seen))
    text = yaml.safe_dump(
        plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=MAX_WIDTH
    )
    return load_document(text, PART)
