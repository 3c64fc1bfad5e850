"""The packets that the document lets come to or through this host: the host's firewall is examined with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from netctl.config.load.acl import contains
from netctl.model.addresses import Prefix, host_prefix, parse_prefix
from netctl.model.document import Document, Mode, PortRange
from netctl.model.foreign import Foreign
from netctl.model.hoststate import WIREGUARD_LINK, FilterRule, FilterTable, HostState
from netctl.model.packetfilter import Packet, PacketFilter
from netctl.model.portspans import spans

MAX_QUESTIONS = 200
"""Bound on the questions: a document may have thousands of rules; a firewall that drops something drops an early one.
"""
FIRST_UNNAMED = 20011
"""First port of the search for one that no rule names: no well-known service uses it."""
DEFAULT_ROUTES = tuple(map(ip_network, ("0.0.0.0/0", "::/0")))
ANYTHING = ("tcp", "udp", "icmp")
"""The protocols of a rule that names none."""


@dataclass(frozen=True, slots=True)
class Question:
    """A packet, and what it stands for in the document's words: ``tcp/22``, ``udp``, ``answers``."""

    packet: Packet
    what: str
    ports: tuple[int, int] | None = None
    """Of a packet to a UDP port of ours on the host's own links: the first and the last of the ports that it stands
    for; None: a packet on our links."""
    relay: bool = False
    """Whether it is one of the relay that this member is."""


def unnamed_port(found: PacketFilter) -> int:
    """A port that no rule of a packet filter names: it stands for all unnamed ports."""
    named = {
        value[0]
        for table in found.tables
        for chain in table.chains.values()
        for rule in chain.rules
        for match in rule.matches
        if match.subject == "dport"
        for value in match.values
        if isinstance(value, tuple) and value[0] == value[1]
    }
    return next((port for port in range(FIRST_UNNAMED, 0xFFFF) if port not in named), FIRST_UNNAMED)


def link_to(prefix: Prefix, foreign: Foreign) -> str:
    """The link of the host over which it reaches a LAN; empty: unknown."""
    covering = [
        route
        for route in foreign.routes
        if route.link and not route.is_address and contains(route.destination, prefix)
    ]
    best = max(covering, key=lambda route: route.destination.prefixlen, default=None)
    return best.link if best is not None else ""


def questions(desired: HostState, document: Document, member: str, foreign: Foreign) -> tuple[Question, ...]:
    """The questions for a host, each once, at most MAX_QUESTIONS; none where the host has no link of ours."""
    if desired.wireguard is None or desired.filter is None:
        return ()
    found: dict[Question, None] = {}
    for question in _every(desired, desired.filter, document, member, foreign):
        found[question] = None
        if len(found) == MAX_QUESTIONS:
            break
    return tuple(found)


def _every(
    desired: HostState, table: FilterTable, document: Document, member: str, foreign: Foreign
) -> Iterator[Question]:
    port = unnamed_port(foreign.packet_filter)
    own = frozenset(map(host_prefix, table.guards.leases))
    linked = ((lan, link_to(lan, foreign)) for lan in sorted(table.guards.lans, key=str))
    lans = [(lan, link) for lan, link in linked if link not in ("", WIREGUARD_LINK)]
    yield from _outer(desired, document, member, foreign)
    for rule in table.rules:
        for version in (4, 6):
            source = _source(rule, own, version)
            if source is not None:
                yield from _inbound(rule, source, desired, table, port)
                yield from _through(rule, source, lans, document, member, port)
    yield from _from_lans(lans, document, member, port)


def _source(rule: FilterRule, own: frozenset[Prefix], version: int) -> Prefix | None:
    others = (prefix for prefix in rule.sources if prefix.version == version and prefix not in own)
    return min(others, key=lambda prefix: (-prefix.prefixlen, int(prefix.network_address)), default=None)


def _protocols(proto: str | None, ports: tuple[PortRange, ...], port: int) -> Iterator[tuple[str, int, str]]:
    """The (protocol, port, words) that a rule stands for."""
    for name in ANYTHING if proto is None else (proto,):
        if name not in ANYTHING:
            continue
        if name == "icmp":
            yield name, 0, name
        elif ports:
            yield from ((name, one.first, f"{name}/{one}") for one in ports)
        else:
            yield name, port, name


