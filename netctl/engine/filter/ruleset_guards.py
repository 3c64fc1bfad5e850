"""Rules before all ACLs that drop packets with addresses of our links on any other interface.

Linux accepts a packet to any of its addresses on every interface (the weak host model of RFC 1122 §3.3.4.2). So
neighbours could probe, reach and forge addresses that are meant only for tunnels (CVE-2019-14899). And a VXLAN device
accepts datagrams to its UDP port from any link.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any

from netctl.engine.filter.ruleset_acl import COUNTER, Json, add_chain, add_rule, add_set, match, meta, payload
from netctl.model.addresses import Prefix, host_prefix
from netctl.model.hoststate import VXLAN_PORT, WIREGUARD_LINK, FilterTable, Guards

VNI = {"payload": {"base": "th", "offset": 96, "len": 24}}
"""The VNI of a VXLAN datagram, in bits from the UDP header (RFC 7348 §5)."""
ARRIVALS = -300
"""Priority after defragmentation (-400), since a fragment has no ports. Before conntrack (-200) and all DNAT (-100):
dropped packets leave no flow behind, and no rule of the host has rewritten a destination."""
DEPARTURES = 150
"""Priority after source NAT (100): the packet that enters the tunnel counts."""
_FAMILIES = ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr"))
_NO_LINK = 0
"""The index of the incoming link of a packet that this host has made."""


def _drop(chain: str, why: str, *expressions: Json) -> Json:
    return add_rule(chain, *expressions, COUNTER, {"drop": None}, comment=why)


def _elements(prefixes: Iterable[Prefix], version: int) -> list[Any]:
    """The prefixes of one family, sorted and without overlaps."""
    mine = [prefix for prefix in prefixes if prefix.version == version]
    return [
        {"prefix": {"addr": str(prefix.network_address), "len": prefix.prefixlen}}
        for prefix in sorted(ipaddress.collapse_addresses(mine))  # type: ignore[type-var]
    ]


def _named(name: str, prefixes: Iterable[Prefix], version: int, kind: str) -> Iterator[Json]:
    """A set with the prefixes of one family; nothing if it would be empty."""
    elements = _elements(prefixes, version)
    if elements:
        yield add_set(f"{name}{version}", kind, elements, interval=True)


def _in(protocol: str, name: str, which: str, op: str = "==") -> Json:
    return match(payload(protocol, name), f"@{which}", op)


def _arrivals(links: frozenset[str], guards: Guards) -> Iterator[Json]:
    yield add_chain("arrivals", type="filter", hook="prerouting", prio=ARRIVALS, policy="accept")
    if guards.vnis:
        # Also from this host and from segments: only the tunnel's engine has authenticated the sender.
        elsewhere = match(meta("iifname"), WIREGUARD_LINK, "!=")
        own = match(VNI, {"set": [f"0x{vni:06x}" for vni in sorted(guards.vnis)]})
        port = match(payload("udp", "dport"), VXLAN_PORT)
        yield _drop("arrivals", "segment from elsewhere", elsewhere, port, own)
    yield add_rule("arrivals", match(meta("iifname"), {"set": sorted({*links, "lo"})}), {"accept": None})
    for version, protocol, kind in _FAMILIES:
        for name, prefixes, field, why in (
            ("inside", guards.sources, "saddr", "overlay source from elsewhere"),
            ("own", guards.destinations, "daddr", "overlay address from elsewhere"),
        ):
            for made in _named(name, prefixes, version, kind):
                yield made
                yield _drop("arrivals", why, _in(protocol, field, f"{name}{version}"))
        for made in _named("remote", guards.remote, version, kind):
            # Independent of rp_filter, and for IPv6, which has none: a packet by another link than its source's must
            # not pass as one of a LAN or container that may pass, or that the host's own NAT lets pass.
            astray = match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False)
            yield made
            yield _drop(
                "arrivals", "source from elsewhere", _in(protocol, "daddr", f"remote{version}"), astray
            )


def _departures(links: frozenset[str], guards: Guards) -> Iterator[Json]:
    """Drop packets forwarded into our links, except from our links and LANs, and with the host's address by its NAT."""
    yield add_chain("departures", type="filter", hook="postrouting", prio=DEPARTURES, policy="accept")
    ours = {"set": sorted(links)}
    forwarded = [
        match(meta("oifname"), ours),
        match(meta("iif"), _NO_LINK, "!="),
        match(meta("iifname"), ours, "!="),
    ]
    for version, protocol, kind in _FAMILIES:
        family = match(meta("nfproto"), "ipv4" if version == 4 else "ipv6")
        passing = (*guards.lans, *map(host_prefix, guards.leases))
        wrong = [family]
        for made in _named("passing", passing, version, kind):
            yield made
            wrong = [_in(protocol, "saddr", f"passing{version}", "!=")]
        yield _drop("departures", "forwarded into the tunnel", *forwarded, *wrong)


def guard_chains(table: FilterTable) -> Iterator[Json]:
    """The chains and sets of the guards; nothing for a table without links."""
    if table.links:
        yield from _arrivals(table.links, table.guards)
        yield from _departures(table.links, table.guards)


def tunnel_inside(table: FilterTable, links: Any) -> Iterator[Json]:
    """Rules that keep a tunnel from running inside itself: no packets of WireGuard's port on our links.

    They come first in the chains `input` and `output`, and cover only packets to and from this host: a server behind a
    gateway may use the same port.
    """
    if table.links and table.guards.listen_port:
        port = table.guards.listen_port
        why = "tunnel in a tunnel"
        yield _drop("input", why, match(meta("iifname"), links), match(payload("udp", "dport"), port))
        yield _drop("output", why, match(meta("oifname"), links), match(payload("udp", "sport"), port))
