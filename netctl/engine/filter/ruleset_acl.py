"""Compiles ACL rules to sets and verdict maps: the cost of a new flow does not grow with the number of rules.

All rules accept, so only their union counts. Sources are grouped by prefix length: prefixes of one length are
disjoint, so nothing multiplies. Sources that the same rules name are a class. The destinations of a class are a list
of disjoint boxes (destination, protocol, ports). The boxes of a small class become elements of sets of concatenations;
a large class gets a chain, which a verdict map finds by the source.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from netctl.model.addresses import Prefix
from netctl.model.document import PortRange
from netctl.model.hoststate import FILTER_TABLE, FilterRule

Json = dict[str, Any]
FAMILY = "inet"
Range = tuple[int, int]
"""A closed range of addresses or ports."""
Box = tuple[Range, str | None, Range | None]
"""(destination, layer 4 protocol, ports); None: any."""
PAIRS_MAX = 2_000_000
"""(rule, source) pairs that are sorted into classes, about two seconds; with more, each group of rules with the same
sources gets a chain."""
FLAT_FACTOR = 4
"""A class becomes elements of sets if (sources × boxes) is at most so many times (sources + boxes)."""
EVERYTHING: Range = (0, 65535)
IP_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58}
"""Numbers of protocols: nft would look up names in /etc/protocols, which a small system may lack."""
PORTED = ("tcp", "udp")
"""Protocols with ports."""
_TWIN = "o"
"""Suffix of the name of a chain or map for flows whose destination DNAT has rewritten."""
COUNTER: Json = {"counter": {"packets": 0, "bytes": 0}}


def match(left: Json, right: Any, op: str = "==") -> Json:
    """A match expression."""
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, name: str) -> Json:
    """An expression for a header field."""
    return {"payload": {"protocol": protocol, "field": name}}


def meta(key: str) -> Json:
    """An expression for metadata of a packet."""
    return {"meta": {"key": key}}


def began_for(key: str) -> Json:
    """An expression for the sender's original field (``ip daddr``, ``proto-dst``), before destination NAT."""
    return {"ct": {"key": key, "dir": "original"}}


def add_rule(chain: str, *expressions: Json, comment: str = "") -> Json:
    """The command that appends a rule."""
    rule: Json = {"family": FAMILY, "table": FILTER_TABLE, "chain": chain, "expr": list(expressions)}
    if comment:
        rule["comment"] = comment[:128]  # the kernel's limit
    return {"add": {"rule": rule}}


def add_chain(name: str, **hook: Any) -> Json:
    """The command that adds a chain."""
    return {"add": {"chain": {"family": FAMILY, "table": FILTER_TABLE, "name": name, **hook}}}


def add_set(name: str, kind: Any, elements: Sequence[Any], *, interval: bool, verdicts: bool = False) -> Json:
    """The command that adds a set, or a verdict map, with its elements."""
    body: Json = {"family": FAMILY, "table": FILTER_TABLE, "name": name, "type": kind, "elem": list(elements)}
    if interval:
        body["flags"] = ["interval"]
    if verdicts:
        body["map"] = "verdict"
    return {"add": {"map" if verdicts else "set": body}}


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same ranges sorted, with overlapping and adjacent ones merged."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return found


def pieces(prefixes: Mapping[Prefix, frozenset[int]]) -> Iterator[tuple[Range, frozenset[int]]]:
    """Disjoint ranges of addresses, each with the union of the numbers of the prefixes that contain it."""
    stack: list[tuple[int, frozenset[int]]] = []  # (last address, numbers of this prefix and all around it)
    place = 0
    order = sorted((int(p.network_address), -int(p.broadcast_address), p) for p in prefixes)
    for first, minus_last, prefix in order:
        while stack and stack[-1][0] < first:
            last, carried = stack.pop()
            if place <= last:
                yield (place, last), carried
            place = last + 1
        if stack and place < first:
            yield (place, first - 1), stack[-1][1]
        around = stack[-1][1] if stack else frozenset[int]()
        stack.append((-minus_last, around | prefixes[prefix]))
        place = first
    while stack:
        last, carried = stack.pop()
        if place <= last:
            yield (place, last), carried
        place = last + 1


@lru_cache(maxsize=1024)
def _union(prefixes: frozenset[Prefix], version: int) -> tuple[Range, ...]:
    """The prefixes of one family as sorted, merged ranges."""
    mine = [p for p in prefixes if p.version == version]
    return tuple(merged((int(p.network_address), int(p.broadcast_address)) for p in mine))


