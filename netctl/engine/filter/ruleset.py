"""Renders a FilterTable as nftables JSON (libnftables-json(5)): one table, replaced in one transaction."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from netctl.engine.filter.ruleset_acl import (
    COUNTER,
    FAMILY,
    Json,
    accept_rules,
    add_chain,
    add_rule,
    add_set,
    match,
    meta,
    payload,
)
from netctl.engine.filter.ruleset_guards import VNI, guard_chains, tunnel_inside
from netctl.model.addresses import Address, Prefix
from netctl.model.hoststate import FILTER_TABLE, VXLAN_PORT, WIREGUARD_LINK, FilterTable, SourceBinding

RENDERING = 6
"""The version of the rendering: after a change, tables loaded by earlier versions are loaded anew."""
FLOOD_PER_S = 200
"""Flooded frames a second that a member may send: a LAN's broadcast noise is far below, a storm far above."""

# Fields (offset, length) of a VXLAN datagram in bits from the UDP header (RFC 7348 §5, RFC 826, RFC 8200, RFC 4861).
_ETHERNET = 128
_SRC_MAC = (_ETHERNET + 48, 48)
_ETHERTYPE = (_ETHERNET + 96, 16)
_IPV4_SRC = (_ETHERNET + 112 + 96, 32)
_ARP_SENDER_MAC = (_ETHERNET + 112 + 64, 48)
_ARP_SENDER_IP = (_ETHERNET + 112 + 112, 32)
_IPV6_SRC = (_ETHERNET + 112 + 64, 128)
_IPV6_LEN = (_ETHERNET + 112 + 32, 16)
_IPV6_NEXT = (_ETHERNET + 112 + 48, 8)
_EXTENSION_NEXT = (_ETHERNET + 112 + 320, 8)
_EXTENSION_LEN = (_ETHERNET + 112 + 328, 8)
_FRAGMENT_OFFSET = (_ETHERNET + 112 + 336, 13)
_ICMPV6_TYPE_BEHIND = (_ETHERNET + 112 + 320 + 64, 8)
"""The ICMPv6 type after one extension header of eight bytes."""
_ICMPV6_TYPE = (_ETHERNET + 112 + 320, 8)
_ND_TARGET = (_ETHERNET + 112 + 320 + 64, 128)
_ND_OPTION = (_ETHERNET + 112 + 320 + 192, 8)
_ND_OPTION_MAC = (_ETHERNET + 112 + 320 + 208, 48)
_ND_SOLICIT, _ND_ADVERT = 135, 136
_ND_ALONE, _ND_ONE_OPTION = "0x0018", "0x0020"
"""Lengths of solicits and adverts without options and with one; senders need no more (RFC 4861 §4.3, §4.4)."""
_ROUTERS_WORD = ("0x86", "0x89")
"""Types of router adverts and redirects: a segment has no routers."""
_ND_TYPES = ("0x85", "0x86", "0x87", "0x88", "0x89")
_TAGGED = ("0x8100", "0x88a8")
"""Ethertypes of VLAN tags: a receiver strips a tag of number 0 (IEEE 802.1Q) and accepts the frame behind it."""
_HOP_BY_HOP, _FRAGMENT = "0x00", "0x2c"
_HIDING = ("0x2b", "0x3c", "0x87", "0x8b", "0x8c")
"""Extension headers (RFC 8200 §4) that would hide neighbour discovery, and that no broadcast needs."""
_IP_AND_ARP = (0x0800, 0x0806, 0x86DD)
"""Ethertypes that every segment carries; the ACLs check IP packets when they leave the segment device."""
_NEVER_FILTERED_ICMPV6 = (
    "destination-unreachable",
    "packet-too-big",
    "time-exceeded",
    "parameter-problem",
    "nd-router-solicit",
    "nd-neighbor-solicit",
    "nd-neighbor-advert",
    "mld-listener-query",
    "mld-listener-report",
    "mld2-listener-report",
)