def _inbound(
    rule: FilterRule, source: Prefix, desired: HostState, table: FilterTable, port: int
) -> Iterator[Question]:
    """Packets to this host: unicast through the tunnels, broadcast through the segments."""
    for lease in sorted(table.guards.leases, key=str):
        own = host_prefix(lease)
        if own.version == source.version and any(contains(prefix, own) for prefix in rule.destinations):
            for proto, number, what in _protocols(rule.proto, rule.ports, port):
                yield Question(Packet("input", WIREGUARD_LINK, source, own, proto, number), what)
    for segment in desired.segments.values():
        for address, length in sorted(segment.addresses, key=str):
            if address.version != 4 or source.version != 4:
                continue
            pool = ip_network((int(address), length), strict=False)
            everybody = host_prefix(pool.broadcast_address)
            if length < 31 and everybody in rule.destinations and contains(pool, source):
                for proto, number, what in _protocols(rule.proto, rule.ports, port):
                    if proto == "udp":
                        packet = Packet(
                            "input", segment.name, source, everybody, proto, number, is_broadcast=True
                        )
                        yield Question(packet, f"{what} broadcast")


def _through(
    rule: FilterRule,
    source: Prefix,
    lans: Sequence[tuple[Prefix, str]],
    document: Document,
    member: str,
    port: int,
) -> Iterator[Question]:
    """Packets from members to the LANs behind this host, and the answers; at a hub, also to other members."""
    for lan, link in lans:
        inside = _overlap(rule.destinations, lan)
        if inside is None or lan.version != source.version:
            continue
        for proto, number, what in _protocols(rule.proto, rule.ports, port):
            yield Question(Packet("forward", WIREGUARD_LINK, source, inside, proto, number, link), what)
            back = Packet("forward", link, inside, source, proto, number, WIREGUARD_LINK, "established")
            yield Question(back, "answers")
    for network in document.networks_of(member):
        if network.hub == member:
            for pool in (network.ipv4, network.ipv6):
                if pool is not None and pool.version == source.version and pool in rule.destinations:
                    for proto, number, what in _protocols(rule.proto, rule.ports, port):
                        packet = Packet(
                            "forward", WIREGUARD_LINK, source, pool, proto, number, WIREGUARD_LINK
                        )
                        yield Question(packet, what)


def _overlap(prefixes: Iterable[Prefix], lan: Prefix) -> Prefix | None:
    """The part of a LAN that a rule names; it may be all of it."""
    found = [prefix if contains(lan, prefix) else lan for prefix in prefixes if _touch(prefix, lan)]
    return min(found, key=str, default=None)


def _touch(one: Prefix, other: Prefix) -> bool:
    return contains(one, other) or contains(other, one)


def _from_lans(
    lans: Sequence[tuple[Prefix, str]], document: Document, member: str, port: int
) -> Iterator[Question]:
    """Flows that begin in a LAN behind this host, where members see its addresses and a rule of theirs lets it in."""
    for network in document.networks_of(member):
        if network.mode is not Mode.ROUTED or network.masquerade:
            continue
        for lan, link in lans:
            pool = network.ipv4 if lan.version == 4 else network.ipv6
            if pool is None:
                continue
            asked: list[tuple[str, int, str]] = []
            if network.acls is None:
                asked += _protocols(None, (), port)
            for acl in network.acls or ():
                named = (parse_prefix(text) for text in acl.src if "/" in text)
                if any(_touch(prefix, lan) for prefix in named):
                    asked += _protocols(acl.proto, acl.ports, port)
            for proto, number, what in asked:
                yield Question(Packet("forward", link, lan, pool, proto, number, WIREGUARD_LINK), what)


def _outer(desired: HostState, document: Document, member: str, foreign: Foreign) -> Iterator[Question]:
    """WireGuard's own packets, and those of this member's relay, for a host with an address in the document."""
    link, body = desired.wireguard, document.members.get(member)
    if link is None or body is None or not body.endpoints:
        return
    asked = [((link.listen_port, link.listen_port), False)] if link.listen_port else []
    if body.relay is not None:
        asked += [(ports, True) for ports in (*spans(body.relay.stun), body.relay.relay_ports)]
    for route in foreign.routes:
        if route.destination in DEFAULT_ROUTES and route.link and route.link != WIREGUARD_LINK:
            anybody = route.destination
            for (first, last), relay in asked:
                what = f"udp/{first}" if first == last else f"udp/{first}-{last}"
                for port in sorted({first, (first + last) // 2, last}):  # a firewall may let some of them in
                    packet = Packet("input", route.link, anybody, anybody, "udp", port)
                    yield Question(packet, what, (first, last), relay)