def boxes(rules: Iterable[FilterRule], version: int) -> list[Box]:
    """The destinations that these rules allow for one source, as boxes; no two boxes of a kind share a packet."""
    whats: dict[tuple[str | None, tuple[PortRange, ...]], int] = {}
    carried: dict[Prefix, set[int]] = {}
    common: frozenset[Prefix] | None = None
    alike = True
    numbered: list[tuple[frozenset[Prefix], int]] = []
    for rule in rules:
        numbered.append((rule.destinations, whats.setdefault((rule.proto, rule.ports), len(whats))))
        alike = alike and (common is None or common is rule.destinations or common == rule.destinations)
        common = rule.destinations
    if alike and common is not None:
        every = frozenset(range(len(whats)))
        parts = [(where, every) for where in _union(common, version)]
    else:
        for destinations, number in numbered:
            for prefix in destinations:
                if prefix.version == version:
                    carried.setdefault(prefix, set()).add(number)
        parts = list(pieces({prefix: frozenset(of) for prefix, of in carried.items()}))
    listed = list(whats)
    found: list[Box] = []
    for destination, numbers in parts:
        here = [listed[number] for number in numbers]
        if any(proto is None for proto, _ in here):
            found.append((destination, None, None))
            continue
        for proto in sorted({proto for proto, _ in here if proto is not None}):
            ports = [of for name, of in here if name == proto]
            layer4 = "ipv6-icmp" if proto == "icmp" and version == 6 else proto
            if not all(ports):
                found.append((destination, layer4, None))
                continue
            ranges = merged((port.first, port.last) for of in ports for port in of)
            found.extend((destination, layer4, one) for one in ranges)
    return found


