"""Removes the parts of an excerpt that a host which joined by invite does not accept without a person's consent.

Such a host has no document of its own to compare the excerpt with, so the mediator's operator decides with which
members it communicates. The operator must not gain control of the host's other traffic: a route to 0.0.0.0/1, to the
resolver or to a public prefix would send traffic that does not belong to the network to a member of the mediator's
choice. Only a person at the host can agree to that (`netctl join --allow-routes`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import replace

from netctl.config.load.semantic import in_private_space
from netctl.config.resolve.conflicts import overlaps
from netctl.config.resolve.resolution import Condition
from netctl.model.addresses import Address, Prefix, parse_address
from netctl.model.document import Document, Member, Network
from netctl.model.foreign import Foreign

AGREE = "`sudo netctl join --allow-routes` agrees to it"
MAX_ROUTES = 256
"""Routes of all gateways together: more than a company's sites need, and too few to fill a routing table."""
MAX_NETWORKS = 64
"""Networks at most: nobody joins so many, each `lan` network is a link, and an excerpt could have thousands."""
SHOWN = 3
"""Conditions of one kind for one member: they fit on a screen."""


def within_consent(document: Document, me: str, foreign: Foreign) -> tuple[Document, tuple[Condition, ...]]:
    """The document without the parts that need a person's consent, and a condition for each removed part.

    Removed are: networks whose pool is outside private space (RFC 1918, RFC 4193, RFC 6598), contains a resolver of
    this host or its mediator, or overlaps a foreign route, even when the network was up first (the mediator leases the
    pool's addresses, and could lease the router's); networks with this host as the hub, since a hub forwards between
    all its links; networks beyond `MAX_NETWORKS`; routes of gateways in public space or overlapping a foreign route;
    routes beyond `MAX_ROUTES`; and all routes of this host itself, which would open its own LAN.
    """
    conditions: list[Condition] = []
    reserved = tuple(_reserved(document, foreign))
    networks = {}
    places = MAX_NETWORKS
    for name, network in document.networks.items():
        mine = me in network.member_names
        reason = next(_against_network(network, me, foreign, reserved), None) if mine else None
        if mine and reason is None:
            places -= 1
            if places < 0:
                reason = f"there are more than {MAX_NETWORKS} networks"
        if reason is None:
            networks[name] = network
        else:
            conditions.append(Condition(f"networks.{name}", f"not brought up: {reason}; {AGREE}"))
    room = MAX_ROUTES
    members = {}
    for name, member in document.members.items():
        kept: list[Prefix] = []
        refused: list[tuple[int, Prefix, str]] = []
        for index, prefix in enumerate(member.routes):
            reason = (
                "it would open this host's own LAN" if name == me else _against(prefix, foreign, reserved)
            )
            if reason is None and len(kept) >= room:
                reason = f"there are more than {MAX_ROUTES} routes"
            if reason is None:
                kept.append(prefix)
            else:
                refused.append((index, prefix, reason))
        room -= len(kept)
        members[name] = replace(member, routes=tuple(kept)) if refused else member
        conditions += _refusals(member, refused)
    return replace(document, networks=networks, members=members), tuple(conditions)


def _reserved(document: Document, foreign: Foreign) -> Iterator[tuple[Address, str]]:
    """Addresses that no tunnel may cover, and their descriptions."""
    for address in foreign.resolvers:
        yield address, "a resolver of this host"
    for mediator in document.mediators:
        with contextlib.suppress(ValueError):  # a host name: it has no address here
            yield parse_address(mediator.host), "the mediator"


def _refusals(member: Member, refused: list[tuple[int, Prefix, str]]) -> Iterator[Condition]:
    for index, prefix, reason in refused[:SHOWN]:
        yield Condition(
            f"members.{member.name}.routes[{index}]", f"{prefix} is not routed: {reason}; {AGREE}"
        )
    if (more := len(refused) - SHOWN) > 0:
        yield Condition(f"members.{member.name}.routes", f"{more} more are not routed; {AGREE}")


def _against_network(
    network: Network, me: str, foreign: Foreign, reserved: Collection[tuple[Address, str]]
) -> Iterator[str]:
    if network.hub == me:
        yield "this host would be its hub, which forwards for all others"
    for pool in (network.ipv4, network.ipv6):
        if pool is None:
            continue
        if not in_private_space(pool):
            yield f"its pool {pool} is public address space"
        for address, what in reserved:
            if address.version == pool.version and address in pool:
                yield f"its pool {pool} holds {address}, {what}"
        for route in foreign.routes:
            if overlaps(pool, route.destination):
                yield f"its pool {pool} overlaps {route.what}"


def _against(prefix: Prefix, foreign: Foreign, reserved: Collection[tuple[Address, str]]) -> str | None:
    if not in_private_space(prefix):
        return "it is public address space"
    for address, what in reserved:
        if address.version == prefix.version and address in prefix:
            return f"it holds {address}, {what}"
    for route in foreign.routes:
        if overlaps(prefix, route.destination):
            return f"it overlaps {route.what}"
    return None
