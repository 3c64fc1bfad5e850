"""Generated host states, as `resolve` could make them: no two peers share a prefix, links hold together."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from netctl.model.addresses import Address, SocketAddress, host_prefix
from netctl.model.document import PortRange
from netctl.model.hoststate import (
    WIREGUARD_LINK,
    FilterRule,
    FilterTable,
    Guards,
    HostState,
    Opening,
    Peer,
    Route,
    SegmentLink,
    SourceBinding,
    WireGuardLink,
)
from netctl.model.keys import WireGuardKey

KEYS = [WireGuardKey(hashlib.blake2s(bytes([number])).digest()) for number in range(5)]
ADDRESSES = [ipaddress.ip_address(f"10.9.0.{number}") for number in range(1, 9)]
UNDERLAYS = [ipaddress.ip_address(f"fd00::{number}") for number in range(1, 6)]
SEGMENTS = ["nseg00000001", "nseg00000002"]
OPENINGS = [
    Opening("ufw", "input", "nctl0"),
    Opening("nft", "forward", "nctl0", "eth1", place="inet filter forward"),
    Opening("iptables", "input", port=51820, place="ip filter INPUT", stands=False),
    Opening("nft", "input", port=40000, last=40999, place="inet filter input"),
]
"""The last has been taken away by somebody."""
POOLS = [ipaddress.ip_network("10.9.0.0/24"), ipaddress.ip_network("192.168.50.0/24")]


@st.composite
def wireguards(draw: st.DrawFn) -> WireGuardLink:
    """A link whose peers divide the addresses among them."""
    keys = draw(st.lists(st.sampled_from(KEYS[1:]), unique=True))
    owners = draw(st.lists(st.sampled_from([None, *keys]), min_size=len(ADDRESSES), max_size=len(ADDRESSES)))
    peers = {}
    for key in keys:
        owned = frozenset(
            host_prefix(address)
            for address, owner in zip(ADDRESSES, owners, strict=True)
            if owner is not None and owner == key
        )
        endpoint = draw(
            st.sampled_from([None, SocketAddress("192.0.2.1", 1), SocketAddress("2001:db8::1", 2)])
        )
        peers[key] = Peer(key, owned, endpoint, draw(st.sampled_from([0, 25])), path="members.x")
    return WireGuardLink(
        key=draw(st.sampled_from(KEYS[:2])),
        listen_port=draw(st.sampled_from([0, 51820, 51821])),
        mtu=draw(st.sampled_from([1280, 1420])),
        addresses=draw(st.frozensets(st.sampled_from(ADDRESSES), max_size=2)),
        peers=peers,
        underlay=draw(st.frozensets(st.sampled_from(UNDERLAYS), max_size=1)),
    )


@st.composite
def segments(draw: st.DrawFn, name: str) -> SegmentLink:
    """A segment device."""
    return SegmentLink(
        name=name,
        network=draw(st.sampled_from(["", "party"])),
        vni=draw(st.sampled_from([1, 2])),
        mtu=draw(st.sampled_from([1280, 1350])),
        mac=draw(st.sampled_from(["02:00:00:00:00:01", "02:00:00:00:00:02"])),
        local=draw(st.sampled_from(UNDERLAYS[:2])),
        addresses=draw(st.frozensets(st.sampled_from([(a, 24) for a in ADDRESSES[:3]]), max_size=2)),
        flood=draw(st.frozensets(st.sampled_from(UNDERLAYS), max_size=3)),
    )


@st.composite
def filters(draw: st.DrawFn) -> FilterTable:
    """A table with rules in any order."""
    rule = FilterRule("one", frozenset(POOLS[:1]), frozenset(POOLS[:1]), "tcp", (PortRange(22, 22),))
    other = FilterRule("two", frozenset(POOLS[:1]), frozenset(POOLS), "icmp")
    binding = SourceBinding(SEGMENTS[0], UNDERLAYS[0], "02:00:00:00:00:09", frozenset(ADDRESSES[:1]), 1)
    return FilterTable(
        frozenset({WIREGUARD_LINK}),
        tuple(draw(st.lists(st.sampled_from([rule, other]), unique=True))),
        draw(st.frozensets(st.just(binding))),
        draw(st.frozensets(st.just((POOLS[0], POOLS[1])))),
    )


def own(state: HostState) -> set[tuple[str, Address | None]]:
    """Our links, each alone and with each of its addresses."""
    link = state.wireguard
    found: set[tuple[str, Address | None]] = {(name, None) for name in state.segments}
    if link is not None:
        found |= {(link.name, address) for address in (None, *link.addresses, *link.underlay)}
    return found | {(n, address) for n, one in state.segments.items() for address, _ in one.addresses}


def guarding(state: HostState) -> HostState:
    """The same with a filter for all that is in it, as `resolve` makes them."""
    if state.filter is None:
        return state
    found = own(state)
    guards = Guards(
        sources=frozenset(POOLS[:1]),
        destinations=frozenset(host_prefix(address) for _, address in found if address is not None),
        vnis=frozenset(segment.vni for segment in state.segments.values()),
        listen_port=state.wireguard.listen_port if state.wireguard is not None else 0,
    )
    links = frozenset(name for name, _ in found)
    return replace(state, filter=replace(state.filter, links=links, guards=guards))


@st.composite
def host_states(draw: st.DrawFn) -> HostState:
    """A host: nothing at all, or a link with whatever hangs on it."""
    names = draw(
        st.dictionaries(
            st.sampled_from(["a.x.netctl", "b.x.netctl"]), st.sampled_from([(a,) for a in ADDRESSES[:3]])
        )
    )
    if draw(st.booleans()) and draw(st.booleans()):
        return HostState(names=names)
    present = draw(st.lists(st.sampled_from(SEGMENTS), unique=True))
    devices = {name: draw(segments(name)) for name in present}
    links = [WIREGUARD_LINK, *present]
    link = draw(wireguards())
    own = set(link.addresses).union(*({address for address, _ in d.addresses} for d in devices.values()))
    sources = st.sampled_from([None, *sorted(own)])
    routed = draw(st.dictionaries(st.tuples(st.sampled_from(POOLS), st.sampled_from(links)), sources))
    sysctls = {f"net/ipv4/conf/{name}/rp_filter": "2" for name in present}
    if draw(st.booleans()):
        sysctls["net/ipv4/ip_forward"] = "1"
    return HostState(
        wireguard=link,
        segments=devices,
        routes=frozenset(Route(prefix, link, source) for (prefix, link), source in routed.items()),
        unreachable=draw(st.frozensets(st.sampled_from(POOLS))),
        filter=draw(filters()),
        names=names,
        sysctls=sysctls,
        openings=draw(st.frozensets(st.sampled_from(OPENINGS))),
    )


EDITS: tuple[dict[str, Any], ...] = ({}, {"vni": 7}, {"mac": "02:00:00:00:00:07"}, {"mtu": 1290})


@st.composite
def pairs(draw: st.DrawFn) -> tuple[HostState, HostState]:
    """(desired, before): two strangers, or the same host with some parts edited, which is what people do."""
    before, other = draw(host_states()), draw(host_states())
    if draw(st.booleans()) or before.wireguard is None:
        return other, before
    link = draw(st.sampled_from([before.wireguard, other.wireguard or before.wireguard]))
    devices = {
        name: replace(device, **draw(st.sampled_from(EDITS)))
        for name, device in before.segments.items()
        if draw(st.integers(0, 4))
    }
    own = set(link.addresses | link.underlay).union(*({a for a, _ in d.addresses} for d in devices.values()))
    routes = frozenset(
        route
        for route in before.routes
        if route.link in {link.name, *devices} and (route.source is None or route.source in own)
    )
    sysctls = {f"net/ipv4/conf/{name}/rp_filter": "2" for name in devices}
    return replace(before, wireguard=link, segments=devices, routes=routes, sysctls=sysctls), before
