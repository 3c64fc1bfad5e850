"""Adds members that joined by invite to a document: the mediator adds those of its store, a host those of its view.

The document takes precedence. A guest is added only to networks that permit invites, in the group `invited`, without
routes, and never with a name or a key that the document already uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from netctl.config.load.semantic import INVITED_GROUP, SEGMENT_MAX_MEMBERS
from netctl.model.document import Document, Member, MemberState, Mode, Network
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import View

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
"""A strict DNS label, as in the schema."""
MAX_GUESTS = 20_000
"""Guests at most: as many as the schema permits in a network's list; more would be an attack."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A member that joined by invite."""

    name: str
    key: WireGuardKey
    networks: tuple[str, ...]
    """Names of the networks that the guest was admitted to; none while it waits for approval."""
    identity: IdentityKey | None = None
    """Known only to the mediator."""


def guests_in(document: Document, view: View | None) -> list[Guest]:
    """Members of the mediator's view that the document does not name, with their networks in the view."""
    if view is None or not document.mediators:
        return []
    known = {member.wireguard for member in document.members.values()}
    networks: dict[WireGuardKey, list[str]] = {}
    for network, key in view.leases:
        if key not in known:
            networks.setdefault(key, []).append(network)
    return [
        Guest(member.name, key, tuple(networks[key]))
        for key, member in view.members.items()
        if key in networks
    ]


def refused_keys(document: Document) -> dict[WireGuardKey, str]:
    """Keys that the document no longer permits (previous keys, absent members), and the members that had them."""
    found: dict[WireGuardKey, str] = {}
    for name, member in document.members.items():
        found.update((key, name) for key in member.previous_keys)
        if member.state is MemberState.ABSENT and member.wireguard is not None:
            found[member.wireguard] = name
    return found


def with_guests(document: Document, guests: Iterable[Guest]) -> tuple[Document, dict[str, str]]:
    """The document with its guests, and by name why a guest must wait. Guests change no existing member."""
    members = dict(document.members)
    joined: dict[str, list[str]] = {}
    refused = refused_keys(document)
    known = {member.wireguard for member in members.values() if member.wireguard is not None}
    waiting: dict[str, str] = {}
    for count, guest in enumerate(guests):
        if guest.key in known:
            if guest.key in refused:
                waiting[guest.name] = f"the document has taken the key of '{refused[guest.key]}' out of use"
            continue
        reason = _obstacle(guest, members, refused, count)
        if reason is not None:
            waiting[guest.name] = reason
            continue
        known.add(guest.key)
        members[guest.name] = Member(
            guest.name, guest.key, guest.identity, groups=frozenset({INVITED_GROUP}), guest=True
        )
        for name in guest.networks:
            network = document.networks.get(name)
            problem = _closed(network, name, len(joined.get(name, ())))
            if problem is None:
                joined.setdefault(name, []).append(guest.name)
            else:
                waiting[guest.name] = problem
    if len(members) == len(document.members):
        return document, waiting
    return replace(document, members=members, networks=_with(document.networks, joined)), waiting


def _obstacle(
    guest: Guest, members: Mapping[str, Member], refused: Mapping[WireGuardKey, str], count: int
) -> str | None:
    if guest.key in refused:
        return f"the document has taken this key of '{refused[guest.key]}' out of use"
    if not NAME.match(guest.name):
        return "its name is no host name"
    if guest.name in members:
        return f"the name '{guest.name}' belongs to another key"
    return f"there are more than {MAX_GUESTS} invited members" if count >= MAX_GUESTS else None


def obstacle(document: Document, guest: Guest, network: Network, others: Sequence[Guest]) -> str | None:
    """Why a guest, no member of the document, would have to wait if it came to this network after the others.

    None: it takes part at once. `others`: the present guests of this network at least; none of them has its name.
    """
    refused = refused_keys(document)
    reason = _obstacle(guest, document.members, refused, len(others))
    if reason is not None:
        return reason
    joined = 0
    if network.mode is Mode.LAN:
        known = {member.wireguard for member in document.members.values()}
        joined = sum(
            network.name in other.networks
            and other.key not in known
            and _obstacle(other, document.members, refused, 0) is None
            for other in others
        )
    return _closed(network, network.name, joined)


def _closed(network: Network | None, name: str, joined: int) -> str | None:
    """Why a guest may not enter a network; None when it may."""
    if network is None:
        return f"the document has no network '{name}'"
    if not network.join.invites:
        return (
            f"joined '{name}' by invite, and the document lets none in there (`join: {{invites: true}}`): "
            "it waits until `netctl export --document` has put it into the document"
        )
    if network.mode is Mode.LAN and len(network.member_names) + joined >= SEGMENT_MAX_MEMBERS:
        return f"'{name}' is full: `mode: lan` carries at most {SEGMENT_MAX_MEMBERS} members"
    return None


def _with(networks: Mapping[str, Network], joined: Mapping[str, list[str]]) -> dict[str, Network]:
    return {
        name: replace(network, member_names=(*network.member_names, *joined[name]))
        if name in joined
        else network
        for name, network in networks.items()
    }


def without_keys(document: Document, revoked: frozenset[WireGuardKey]) -> Document:
    """The document as if it said `state: absent` for the members with these keys."""
    gone = {name for name, member in document.members.items() if member.wireguard in revoked}
    if not gone:
        return document
    members = {
        name: replace(member, state=MemberState.ABSENT) if name in gone else member
        for name, member in document.members.items()
    }
    networks = {
        name: replace(
            network,
            member_names=tuple(member for member in network.member_names if member not in gone),
            addresses={member: found for member, found in network.addresses.items() if member not in gone},
            hub=network.hub,
        )
        for name, network in document.networks.items()
    }
    return replace(document, members=members, networks=networks)
