"""Compares desired and actual state into an ordered list of changes: every addition comes before the removals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from netctl.model.addresses import Address, Prefix, host_prefix
from netctl.model.hoststate import FilterTable, HostState, Opening, Peer, Route, SegmentLink, WireGuardLink
from netctl.plan.changes import (
    AddAddress,
    AddFlood,
    AddUnreachable,
    Change,
    CloseFirewall,
    CreateSegment,
    CreateWireGuard,
    DeleteSegment,
    DeleteWireGuard,
    OpenFirewall,
    RemoveAddress,
    RemoveFilter,
    RemoveFlood,
    RemovePeer,
    RemoveRewrites,
    RemoveRoute,
    RemoveUnreachable,
    RenameLink,
    RestoreSysctl,
    SetFilter,
    SetNames,
    SetPeer,
    SetRoute,
    SetSegmentMtu,
    SetSysctl,
    SetWireGuard,
)
from netctl.plan.renames import renamed, renames


@dataclass(frozen=True, slots=True)
class Plan:
    """An ordered list of changes. False when there is nothing to do."""

    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)


SHOWN_RULES = 4
"""A line with more names of rules than this is not read."""
LinkAddresses = frozenset[tuple[Address, int]]


def diff(desired: HostState, actual: HostState) -> Plan:
    """The changes from `actual` to `desired`, in an order that is safe at every step.

    A crash after any prefix leaves a state from which the next diff leads to the same end. The filter is loaded
    before the links and routes that it guards, so nothing is ever reachable unfiltered; it stops guarding removed
    ones after their removal.
    """
    names = renames(desired, actual)
    actual = renamed(actual, names)
    back = tuple(RenameLink(before, after) for before, after in sorted(names.items()))
    changes = back + tuple(_adding(desired, actual)) + tuple(_removing(desired, actual))
    return Plan(changes + tuple(_letting_go(desired, actual)))


def prune(desired: HostState, actual: HostState) -> Plan:
    """The removal of everything that is ours on the host and not desired; nothing is added or changed."""
    return Plan(tuple(_removing(desired, renamed(actual, renames(desired, actual)))))


def _adding(desired: HostState, actual: HostState) -> Iterator[Change]:
    recreated = _recreated(desired, actual)
    wanted, present = desired.wireguard, actual.wireguard
    for prefix in sorted(desired.unreachable - actual.unreachable, key=_prefix_order):
        yield AddUnreachable(prefix)  # first, because any later change could fail half-way
    first = _guarding_both(desired, actual)
    if first is not None and not same_filter(first, actual.filter):
        words = filter_changes(first, actual.filter) if actual.filter is not None else ()
        yield SetFilter(first, actual.filter is None, words)
    if wanted is not None and present is None:
        yield CreateWireGuard(replace(wanted, peers={}))
    elif wanted is not None and present is not None and (changed := _link_changes(wanted, present)):
        yield SetWireGuard(replace(wanted, peers={}), changed)
    for name in sorted(recreated):
        # a VXLAN device cannot be changed in place: it is deleted just before it is created again
        yield DeleteSegment(name)
    for name, segment in sorted(desired.segments.items()):
        existing = None if name in recreated else actual.segments.get(name)
        if existing is None:
            yield CreateSegment(replace(segment, flood=frozenset(), addresses=frozenset()))
        elif existing.mtu != segment.mtu:
            yield SetSegmentMtu(name, segment.mtu)
    for key, value in sorted(desired.sysctls.items()):
        fresh = any(f"/{name}/" in key for name in recreated)
        before = actual.sysctls.get(key)
        if before != value or fresh:
            yield SetSysctl(key, value, None if fresh else before)
    for link, addresses in sorted(_addresses(desired).items()):
        have = frozenset() if link in recreated else _addresses(actual).get(link, frozenset())
        for address, prefix_len in sorted(addresses - have, key=str):
            yield AddAddress(link, address, prefix_len)
    if wanted is not None:
        yield from _peer_changes(wanted, present)
    routes = {(route.destination, route.link): route for route in actual.routes}
    missing = []
    for route in desired.routes:
        existing_route = routes.get((route.destination, route.link))
        lost = existing_route is not None and _goes(existing_route, actual, recreated)
        if existing_route is None or lost or existing_route.source != route.source:
            missing.append(SetRoute(route, added=existing_route is None))
    yield from sorted(missing, key=lambda change: _route_order(change.route))
    for name, segment in sorted(desired.segments.items()):
        flooded = frozenset() if name in recreated else _flood(actual, name)
        for destination in sorted(segment.flood - flooded, key=str):
            yield AddFlood(name, destination)
    for opening in sorted(_standing(desired) - actual.openings):
        yield OpenFirewall(opening)
    names = _names(desired, actual)
    if names.added or names.moved:
        yield names


def _removing(desired: HostState, actual: HostState) -> Iterator[Change]:
    recreated = _recreated(desired, actual)
    names = _names(desired, actual)
    if names.removed and not names.added and not names.moved:
        yield names
    for opening in sorted(_standing(actual) - _standing(desired)):
        yield CloseFirewall(opening)
    for name, segment in sorted(actual.segments.items()):
        if name in desired.segments and name not in recreated:
            for destination in sorted(segment.flood - desired.segments[name].flood, key=str):
                yield RemoveFlood(name, destination)
    wanted = {(route.destination, route.link) for route in desired.routes}
    unwanted = [route for route in actual.routes if (route.destination, route.link) not in wanted]
    for route in sorted(unwanted, key=_route_order):
        yield RemoveRoute(route)
    if actual.wireguard is not None and desired.wireguard is not None:
        for key in sorted(actual.wireguard.peers.keys() - desired.wireguard.peers.keys()):
            yield RemovePeer(actual.wireguard.name, key, actual.wireguard.peers[key].path)
    desired_addresses = _addresses(desired)
    for link, addresses in sorted(_addresses(actual).items()):
        if link in desired_addresses and link not in recreated:
            for address, prefix_len in sorted(addresses - desired_addresses[link], key=str):
                yield RemoveAddress(link, address, prefix_len)
    for name in sorted(actual.segments):
        if name not in desired.segments:
            yield DeleteSegment(name)
    if actual.wireguard is not None and desired.wireguard is None:
        yield DeleteWireGuard(actual.wireguard.name)
    if actual.filter is not None and desired.filter is None:
        yield RemoveFilter()
    if actual.rewrites and desired.wireguard is None:
        yield RemoveRewrites()
    for prefix in sorted(actual.unreachable - desired.unreachable, key=_prefix_order):
        yield RemoveUnreachable(prefix)
    for sysctl in sorted(actual.sysctls):
        bound_to_link = any(f"/{name}/" in sysctl for name in actual.segments)
        if sysctl not in desired.sysctls and not bound_to_link:
            yield RestoreSysctl(sysctl)


def _letting_go(desired: HostState, actual: HostState) -> Iterator[Change]:
    """The last load of the table, which no longer guards what was removed."""
    first, table = _guarding_both(desired, actual), desired.filter
    if first is not None and table is not None and not same_filter(table, first):
        yield SetFilter(table, False, ("no longer guards what is gone",))


def _guarding_both(desired: HostState, actual: HostState) -> FilterTable | None:
    """The desired table that still guards what will be removed at the end."""
    table, before = desired.filter, actual.filter
    if table is None or before is None:
        return table
    links = frozenset(actual.segments.keys() - desired.segments.keys())
    wanted, there = (
        {address for found in _addresses(state).values() for address, _ in found}
        for state in (desired, actual)
    )
    gone = frozenset(map(host_prefix, there - wanted))
    vnis = {one.vni for one in actual.segments.values()} - {one.vni for one in desired.segments.values()}
    if not links and not gone and not vnis:
        return table
    now, was = table.guards, before.guards
    both = replace(
        now,
        sources=now.sources | was.sources,
        destinations=now.destinations | was.destinations | gone,
        vnis=now.vnis | vnis,
    )
    return replace(table, links=table.links | links, guards=both)


def _link_changes(wanted: WireGuardLink, present: WireGuardLink) -> tuple[str, ...]:
    changed = []
    if wanted.key != present.key:
        changed.append("key")
    if wanted.listen_port and wanted.listen_port != present.listen_port:
        changed.append("listen port")
    if wanted.mtu != present.mtu:
        changed.append("mtu")
    return tuple(changed)


def _peer_changes(wanted: WireGuardLink, present: WireGuardLink | None) -> Iterator[Change]:
    existing = present.peers if present is not None else {}
    differing = [key for key, peer in wanted.peers.items() if _differs(peer, existing.get(key))]
    for key in sorted(differing):  # sorting all of thousands would be most of the time of a comparison
        peer, have = wanted.peers[key], existing.get(key)
        if have is None:
            yield SetPeer(wanted.name, peer, added=True)
        elif changed := _changed(peer, have):
            gained, lost = peer.allowed_ips - have.allowed_ips, have.allowed_ips - peer.allowed_ips
            yield SetPeer(wanted.name, peer, False, changed, gained, lost)


def _differs(peer: Peer, have: Peer | None) -> bool:
    return have is None or bool(_changed(peer, have))


def _changed(peer: Peer, have: Peer) -> tuple[str, ...]:
    changed = []
    if peer.allowed_ips != have.allowed_ips:
        changed.append("allowed IPs")
    if peer.keepalive_s != have.keepalive_s:
        changed.append("keepalive")
    elsewhere = peer.endpoint is not None and peer.endpoint != have.endpoint
    if elsewhere and (peer.insists or not have.is_live):
        changed.append("endpoint")
    return tuple(changed)


def _recreated(desired: HostState, actual: HostState) -> frozenset[str]:
    """Segments whose device must be created again, because what differs cannot be changed in place."""

    def nature(segment: SegmentLink) -> tuple[object, ...]:
        return segment.vni, segment.mac, segment.local

    both = desired.segments.keys() & actual.segments.keys()
    return frozenset(name for name in both if nature(desired.segments[name]) != nature(actual.segments[name]))


def _goes(route: Route, actual: HostState, recreated: frozenset[str]) -> bool:
    """Whether the kernel removes this route during the apply, with its link or with its source address."""
    if route.link in recreated or actual.wireguard is None:
        return True
    if route.source is None or not recreated:
        return False
    kept = (_addresses(actual)[link] for link in _addresses(actual).keys() - recreated)
    return all(route.source not in {address for address, _ in addresses} for addresses in kept)


def _addresses(state: HostState) -> dict[str, LinkAddresses]:
    found: dict[str, LinkAddresses] = {}
    if state.wireguard is not None:
        addresses = state.wireguard.addresses | state.wireguard.underlay
        found[state.wireguard.name] = frozenset((address, address.max_prefixlen) for address in addresses)
    for name, segment in state.segments.items():
        found[name] = segment.addresses
    return found


def _standing(state: HostState) -> frozenset[Opening]:
    """The desired openings; a checkpoint may contain one that another program had removed, and that counts as
    standing.
    """
    return frozenset(replace(one, stands=True) for one in state.openings)


def _flood(state: HostState, name: str) -> frozenset[Address]:
    segment = state.segments.get(name)
    return segment.flood if segment is not None else frozenset()


def _prefix_order(prefix: Prefix) -> tuple[int, str]:
    return prefix.version, str(prefix)


def _route_order(route: Route) -> tuple[int, str, str]:
    return route.destination.version, str(route.destination), route.link


def same_filter(one: FilterTable, other: FilterTable | None) -> bool:
    """Whether two tables mean the same. The order of rules has no meaning: all of them accept."""
    if other is None:
        return False
    return (
        one.links == other.links
        and one.bindings == other.bindings
        and one.masquerade == other.masquerade
        and frozenset(one.rules) == frozenset(other.rules)
        and one.stock == other.stock
        and frozenset(one.sending) == frozenset(other.sending)
        and one.guards == other.guards
    )


def _few(names: set[str]) -> str:
    shown = sorted(names)[:SHOWN_RULES]
    more = f" and {len(names) - SHOWN_RULES} more" if len(names) > SHOWN_RULES else ""
    return ", ".join(f"'{name}'" for name in shown) + more


def filter_changes(wanted: FilterTable, there: FilterTable) -> tuple[str, ...]:
    """The differences of two tables in words: rules by name, the rest by kind."""
    new, old = frozenset(wanted.rules), frozenset(there.rules)
    added, gone = {rule.name for rule in new - old}, {rule.name for rule in old - new}
    rules = (("adds", added - gone), ("changes", added & gone), ("drops", gone - added))
    words = [f"{verb} {_few(names)}" for verb, names in rules if names]
    if wanted.links != there.links:
        words.append("guards other links")
    if wanted.bindings != there.bindings:
        words.append("new source checks")
    if wanted.masquerade != there.masquerade:
        words.append("new masquerading")
    if wanted.stock != there.stock or frozenset(wanted.sending) != frozenset(there.sending):
        words.append("new checks towards members without an identity")
    if wanted.guards.listen_port != there.guards.listen_port:
        words.append("guards another port")
    if replace(wanted.guards, listen_port=0) != replace(there.guards, listen_port=0):
        words.append("guards other addresses")
    return tuple(words)


def _names(desired: HostState, actual: HostState) -> SetNames:
    if desired.names == actual.names:  # also for thousands the usual case
        return SetNames(desired.names)
    both = desired.names.keys() & actual.names.keys()
    return SetNames(
        desired.names,
        added=len(desired.names.keys() - actual.names.keys()),
        removed=len(actual.names.keys() - desired.names.keys()),
        moved=tuple(sorted(name for name in both if desired.names[name] != actual.names[name])),
    )
