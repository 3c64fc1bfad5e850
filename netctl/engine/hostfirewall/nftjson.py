"""Parses the output of `nft -j list` (libnftables-json(5)) to tables. Unknown parts are marked, never guessed."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from netctl.engine.hostfirewall.vocabulary import GOES_ON, TCP_FLAGS, known, number_of, protocol
from netctl.model.packetfilter import NOT_UNDERSTOOD, Action, Chain, Match, Rule, Table, Value

FAMILIES = frozenset({"ip", "ip6", "inet"})
"""Families of tables that process IP packets to this host or through it."""
IPTABLES = frozenset({"filter", "mangle", "raw", "security", "nat"})
HOOKS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
"""The base chains of iptables."""
MAX_ELEMENTS = 1024
"""Elements of one set; a larger set is treated as not understood: it lists foreign addresses, hardly members'."""
_UNKNOWN = Match(NOT_UNDERSTOOD)
_VERDICTS: Mapping[str, Action] = {
    "accept": "accept",
    "drop": "drop",
    "reject": "reject",
    "return": "return",
    "jump": "jump",
    "goto": "goto",
}
_META = {
    "iifname": "iifname",
    "oifname": "oifname",
    "iif": "iifname",  # listed by name while the link is there
    "oif": "oifname",
    "nfproto": "nfproto",
    "protocol": "nfproto",
    "l4proto": "l4proto",
    "pkttype": "pkttype",
}
_CT = {"state": "ctstate", "status": "ctstatus", "direction": "ctdirection"}
_PASSING = frozenset({"counter", "log", "notrack", "ct timeout", "ct helper", "ct expectation", "comment"})
"""Statements after which a packet goes on to the next statement."""
_CONDITIONS = frozenset({"limit", "quota", "ct count", "meter", "set", "map", "last"})
"""Statements that may end a rule, depending on earlier packets."""


def tables(listing: Any) -> Iterator[Table]:
    """The tables of a listing. Parts in another form than nft prints are left out or marked as not understood."""
    items = listing.get("nftables") if isinstance(listing, dict) else None
    if not isinstance(items, list):
        return
    found: dict[tuple[str, str], dict[str, Chain]] = {}
    rules: dict[tuple[str, str, str], list[Rule]] = {}
    sets: dict[tuple[str, str], dict[str, Any]] = {}
    for kind, body in _objects(items):
        family, table = body.get("family"), body.get("table", body.get("name"))
        if family not in FAMILIES or not isinstance(table, str):
            continue
        key = (family, table)
        if kind == "table":
            if "dormant" not in as_list(body.get("flags")):
                found.setdefault(key, {})
        elif kind in ("set", "map") and isinstance(body.get("name"), str):
            sets.setdefault(key, {})[body["name"]] = body
        elif kind == "chain" and isinstance(body.get("name"), str) and key in found:
            found[key][body["name"]] = _chain(body)
        elif kind == "rule" and isinstance(body.get("chain"), str):
            rules.setdefault((*key, body["chain"]), []).extend(_rules(body, sets.get(key, {})))
    for (family, name), chains in found.items():
        filled = {
            chain.name: replace(chain, rules=tuple(rules.get((family, name, chain.name), ())))
            for chain in chains.values()
        }
        mine = family != "inet" and name in IPTABLES and any(chain in HOOKS for chain in chains)
        yield Table(family, name, filled, is_iptables=mine)