def _raw(place: tuple[int, int]) -> Json:
    return {"payload": {"base": "th", "offset": place[0], "len": place[1]}}


def _set(items: Sequence[Any]) -> Any:
    return items[0] if len(items) == 1 else {"set": list(items)}


def _prefix(prefix: Prefix) -> Any:
    address = str(prefix.network_address)
    whole = prefix.prefixlen == prefix.max_prefixlen
    return address if whole else {"prefix": {"addr": address, "len": prefix.prefixlen}}


def _prefixes(prefixes: Iterable[Prefix], version: int) -> Any:
    """The prefixes of one family as a set without overlaps; None without any."""
    mine = [prefix for prefix in prefixes if prefix.version == version]
    merged = sorted(ipaddress.collapse_addresses(mine))  # type: ignore[type-var]
    return _set([_prefix(prefix) for prefix in merged]) if merged else None


def _number(mac: str) -> str:
    return "0x" + mac.replace(":", "")


def _hidden(drop: Callable[..., Json], ipv6: Json) -> Iterator[Json]:
    """Drop neighbour discovery behind extension headers; MLD and fragments of other protocols pass."""

    def first(kind: str) -> Json:
        return match(_raw(_IPV6_NEXT), kind)

    for kind in _HIDING:
        yield drop("forged ND", ipv6, first(kind))
    options = [ipv6, first(_HOP_BY_HOP)]
    yield drop("forged ND", *options, match(_raw(_EXTENSION_NEXT), "0x3a", "!="))
    yield drop("forged ND", *options, match(_raw(_EXTENSION_LEN), "0x00", "!="))
    part = [ipv6, first(_FRAGMENT)]
    for kind in (_HOP_BY_HOP, *_HIDING):
        yield drop("forged ND", *part, match(_raw(_EXTENSION_NEXT), kind))
    begins = [*part, match(_raw(_EXTENSION_NEXT), "0x3a"), match(_raw(_FRAGMENT_OFFSET), "0x0000")]
    for message in _ND_TYPES:
        yield drop("forged ND", *options, match(_raw(_ICMPV6_TYPE_BEHIND), message))
        yield drop("forged ND", *begins, match(_raw(_ICMPV6_TYPE_BEHIND), message))


def _binding_rules(chain: str, binding: SourceBinding) -> Iterable[Json]:
    """Drop frames that this member may not send, counted by reason; accept the rest."""
    mac = _number(binding.mac)
    ipv4 = [f"0x{int(a):08x}" for a in sorted(binding.addresses, key=str) if a.version == 4]
    ipv6 = [f"0x{int(a):032x}" for a in sorted(binding.addresses, key=str) if a.version == 6]
    # 0.0.0.0 and :: are the sources of a host that asks for an address (RFC 2131, RFC 4862).
    no4, no6 = "0x00000000", "0x" + "0" * 32
    over = {"limit": {"rate": FLOOD_PER_S, "burst": FLOOD_PER_S, "per": "second", "inv": True}}

    def drop(why: str, *expressions: Json) -> Json:
        return add_rule(chain, *expressions, COUNTER, {"drop": None}, comment=why)

    def of(ethertype: str) -> Json:
        return match(_raw(_ETHERTYPE), ethertype)

    def unless(place: tuple[int, int], allowed: list[str]) -> list[Json]:
        return [match(_raw(place), value, "!=") for value in allowed]

    yield drop("flood", over)
    yield drop("forged MAC", match(_raw(_SRC_MAC), mac, "!="))
    for tag in _TAGGED:
        yield drop("VLAN tag", of(tag))
    yield drop("forged IPv4", of("0x0800"), *unless(_IPV4_SRC, [*ipv4, no4]))
    yield drop("forged ARP", of("0x0806"), *unless(_ARP_SENDER_MAC, [mac]))
    yield drop("forged ARP", of("0x0806"), *unless(_ARP_SENDER_IP, [*ipv4, no4]))
    yield drop("forged IPv6", of("0x86dd"), *unless(_IPV6_SRC, [*ipv6, no6]))
    icmpv6 = [of("0x86dd"), match(_raw(_IPV6_NEXT), "0x3a")]
    advert = [*icmpv6, match(_raw(_ICMPV6_TYPE), f"0x{_ND_ADVERT:02x}")]
    solicit = [*icmpv6, match(_raw(_ICMPV6_TYPE), f"0x{_ND_SOLICIT:02x}")]
    for kind in _ROUTERS_WORD:
        yield drop("forged ND", *icmpv6, match(_raw(_ICMPV6_TYPE), kind))
    for message in (advert, solicit):
        yield drop("forged ND", *message, *unless(_IPV6_LEN, [_ND_ALONE, _ND_ONE_OPTION]))
    yield from _hidden(drop, of("0x86dd"))
    yield drop("forged ND", *advert, *unless(_ND_TARGET, ipv6))
    yield drop("forged ND", *advert, match(_raw(_ND_OPTION), "0x02"), *unless(_ND_OPTION_MAC, [mac]))
    yield drop("forged ND", *solicit, match(_raw(_ND_OPTION), "0x01"), *unless(_ND_OPTION_MAC, [mac]))
    if binding.ethertypes is not None:
        passing = sorted({*_IP_AND_ARP, *binding.ethertypes})
        yield drop("ethertype", *unless(_ETHERTYPE, [f"0x{kind:04x}" for kind in passing]))
    yield add_rule(chain, {"accept": None})


