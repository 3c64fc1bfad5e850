"""A FilterTable as nftables JSON (libnftables-json(5)): one table, replaced in one transaction."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from netctl.model.addresses import Prefix
from netctl.model.document import PortRange
from netctl.model.hoststate import FILTER_TABLE, WIREGUARD_LINK, FilterRule, FilterTable, SourceBinding

Json = dict[str, Any]
FAMILY = "inet"
VXLAN_PORT = 4789
FLOOD_PER_S = 200
"""Flooded frames a member may send: a LAN's broadcast noise is far below, a storm far above."""

# Places inside a VXLAN datagram, in bits from the UDP header (RFC 7348 §5, RFC 826, RFC 8200, RFC 4861).
_VNI = (96, 24)
_ETHERNET = 128
_SRC_MAC = (_ETHERNET + 48, 48)
_ETHERTYPE = (_ETHERNET + 96, 16)
_IPV4_SRC = (_ETHERNET + 112 + 96, 32)
_ARP_SENDER_MAC = (_ETHERNET + 112 + 64, 48)
_ARP_SENDER_IP = (_ETHERNET + 112 + 112, 32)
_IPV6_SRC = (_ETHERNET + 112 + 64, 128)
_IPV6_NEXT = (_ETHERNET + 112 + 48, 8)
_ICMPV6_TYPE = (_ETHERNET + 112 + 320, 8)
_ND_TARGET = (_ETHERNET + 112 + 320 + 64, 128)
_ND_OPTION = (_ETHERNET + 112 + 320 + 192, 8)
_ND_OPTION_MAC = (_ETHERNET + 112 + 320 + 208, 48)
_ND_SOLICIT, _ND_ADVERT = 135, 136
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


def _match(left: Json, right: Any, op: str = "==") -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def _payload(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


def _raw(place: tuple[int, int]) -> Json:
    return {"payload": {"base": "th", "offset": place[0], "len": place[1]}}


def _meta(key: str) -> Json:
    return {"meta": {"key": key}}


def _set(items: Sequence[Any]) -> Any:
    return items[0] if len(items) == 1 else {"set": list(items)}


def _prefixes(prefixes: Iterable[Prefix], version: int) -> Any:
    """One family as a set without overlaps; None when there is nothing of it."""
    mine = [prefix for prefix in prefixes if prefix.version == version]
    merged = sorted(ipaddress.collapse_addresses(mine))  # type: ignore[type-var]
    items: list[Any] = []
    for prefix in merged:
        address = str(prefix.network_address)
        whole = prefix.prefixlen == prefix.max_prefixlen
        items.append(address if whole else {"prefix": {"addr": address, "len": prefix.prefixlen}})
    return _set(items) if items else None


def _ports(ports: Sequence[PortRange]) -> Any:
    merged: list[list[int]] = []
    for port in sorted(ports, key=lambda p: p.first):
        if merged and port.first <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], port.last)
        else:
            merged.append([port.first, port.last])
    return _set([low if low == high else {"range": [low, high]} for low, high in merged])


def _rule(chain: str, *expressions: Json, comment: str = "") -> Json:
    rule: Json = {"family": FAMILY, "table": FILTER_TABLE, "chain": chain, "expr": list(expressions)}
    if comment:
        rule["comment"] = comment[:128]  # the kernel keeps no longer one
    return {"add": {"rule": rule}}


def _chain(name: str, **hook: Any) -> Json:
    return {"add": {"chain": {"family": FAMILY, "table": FILTER_TABLE, "name": name, **hook}}}


def _accept_rules(rule: FilterRule) -> Iterable[Json]:
    for version, protocol in ((4, "ip"), (6, "ip6")):
        sources = _prefixes(rule.sources, version)
        destinations = _prefixes(rule.destinations, version)
        if sources is None or destinations is None:
            continue
        parts = [
            _match(_payload(protocol, "saddr"), sources),
            _match(_payload(protocol, "daddr"), destinations),
        ]
        if rule.proto == "icmp":
            parts.append(_match(_meta("l4proto"), "icmp" if version == 4 else "ipv6-icmp"))
        elif rule.proto is not None and rule.ports:
            parts.append(_match(_payload(rule.proto, "dport"), _ports(rule.ports)))
        elif rule.proto is not None:
            parts.append(_match(_meta("l4proto"), rule.proto))
        yield _rule("guard", *parts, {"accept": None}, comment=rule.name)


def _number(mac: str) -> str:
    return "0x" + mac.replace(":", "")


