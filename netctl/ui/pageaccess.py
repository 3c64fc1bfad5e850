"""Who may do what with the page, from what a request says and where it comes from. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from netctl.config.build import select
from netctl.model.document import Document
from netctl.wire.agentrequests import StatusReply

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


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


def visible(status: StatusReply, document: Document | None, member: str | None) -> frozenset[str]:
    """The networks of this host that somebody may see: all with a link, a member those that it is in itself."""
    if member is None or document is None:
        return frozenset(status.networks) if member is None else frozenset()
    mine = {network.name for network in document.networks_of(member)}
    return frozenset(name for name in status.networks if name in mine)