def _objects(items: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and body of each object; tables and sets first, since rules refer to them."""
    objects = [
        (kind, body)
        for item in items
        if isinstance(item, dict)
        for kind, body in item.items()
        if isinstance(body, dict)
    ]
    order = {"table": 0, "set": 1, "map": 1, "chain": 2}
    yield from sorted(objects, key=lambda one: order.get(one[0], 3))


def as_list(value: Any) -> list[Any]:
    """A field of nft's JSON that is a list, one value, or missing."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _chain(body: dict[str, Any]) -> Chain:
    hook, priority = body.get("hook"), body.get("prio")
    return Chain(
        name=body["name"],
        hook=hook if isinstance(hook, str) else "",
        priority=priority if isinstance(priority, int) else 0,
        policy="drop" if body.get("policy") == "drop" else "accept",
        kind=str(body.get("type", "filter")),
    )


def _rules(body: dict[str, Any], sets: Mapping[str, Any]) -> Iterator[Rule]:
    """A rule; a rule with a verdict map becomes one rule for each verdict."""
    handle, comment = body.get("handle"), body.get("comment")
    whole = Rule(
        matches=(),
        action="continue",
        handle=handle if isinstance(handle, int) else 0,
        comment=comment if isinstance(comment, str) else "",
    )
    matches: list[Match] = []
    for expression in as_list(body.get("expr")):
        kind, value = _only(expression)
        if kind == "match":
            matches += _match(value, sets)
        elif kind in _CONDITIONS:
            matches.append(_UNKNOWN)
        elif kind in _VERDICTS:
            yield _verdict(replace(whole, matches=tuple(matches)), kind, value)
            return
        elif kind == "vmap":
            yield from _verdict_map(replace(whole, matches=tuple(matches)), value, sets)
            return
        elif kind == "xt" and isinstance(value, dict) and value.get("type") == "match":
            if value.get("name") != "comment":
                matches.append(_UNKNOWN)
        elif not _goes_on(kind, value):
            yield replace(whole, matches=tuple(matches), action="unknown")
            return
    yield replace(whole, matches=tuple(matches))


def _goes_on(kind: str, value: Any) -> bool:
    """Whether a packet passes a statement unchanged."""
    if kind == "xt":
        return isinstance(value, dict) and value.get("name") in GOES_ON
    return kind in _PASSING or kind == "continue" or (kind == "mangle" and _mark(value))


def _only(expression: Any) -> tuple[str, Any]:
    """The only key of an object, and its value."""
    if isinstance(expression, dict) and len(expression) == 1:
        kind, value = next(iter(expression.items()))
        return str(kind), value
    return (expression, None) if isinstance(expression, str) else ("", None)


def _mark(value: Any) -> bool:
    """Whether a statement only changes fields that no understood match looks at."""
    key = value.get("key") if isinstance(value, dict) else None
    kind, of = _only(key)
    return kind in ("meta", "ct") and isinstance(of, dict) and of.get("key") in ("mark", "priority", "label")


def _verdict(rule: Rule, kind: str, value: Any) -> Rule:
    action = _VERDICTS[kind]
    if action not in ("jump", "goto"):
        return replace(rule, action=action)
    target = value.get("target") if isinstance(value, dict) else None
    return replace(rule, action=action if isinstance(target, str) else "unknown", target=str(target or ""))


def _verdict_map(rule: Rule, value: Any, sets: Mapping[str, Any]) -> Iterator[Rule]:
    elements = _elements(value.get("data"), sets) if isinstance(value, dict) else None
    if elements is None:
        yield replace(rule, action="unknown")
        return
    for element in elements:
        if not isinstance(element, list) or len(element) != 2:
            yield replace(rule, action="unknown")
            return
        key, (kind, of) = element[0], _only(element[1])
        matches = _match({"op": "==", "left": value.get("key"), "right": {"set": [key]}}, sets)
        if key == "*":
            matches = [_UNKNOWN]  # the catch-all element applies last, in whatever position it is listed
        one = replace(rule, matches=(*rule.matches, *matches))
        if kind in _VERDICTS:
            yield _verdict(one, kind, of)
        elif kind != "continue":
            yield replace(one, action="unknown")


def _elements(data: Any, sets: Mapping[str, Any]) -> list[Any] | None:
    """The elements of a set, anonymous or by name; None: not understood."""
    kind, value = _only(data)
    if kind == "set":
        found = value if isinstance(value, list) else [value]
    elif isinstance(data, str) and data.startswith("@"):
        body = sets.get(data[1:], {"flags": "missing"})
        if not {"timeout", "dynamic", "missing"}.isdisjoint(map(str, as_list(body.get("flags")))):
            return None  # the set changes at any moment
        found = as_list(body.get("elem"))
    else:
        return None
    plain = [_plain(one) for one in found]
    return plain if len(plain) <= MAX_ELEMENTS else None


def _plain(element: Any) -> Any:
    """An element without its own counter or timeout."""
    kind, value = _only(element)
    return value.get("val") if kind == "elem" and isinstance(value, dict) else element


def _match(body: Any, sets: Mapping[str, Any]) -> list[Match]:
    """The conditions of one match expression."""
    if not isinstance(body, dict):
        return [_UNKNOWN]
    operator = body.get("op")
    kind, header = _only(body.get("left"))
    if kind == "exthdr" and isinstance(header, dict) and (header.get("field") or body.get("right") is True):
        return [Match("extension")] if operator == "==" else [_UNKNOWN]
    implied, subject = _subject(body.get("left"))
    if subject == "tcpflags":
        return [*implied, _flags(body)]
    if subject is None or operator not in ("==", "!=", "in"):
        return [*implied, _UNKNOWN]
    right = body.get("right")
    elements = [right]
    if isinstance(right, list):
        elements = right
    elif _only(right)[0] == "set" or (isinstance(right, str) and right.startswith("@")):
        found = _elements(right, sets)
        if found is None:
            return [*implied, _UNKNOWN]
        elements = found
    values = [value for element in elements for value in _values(subject, element)]
    if any(value is None for value in values):
        return [*implied, _UNKNOWN]
    return [*implied, Match(subject, tuple(v for v in values if v is not None), operator == "!=")]


def _subject(left: Any) -> tuple[list[Match], str | None]:
    """The conditions that a match's subject implies (a TCP port: the packet is TCP), and the subject."""
    kind, value = _only(left)
    if kind == "&" and isinstance(value, list) and len(value) == 2:
        of = _only(value[0])[1]
        flags = isinstance(of, dict) and (of.get("protocol"), of.get("field")) == ("tcp", "flags")
        return ([Match("l4proto", ("tcp",))], "tcpflags") if flags else ([], None)
    if not isinstance(value, dict):
        return [], None
    key = value.get("key")
    if kind == "meta":
        return [], _META.get(str(key))
    if kind == "ct" and value.keys() == {"key"}:
        return [], _CT.get(str(key))
    if kind == "fib" and value.get("result") == "type":
        return [], {"daddr": "daddrtype", "saddr": "saddrtype"}.get(
            "+".join(map(str, as_list(value.get("flags"))))
        )
    return _payload(value) if kind == "payload" else ([], None)


def _payload(body: dict[str, Any]) -> tuple[list[Match], str | None]:
    layer, field = body.get("protocol"), body.get("field")
    if layer in ("ip", "ip6"):
        family = [Match("nfproto", ("ipv4" if layer == "ip" else "ipv6",))]
        if field in ("saddr", "daddr"):
            return family, str(field)
        if field in ("protocol", "nexthdr"):
            return family, "l4proto"
        return family, None
    if layer in ("tcp", "udp", "udplite", "sctp", "dccp"):
        return [Match("l4proto", (str(layer),))], str(field) if field in ("sport", "dport") else None
    if layer == "th" and field in ("sport", "dport"):
        return [], str(field)
    if layer in ("icmp", "icmpv6"):
        of = [Match("l4proto", ("icmp" if layer == "icmp" else "ipv6-icmp",))]
        return of, "icmptype" if field == "type" else None
    return [], None


def _flags(body: dict[str, Any]) -> Match:
    """``tcp flags & (those looked at) == those set``."""
    looked, wanted = _flag_names(_only(body.get("left"))[1][1]), _flag_names(body.get("right"))
    if looked is None or wanted is None or body.get("op") not in ("==", "!="):
        return _UNKNOWN
    return Match("tcpflags", (",".join(sorted(looked)), ",".join(sorted(wanted))), body["op"] == "!=")


def _flag_names(value: Any, depth: int = 0) -> frozenset[str] | None:
    if isinstance(value, str):
        return frozenset({value}) if value in TCP_FLAGS else None
    if isinstance(value, dict):
        value = value.get("|")
    if not isinstance(value, list) or depth > len(TCP_FLAGS):
        return None
    found = [_flag_names(one, depth + 1) for one in value]
    return None if None in found else frozenset[str]().union(*(one for one in found if one is not None))


def _values(subject: str, element: Any) -> list[Value | None]:
    """One element as values; None: not understood."""
    kind, value = _only(element)
    if subject in ("saddr", "daddr"):
        return [_prefix(element)] if kind != "range" else _address_range(value)
    if subject in ("sport", "dport"):
        if kind == "range" and isinstance(value, list) and len(value) == 2:
            first, last = (number_of(one) for one in value)
            return [(first, last) if first is not None and last is not None else None]
        port = number_of(element)
        return [(port, port) if port is not None else None]
    if isinstance(element, bool) or not isinstance(element, str | int):
        return [None]
    if subject == "l4proto":
        return [protocol(element)]
    return [known(subject, element)]


def _prefix(element: Any) -> Value | None:
    kind, value = _only(element)
    try:
        if isinstance(element, str):
            return ipaddress.ip_network(element)
        if kind == "prefix":
            return ipaddress.ip_network((str(value["addr"]), int(value["len"])), strict=False)
    except (ValueError, TypeError, KeyError):
        pass
    return None


def _address_range(value: Any) -> list[Value | None]:
    try:
        first, last = (ipaddress.ip_address(str(one)) for one in value)
        return list(ipaddress.summarize_address_range(first, last))
    except (ValueError, TypeError):
        return [None]
