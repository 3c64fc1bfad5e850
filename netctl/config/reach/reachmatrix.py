"""Compares which members may reach which in two documents, by classes of members instead of by pairs.

10,000 members are a hundred million pairs. Members that every rule treats alike, before and after, are one
class. A class has four bit masks (source and destination, IPv4 and IPv6) with one bit for each rule of either
document: one AND of two masks tells whether a pair may communicate.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from netctl.config.load.acl import BOTH_FAMILIES, Evaluator
from netctl.config.load.build import ALL
from netctl.config.reach.flows import Flows, flows_of
from netctl.model.addresses import parse_prefix
from netctl.model.document import Document, Mode, Network, Rule

MAX_CLASS_PAIRS = 400_000
"""Compared pairs at most, about two seconds. 10,000 members in 50 groups need some thousand; only a document whose
rules treat nearly every member differently comes near, and then the result says that it is incomplete."""
OPEN = Rule("no acls: all reach all", (ALL,), (ALL,))


@dataclass(frozen=True, slots=True)
class Masks:
    """The rules and tunnels of one document that an end takes part in, as bit masks; all zero: none."""

    src: tuple[int, int] = (0, 0)
    """Rules with the end as source, for IPv4 and IPv6; likewise `dst` as destination."""
    dst: tuple[int, int] = (0, 0)
    calls: int = 0
    """Tunnels: two ends have one if one `calls` and the other `answers`; in a mesh each member does both."""
    answers: int = 0

    def reach(self, other: Masks) -> int:
        """The rules that let this end open a flow to the other."""
        return (self.src[0] & other.dst[0]) | (self.src[1] & other.dst[1])

    def tunnel(self, other: Masks) -> int:
        """The networks in which these two ends have a tunnel."""
        return (self.calls & other.answers) | (other.calls & self.answers)


@dataclass(slots=True)
class Bits:
    """Gives a bit number to each rule and each network's tunnels of both documents; equal ones share a number."""

    numbers: dict[Hashable, int] = field(default_factory=dict)
    rules: dict[int, tuple[str, Rule]] = field(default_factory=dict)
    """The network and the rule, by bit number."""

    def rule(self, network: Network, rule: Rule) -> int:
        """The bit of a rule, independent of the rule's name."""
        what = (network.name, rule.src, rule.dst, rule.proto, rule.ports, rule.ethertypes)
        number = self.numbers.setdefault(what, len(self.numbers))
        self.rules.setdefault(number, (network.name, rule))
        return 1 << number

    def tunnel(self, network: Network) -> int:
        """The bit of a network's tunnels."""
        number = self.numbers.setdefault((network.name, "tunnels", network.hub), len(self.numbers))
        return 1 << number

    def flows(self, mask: int) -> Mapping[str, Flows]:
        """The flows that the rules of a mask allow, by network."""
        by_network: dict[str, list[Rule]] = {}
        while mask:
            low = mask & -mask
            network, rule = self.rules[low.bit_length() - 1]
            by_network.setdefault(network, []).append(rule)
            mask ^= low
        return {network: flows_of(rules) for network, rules in by_network.items()}


@dataclass(slots=True)
class Side:
    """The masks of all members and of all LANs behind members, in one document."""

    document: Document
    bits: Bits
    ends: dict[str, Masks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts: dict[str, list[Masks]] = {}
        for network in self.document.networks.values():
            for name, masks in self._network(network):
                parts.setdefault(name, []).append(masks)
        self.ends = {name: _union(found) for name, found in parts.items()}

    def _network(self, network: Network) -> Iterator[tuple[str, Masks]]:
        rules = network.acls if network.acls is not None else (OPEN,)
        sources: dict[str, int] = {}
        targets: dict[str, int] = {}
        for rule in rules:
            bit = self.bits.rule(network, rule)
            for selectors, masks in ((rule.src, sources), (rule.dst, targets)):
                for selector in selectors:
                    masks[selector] = masks.get(selector, 0) | bit
        evaluator = Evaluator(self.document, network)
        tunnel = self.bits.tunnel(network)
        for name in network.member_names:
            found = [evaluator.selectors(name, version) for version in BOTH_FAMILIES]
            spoke = network.hub not in (None, name)
            yield (
                name,
                Masks(
                    (_mask(found[0], sources), _mask(found[1], sources)),
                    (_mask(found[0], targets), _mask(found[1], targets)),
                    0 if spoke else tunnel,
                    0 if network.hub == name else tunnel,
                ),
            )
        if network.mode is Mode.ROUTED:
            yield from self._lans(network, sources, targets)

    def _lans(
        self, network: Network, sources: Mapping[str, int], targets: Mapping[str, int]
    ) -> Iterator[tuple[str, Masks]]:
        prefixes = {text: parse_prefix(text) for text in {*sources, *targets} if "/" in text}
        for name in network.member_names:
            for route in self.document.members[name].routes:
                said = {text for text, prefix in prefixes.items() if prefix.overlaps(route)}
                if network.acls is None:
                    said.add(ALL)  # `*` in a rule means only the members; without rules LANs are included
                masks = (_mask(said, sources), _mask(said, targets))
                family = (1, 0) if route.version == 4 else (0, 1)
                src, dst = ((mask * family[0], mask * family[1]) for mask in masks)
                yield f"{route} behind {name}", Masks(src, dst)


def _mask(selectors: frozenset[str] | set[str], masks: Mapping[str, int]) -> int:
    mask = 0
    for selector in selectors:
        mask |= masks.get(selector, 0)
    return mask


def _union(parts: list[Masks]) -> Masks:
    if len(parts) == 1:
        return parts[0]
    src, dst, calls, answers = [0, 0], [0, 0], 0, 0
    for part in parts:
        for family in (0, 1):
            src[family] |= part.src[family]
            dst[family] |= part.dst[family]
        calls |= part.calls
        answers |= part.answers
    return Masks((src[0], src[1]), (dst[0], dst[1]), calls, answers)


@dataclass(frozen=True, slots=True)
class Class:
    """Members that both documents treat alike."""

    names: tuple[str, ...]
    before: Masks
    after: Masks
    rekeyed: bool
    """Whether the members' keys change: then their tunnels drop even where both documents have them."""

    @property
    def changed(self) -> bool:
        """Whether anything changes for its members."""
        return self.rekeyed or self.before != self.after


def classes(
    before: Side, after: Side, old_names: Mapping[str, str], rekeyed: frozenset[str], alone: str | None
) -> list[Class]:
    """All ends of both documents in classes. `old_names`: of renamed members; `alone`: gets a class of its own."""
    nobody = Masks()
    gone = set(old_names.values())
    names = dict.fromkeys([*(name for name in before.ends if name not in gone), *after.ends])
    groups: dict[tuple[Masks, Masks, bool, bool], list[str]] = {}
    for name in names:
        then = before.ends.get(old_names.get(name, name), nobody)
        now = after.ends.get(name, nobody)
        groups.setdefault((then, now, name in rekeyed, name == alone), []).append(name)
    return [Class(tuple(found), then, now, key) for (then, now, key, _), found in groups.items()]