def _segments(bindings: Iterable[SourceBinding]) -> Iterator[Json]:
    """Source bindings: one map look-up finds the member, independent of the number of members."""
    by_member: dict[Address, list[SourceBinding]] = {}
    for binding in sorted(bindings, key=lambda b: (b.segment, str(b.underlay))):
        by_member.setdefault(binding.underlay, []).append(binding)
    yield add_chain("segments")
    directions: list[Any] = []
    for number, (underlay, own) in enumerate(by_member.items()):
        chain = f"member{number}"
        yield add_chain(chain)
        directions.append([str(underlay), {"goto": {"target": chain}}])
        for which, binding in enumerate(own):
            inside = f"{chain}s{which}"
            yield add_chain(inside)
            yield from _binding_rules(inside, binding)
            vni = match(VNI, f"0x{binding.vni:06x}")
            goto: Json = {"goto": {"target": inside}}
            yield add_rule(chain, vni, goto, comment=f"{binding.segment} {binding.mac}")
        yield add_rule(chain, COUNTER, {"drop": None}, comment="foreign segment")
    yield add_set("members", "ipv6_addr", directions, interval=False, verdicts=True)
    key = payload("ip6", "saddr")
    yield add_rule("segments", match(meta("nfproto"), "ipv6"), {"vmap": {"key": key, "data": "@members"}})
    yield add_rule("segments", COUNTER, {"drop": None}, comment="foreign sender")
    # Before conntrack reassembles fragments (priority -400): a check of a fragment would be useless.
    yield add_chain("fragments", type="filter", hook="prerouting", prio=-450, policy="accept")
    members = _set(sorted(str(underlay) for underlay in by_member))
    whole = match({"exthdr": {"name": "frag"}}, True)
    tunnel = match(meta("iifname"), WIREGUARD_LINK)
    sent = match(payload("ip6", "saddr"), members)
    yield add_rule("fragments", tunnel, sent, whole, COUNTER, {"drop": None}, comment="outer fragment")


