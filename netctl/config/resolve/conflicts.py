"""Removes the networks and routes from a document that conflict with foreign objects on this host, with the reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from netctl.config.resolve.resolution import Condition
from netctl.model.addresses import Prefix
from netctl.model.derive import segment_name
from netctl.model.document import Document, Member, Mode, Network
from netctl.model.foreign import Foreign
from netctl.model.hoststate import DOMAIN

DEFAULT_BITS = 1
"""Longest prefix of a default route in bits: whole, or in two halves as VPN clients set them. Pools may lie in it."""
SHOWN = 3
ELSEWHERE = "remove that if nothing needs it, or change the network"


def clear_of(document: Document, me: str, foreign: Foreign) -> tuple[Document, tuple[Condition, ...]]:
    """The document without the networks and routes that conflict with foreign objects, and the reasons.

    A network that is up already stays up with a condition: a laptop that comes to a place with a route like one of
    its networks keeps its tunnels.
    """
    conditions: list[Condition] = []
    networks = {}
    for name, network in document.networks.items():
        reasons = list(_in_the_way(network, foreign)) if me in network.member_names else []
        kept = [reason for reason, up in reasons if up]
        refused = [reason for reason, up in reasons if not up]
        for reason in kept[:SHOWN]:
            said = f"{reason}, which came later; the network stays up"
            conditions.append(Condition(f"networks.{name}", said))
        if refused:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            if foreign.no_ipv6 and refused[0].endswith(foreign.no_ipv6):
                said = f"not brought up: {refused[0]}{more}"
            else:
                said = f"not brought up: {refused[0]}, which is not netctl's{more}; {ELSEWHERE}"
            conditions.append(Condition(f"networks.{name}", said))
        elif foreign.no_ipv6 and me in network.member_names and network.ipv6 is not None:
            said = f"IPv4 alone: {foreign.no_ipv6}, so this host has no address in {network.ipv6}"
            conditions.append(Condition(f"networks.{name}.ipv6", said))
            networks[name] = _ipv4_alone(network)
        else:
            networks[name] = network
    members = {
        name: _without_taken_routes(name, member, foreign, conditions) if name != me else member
        for name, member in document.members.items()
    }
    for line in foreign.names:
        member, _, network_name = line.name.removesuffix(f".{DOMAIN}").rpartition(".")
        if network_name in networks and member in networks[network_name].member_names:
            where = f"networks.{network_name}.members"
            said = f"line {line.line} of the hosts file, which is not ours, gives {line.name} {line.address}"
            conditions.append(Condition(where, f"{said}: programs may take that; remove it"))
    return replace(document, networks=networks, members=members), tuple(conditions)


def _ipv4_alone(network: Network) -> Network:
    addresses = {
        name: tuple(address for address in found if address.version == 4)
        for name, found in network.addresses.items()
    }
    return replace(network, ipv6=None, addresses=addresses)


def _in_the_way(network: Network, foreign: Foreign) -> Iterator[tuple[str, bool]]:
    """Conflicts of a network as (reason, whether the network is up already and stays up)."""
    if foreign.no_ipv6 and (network.mode is Mode.LAN or network.ipv4 is None):
        why = "its segment travels over IPv6" if network.mode is Mode.LAN else "it has IPv6 alone"
        yield f"{why}, and {foreign.no_ipv6}", False
    for pool in (network.ipv4, network.ipv6):
        if pool is None:
            continue
        for route in foreign.routes:
            if overlaps(pool, route.destination):
                yield f"its pool {pool} overlaps {route.what}", pool in foreign.own
    if network.mode is Mode.LAN and foreign.segment_port:
        yield f"its segment needs UDP port 4789, held by {foreign.segment_port}", False
    link = segment_name(network.id)
    if network.mode is Mode.LAN and link in foreign.links:
        yield f"its segment {link} would take the name of a {foreign.links[link]} link", False


def overlaps(pool: Prefix, other: Prefix) -> bool:
    """Whether a pool and a route share addresses; default routes do not count."""
    return pool.version == other.version and other.prefixlen > DEFAULT_BITS and pool.overlaps(other)


def _without_taken_routes(name: str, member: Member, foreign: Foreign, conditions: list[Condition]) -> Member:
    if not member.routes:
        return member
    taken = {route.destination: route.what for route in foreign.routes}
    for index, prefix in enumerate(member.routes):
        if prefix in taken and prefix not in foreign.own:
            message = f"not routed: this host has {taken[prefix]}, which is not netctl's"
            conditions.append(Condition(f"members.{name}.routes[{index}]", message))
    kept = tuple(prefix for prefix in member.routes if prefix not in taken or prefix in foreign.own)
    return replace(member, routes=kept)