@dataclass(slots=True)
class Compiler:
    """Compiles rules into one chain; `prefix` makes the names of its sets unique.

    `published`: a second chain that checks the destination before DNAT against the same sets.
    """

    chain: str
    prefix: str
    version: int
    published: str = ""
    made: list[Json] = field(default_factory=list)
    sets: dict[tuple[str, bool], list[Any]] = field(default_factory=dict)

    @property
    def ip(self) -> str:
        """The family's name in expressions."""
        return "ip" if self.version == 4 else "ip6"

    @property
    def kind(self) -> str:
        """The type of the family's addresses in sets."""
        return "ipv4_addr" if self.version == 4 else "ipv6_addr"

    def address(self, where: Range) -> Any:
        """The JSON of one address or a range of addresses."""
        make = ipaddress.IPv4Address if self.version == 4 else ipaddress.IPv6Address
        if where[0] == where[1]:
            return str(make(where[0]))
        return {"range": [str(make(where[0])), str(make(where[1]))]}

    def put(self, name: str, source: Range | None, box: Box) -> None:
        """Add one element to the set of its kind: sets of exact elements are hashes, sets of ranges are trees."""
        destination, proto, ports = box
        parts = [] if source is None else [self.address(source)]
        parts.append(self.address(destination))
        kind = "any"
        if proto is not None:
            parts.append(IP_PROTOCOLS[proto])
            kind = "proto"
        if ports is not None:
            parts.append(ports[0] if ports[0] == ports[1] else {"range": list(ports)})
            kind = "port"
        ranged = any(isinstance(part, dict) for part in parts)
        self.sets.setdefault((f"{name}{kind}", ranged), []).append(parts)

    def flush(self, chain: str, published: str, *, source: bool) -> None:
        """Emit the collected sets, and rules that look them up, in `chain` and, if given, in `published`."""
        for (name, ranged), elements in sorted(self.sets.items()):
            full = f"{self.prefix}{self.version}{name}{'r' if ranged else ''}"
            types = [self.kind] if source else []
            types.append(self.kind)
            if not name.endswith("any"):
                types.append("inet_proto")
            if name.endswith("port"):
                types.append("inet_service")
            single = len(types) == 1
            plain = [parts[0] if single else {"concat": parts} for parts in elements]
            self.made.append(add_set(full, types[0] if single else types, plain, interval=ranged))
            family = match(meta("nfproto"), "ipv4" if self.version == 4 else "ipv6")
            for where, before_nat in ((chain, False), (published, True)):
                left = self._packet(name, source=source, before_nat=before_nat)
                ask = match(left[0] if single else {"concat": left}, f"@{full}")
                # nft knows the type of an original port only after a match of one protocol.
                ported = before_nat and name.endswith("port")
                first = (
                    [[match(meta("l4proto"), IP_PROTOCOLS[proto])] for proto in PORTED] if ported else [[]]
                )
                for protocol in first if where else ():
                    self.made.append(add_rule(where, family, *protocol, ask, {"accept": None}))
        self.sets.clear()

    def _packet(self, name: str, *, source: bool, before_nat: bool) -> list[Json]:
        """The fields of a packet to look up in the set of this name."""
        left = [payload(self.ip, "saddr")] if source else []
        left.append(began_for(f"{self.ip} daddr") if before_nat else payload(self.ip, "daddr"))
        if not name.endswith("any"):
            left.append(meta("l4proto"))
        if name.endswith("port"):
            left.append(began_for("proto-dst") if before_nat else payload("th", "dport"))
        return left

    def compile(self, rules: Sequence[FilterRule]) -> list[Json]:
        """The commands for these rules in this family."""
        by_sources: dict[frozenset[Prefix], list[FilterRule]] = {}
        for rule in rules:
            by_sources.setdefault(rule.sources, []).append(rule)
        groups = list(by_sources.items())
        if sum(len(sources) for sources, _ in groups) > PAIRS_MAX:
            for number, (sources, named) in enumerate(groups):
                alone = {p: frozenset({number}) for p in sources if p.version == self.version}
                if alone:
                    self._class(number, [where for where, _ in pieces(alone)], boxes(named, self.version))
            self.flush(self.chain, self.published, source=True)
            return self.made
        carried: dict[Prefix, set[int]] = {}
        for number, (sources, _) in enumerate(groups):
            for prefix in sources:
                if prefix.version == self.version:
                    carried.setdefault(prefix, set()).add(number)
        classes: dict[frozenset[int], list[Range]] = {}
        for where, of in pieces({prefix: frozenset(of) for prefix, of in carried.items()}):
            classes.setdefault(of, []).append(where)
        directions: list[tuple[Range, str]] = []
        for number, (of, ranges) in enumerate(classes.items()):
            reach = boxes((rule for group in sorted(of) for rule in groups[group][1]), self.version)
            if len(ranges) * len(reach) <= FLAT_FACTOR * (len(ranges) + len(reach)):
                for source in ranges:
                    for box in reach:
                        self.put("", source, box)
                continue
            kept, self.sets = self.sets, {}
            chain = self._reach_of(number, reach)
            self.sets = kept
            directions += [(source, chain) for source in ranges]
        self.flush(self.chain, self.published, source=True)
        if directions:
            self._direct(f"{self.prefix}{self.version}from", directions)
        return self.made

    def _class(self, number: int, where: list[Range], reach: list[Box]) -> None:
        """One class with its own chain and its own map (only past PAIRS_MAX)."""
        if not reach:
            return
        chain = self._reach_of(number, reach)
        self._direct(f"{self.prefix}{self.version}from{number}", [(source, chain) for source in where])

    def _reach_of(self, number: int, reach: list[Box]) -> str:
        """Emit a chain with the destinations of one class (and its twin for DNAT); returns the chain's name."""
        chain = f"{self.prefix}{self.version}c{number}"
        twin = f"{chain}{_TWIN}" if self.published else ""
        self.made += [add_chain(name) for name in (chain, twin) if name]
        for box in reach:
            self.put(f"c{number}", None, box)
        self.flush(chain, twin, source=False)
        return chain

    def _direct(self, name: str, directions: list[tuple[Range, str]]) -> None:
        ranged = any(first != last for (first, last), _ in directions)
        family = match(meta("nfproto"), "ipv4" if self.version == 4 else "ipv6")
        for where, twin in ((self.chain, ""), (self.published, _TWIN)):
            if where:
                elements = [
                    [self.address(source), {"jump": {"target": f"{chain}{twin}"}}]
                    for source, chain in directions
                ]
                full = f"{name}{twin}"
                self.made.append(add_set(full, self.kind, elements, interval=ranged, verdicts=True))
                ask = {"vmap": {"key": payload(self.ip, "saddr"), "data": f"@{full}"}}
                self.made.append(add_rule(where, family, ask))


def accept_rules(chain: str, prefix: str, rules: Sequence[FilterRule], *, published: str = "") -> list[Json]:
    """The commands that make `chain` accept the flows of these rules, in both families.

    `published`: a chain that accepts the same flows by their destination and port before DNAT.
    """
    made: list[Json] = []
    lengths = {(source.version, source.prefixlen) for rule in rules for source in rule.sources}
    for version, length in sorted(lengths, reverse=True):
        compiler = Compiler(chain, f"{prefix}{length}v", version, published)
        alike: list[FilterRule] = []
        cut: dict[frozenset[Prefix], frozenset[Prefix]] = {}
        for rule in rules:
            sources = cut.get(rule.sources)
            if sources is None:
                mine = (s for s in rule.sources if s.prefixlen == length and s.version == version)
                sources = cut[rule.sources] = frozenset(mine)
            if sources:
                alike.append(replace(rule, sources=sources))
        made += compiler.compile(alike)
    return made