def _senders(table: FilterTable, links: Json) -> Iterator[Json]:
    """Rules for outgoing packets: ACLs for receivers without netctl, and no revival of ended connections."""
    yield add_chain("senders")
    # After source NAT: packets that a container sends with this host's address are treated as this host's.
    yield add_rule("departures", links, {"jump": {"target": "senders"}})
    # A connection ended by an ACL must not come back as a new one through the other side's next packet.
    new = match({"ct": {"key": "state"}}, "new", "in")
    flags = {"&": [payload("tcp", "flags"), {"|": [{"|": [{"|": ["fin", "syn"]}, "rst"]}, "ack"]}]}
    yield add_rule("senders", new, match(flags, "syn", "!="), COUNTER, {"drop": None}, comment="no start")
    if not table.stock:
        return
    established = match({"ct": {"key": "state"}}, ["established", "related"], "in")
    yield add_rule("senders", established, {"accept": None})
    never = {"set": sorted(_NEVER_FILTERED_ICMPV6)}
    yield add_rule("senders", match(payload("icmpv6", "type"), never), {"accept": None})
    yield from accept_rules("senders", "out", table.sending)
    for version, protocol in ((4, "ip"), (6, "ip6")):
        stock = _prefixes(table.stock, version)
        if stock is not None:
            to = match(payload(protocol, "daddr"), stock)
            yield add_rule("senders", to, COUNTER, {"drop": None}, comment="stock destination")


def remove() -> Json:
    """The transaction that removes our table, whether it exists or not."""
    table = {"table": {"family": FAMILY, "name": FILTER_TABLE}}
    return {"nftables": [{"add": table}, {"delete": table}]}


def render(table: FilterTable) -> Json:
    """The transaction that loads exactly this table."""
    commands: list[Json] = remove()["nftables"]
    commands.append({"add": {"table": {"family": FAMILY, "name": FILTER_TABLE}}})
    links = _set(sorted(table.links))
    jump: Json = {"jump": {"target": "guard"}}
    commands.append(add_chain("guard"))
    commands.append(add_chain("published"))
    commands.append(add_chain("input", type="filter", hook="input", prio=0, policy="accept"))
    commands.append(add_chain("forward", type="filter", hook="forward", prio=0, policy="accept"))
    commands.append(add_chain("output", type="filter", hook="output", prio=0, policy="accept"))
    commands.extend(guard_chains(table))
    commands.extend(tunnel_inside(table, links))
    if table.bindings:
        commands.extend(_segments(table.bindings))
    if table.links:
        commands.append(add_rule("input", match(meta("iifname"), links), jump))
        commands.append(add_rule("forward", match(meta("iifname"), links), jump))
        commands.extend(_senders(table, match(meta("oifname"), links)))
    # Before the established flows: a member's first valid frame must not permit forged ones.
    vxlan = [match(meta("iifname"), WIREGUARD_LINK), match(payload("udp", "dport"), VXLAN_PORT)]
    verdict: Json = {"goto": {"target": "segments"}} if table.bindings else {"drop": None}
    commands.append(add_rule("guard", *vxlan, verdict))
    established = match({"ct": {"key": "state"}}, ["established", "related"], "in")
    commands.append(add_rule("guard", established, {"accept": None}))
    never = {"set": sorted(_NEVER_FILTERED_ICMPV6)}
    commands.append(add_rule("guard", match(payload("icmpv6", "type"), never), {"accept": None}))
    # A port that Docker publishes, or another DNAT of the host: rules name the destination before DNAT.
    rewritten = match({"ct": {"key": "status"}}, "dnat", "in")
    commands.append(add_rule("guard", rewritten, {"goto": {"target": "published"}}))
    commands.extend(accept_rules("guard", "in", table.rules, published="published"))
    for chain in ("guard", "published"):
        commands.append(add_rule(chain, COUNTER, {"drop": None}, comment="default deny"))
    if table.masquerade:
        commands.append(add_chain("postrouting", type="nat", hook="postrouting", prio=100, policy="accept"))
    for pool, lan in sorted(table.masquerade, key=str):
        protocol = "ip" if pool.version == 4 else "ip6"
        commands.append(
            add_rule(
                "postrouting",
                match(payload(protocol, "saddr"), _prefixes([pool], pool.version)),
                match(payload(protocol, "daddr"), _prefixes([lan], lan.version)),
                {"masquerade": None},
            )
        )
    return {"nftables": commands}
