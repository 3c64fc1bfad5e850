"""The membership of a document as the hub needs it, computed once per document."""

from __future__ import annotations

from dataclasses import dataclass, field

from netctl.config.reach.visibility import visible_members
from netctl.model.addresses import Address
from netctl.model.document import Document, Member, MemberState
from netctl.model.keys import WireGuardKey


@dataclass(slots=True)
class Membership:
    """The members, who sees whom, and the addresses that the document fixes."""

    document: Document = field(default_factory=lambda: Document({}, {}))
    by_key: dict[WireGuardKey, Member] = field(default_factory=dict)
    visible: dict[str, frozenset[str]] = field(default_factory=dict)
    fixed: dict[str, frozenset[Address]] = field(default_factory=dict)
    """Fixed addresses by network name."""


def membership_of(document: Document) -> Membership:
    """The membership of a valid document."""
    by_key = {
        member.wireguard: member
        for member in document.members.values()
        if member.wireguard is not None and member.state is MemberState.PRESENT
    }
    fixed = {
        name: frozenset(address for addresses in network.addresses.values() for address in addresses)
        for name, network in document.networks.items()
    }
    return Membership(document, by_key, visible_members(document), fixed)