def _binding_rules(chain: str, binding: SourceBinding) -> Iterable[Json]:
    """Drop what this member has no right to send; return what is left."""
    drop: Json = {"drop": None}
    mac = _number(binding.mac)
    ipv4 = [f"0x{int(a):08x}" for a in sorted(binding.addresses, key=str) if a.version == 4]
    ipv6 = [f"0x{int(a):032x}" for a in sorted(binding.addresses, key=str) if a.version == 6]
    # 0.0.0.0 and :: are how a host asks before it has an address (RFC 2131, RFC 4862).
    no4, no6 = "0x00000000", "0x" + "0" * 32
    over = {"limit": {"rate": FLOOD_PER_S, "burst": FLOOD_PER_S, "per": "second", "inv": True}}
    yield _rule(chain, over, drop)
    yield _rule(chain, _match(_raw(_SRC_MAC), mac, "!="), drop)

    def of(ethertype: str) -> Json:
        return _match(_raw(_ETHERTYPE), ethertype)

    def unless(place: tuple[int, int], allowed: list[str]) -> list[Json]:
        return [_match(_raw(place), value, "!=") for value in allowed]

    yield _rule(chain, of("0x0800"), *unless(_IPV4_SRC, [*ipv4, no4]), drop)
    yield _rule(chain, of("0x0806"), *unless(_ARP_SENDER_MAC, [mac]), drop)
    yield _rule(chain, of("0x0806"), *unless(_ARP_SENDER_IP, [*ipv4, no4]), drop)
    yield _rule(chain, of("0x86dd"), *unless(_IPV6_SRC, [*ipv6, no6]), drop)
    icmpv6 = [of("0x86dd"), _match(_raw(_IPV6_NEXT), "0x3a")]
    advert = [*icmpv6, _match(_raw(_ICMPV6_TYPE), f"0x{_ND_ADVERT:02x}")]
    solicit = [*icmpv6, _match(_raw(_ICMPV6_TYPE), f"0x{_ND_SOLICIT:02x}")]
    yield _rule(chain, *advert, *unless(_ND_TARGET, ipv6), drop)
    yield _rule(chain, *advert, _match(_raw(_ND_OPTION), "0x02"), *unless(_ND_OPTION_MAC, [mac]), drop)
    yield _rule(chain, *solicit, _match(_raw(_ND_OPTION), "0x01"), *unless(_ND_OPTION_MAC, [mac]), drop)
    yield _rule(chain, {"accept": None})


def remove() -> Json:
    """The transaction that removes our table, whether it is there or not."""
    table = {"table": {"family": FAMILY, "name": FILTER_TABLE}}
    return {"nftables": [{"add": table}, {"delete": table}]}


def render(table: FilterTable) -> Json:
    """The transaction that puts exactly this table in place."""
    commands: list[Json] = remove()["nftables"]
    commands.append({"add": {"table": {"family": FAMILY, "name": FILTER_TABLE}}})
    links = _set(sorted(table.links))
    guarded = _match(_meta("iifname"), links)
    jump: Json = {"jump": {"target": "guard"}}
    commands.append(_chain("guard"))
    commands.append(_chain("input", type="filter", hook="input", prio=0, policy="accept"))
    commands.append(_chain("forward", type="filter", hook="forward", prio=0, policy="accept"))
    if table.bindings:
        commands.append(_chain("segments"))
    bindings = sorted(table.bindings, key=lambda b: (b.segment, str(b.underlay)))
    for number, binding in enumerate(bindings):
        chain = f"member{number}"
        commands.append(_chain(chain))
        commands.extend(_binding_rules(chain, binding))
        commands.append(
            _rule(
                "segments",
                _match(_payload("ip6", "saddr"), str(binding.underlay)),
                _match(_raw(_VNI), f"0x{binding.vni:06x}"),
                {"goto": {"target": chain}},
                comment=f"{binding.segment} {binding.mac}",
            )
        )
    if table.bindings:
        commands.append(_rule("segments", {"drop": None}))
    if table.links:
        commands.append(_rule("input", guarded, jump))
        commands.append(_rule("forward", guarded, jump))
    # Before the established ones: a member's first good frame must not open the way for forged ones.
    vxlan = [_match(_meta("iifname"), WIREGUARD_LINK), _match(_payload("udp", "dport"), VXLAN_PORT)]
    verdict: Json = {"goto": {"target": "segments"}} if table.bindings else {"drop": None}
    commands.append(_rule("guard", *vxlan, verdict))
    established = _match({"ct": {"key": "state"}}, ["established", "related"], "in")
    commands.append(_rule("guard", established, {"accept": None}))
    never = {"set": sorted(_NEVER_FILTERED_ICMPV6)}
    commands.append(_rule("guard", _match(_payload("icmpv6", "type"), never), {"accept": None}))
    for rule in table.rules:
        commands.extend(_accept_rules(rule))
    commands.append(
        _rule("guard", {"counter": {"packets": 0, "bytes": 0}}, {"drop": None}, comment="default deny")
    )
    if table.masquerade:
        commands.append(_chain("postrouting", type="nat", hook="postrouting", prio=100, policy="accept"))
    for pool, lan in sorted(table.masquerade, key=str):
        protocol = "ip" if pool.version == 4 else "ip6"
        commands.append(
            _rule(
                "postrouting",
                _match(_payload(protocol, "saddr"), _prefixes([pool], pool.version)),
                _match(_payload(protocol, "daddr"), _prefixes([lan], lan.version)),
                {"masquerade": None},
            )
        )
    return {"nftables": commands}
