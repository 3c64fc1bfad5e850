"""Evaluates ACLs offline: which members may reach which, the document's own tests, and rules as addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from netctl.config.load.build import ALL, GROUP
from netctl.config.load.loader import Path
from netctl.config.load.report import Report
from netctl.model.addresses import Address, Prefix, host_prefix, parse_prefix
from netctl.model.derive import member_ipv6
from netctl.model.document import AclTest, Document, Network, Rule

AddressesOf = Callable[[str], tuple[Address, ...]]
"""The addresses of a member in one network; empty while it has no lease."""
BOTH_FAMILIES = (4, 6)
ETHERNET = "ethernet"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a flow passes, and the name of the rule that allows it, or the reason without one."""

    allowed: bool
    rule: str


def contains(outer: Prefix, inner: Prefix) -> bool:
    """Whether `inner` lies in `outer`; False for different families."""
    if outer.version != inner.version or outer.prefixlen > inner.prefixlen:
        return False
    shift = outer.max_prefixlen - outer.prefixlen
    return int(inner.network_address) >> shift == int(outer.network_address) >> shift


@dataclass(slots=True)
class Evaluator:
    """Decides flows of one network from its document alone.

    An address that is known only from a lease counts as in a prefix when the whole pool is in the prefix.
    """

    document: Document
    network: Network
    _selectors: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    _prefixes: Mapping[str, Prefix] | None = None

    def decide(self, src: str, dst: str, proto: str, port: int | None = None) -> Verdict:
        """May member `src` open `proto`/`port` to member `dst`? True when it may in either family."""
        return self._decide(src, dst, proto, port, BOTH_FAMILIES)

    def decide_packet(self, src: str, dst: str, proto: str, port: int | None, version: int) -> Verdict:
        """As `decide`, for one family (4 or 6): the packet filter's verdict on the first packet of a flow."""
        return self._decide(src, dst, proto, port, (version,))

    def _decide(self, src: str, dst: str, proto: str, port: int | None, versions: tuple[int, ...]) -> Verdict:
        known = self.network.member_names
        if src not in known or dst not in known:
            return Verdict(False, "not both are members of this network")
        if self.network.acls is None:
            return Verdict(True, "no acls: all reach all")
        for rule in self.network.acls:
            if _covers(rule, proto, port) and self._names(rule, src, dst, versions):
                return Verdict(True, rule.name)
        return Verdict(False, "default deny")

    def decide_behind(self, src: str, address: Address, proto: str, port: int | None = None) -> Verdict:
        """May member `src` open `proto`/`port` to an address behind a gateway? Only prefixes match such an address."""
        if self.network.acls is None:
            return Verdict(True, "no acls: all reach all")
        where = host_prefix(address)
        for rule in self.network.acls:
            named = (self._rule_prefixes()[text] for text in rule.dst if "/" in text)
            if (
                _covers(rule, proto, port)
                and not self.selectors(src, address.version).isdisjoint(rule.src)
                and any(contains(prefix, where) for prefix in named)
            ):
                return Verdict(True, rule.name)
        return Verdict(False, "default deny")

    def ethertypes(self, src: str, dst: str) -> tuple[int, ...] | None:
        """The ethertypes beside IP and ARP that `src` may send to `dst`; None: any (no acls)."""
        if self.network.acls is None:
            return None
        found = {
            kind
            for rule in self.network.acls
            if rule.proto == ETHERNET and self._names(rule, src, dst)
            for kind in rule.ethertypes
        }
        return tuple(sorted(found))

    def _names(self, rule: Rule, src: str, dst: str, versions: tuple[int, ...] = BOTH_FAMILIES) -> bool:
        return any(
            not self.selectors(src, version).isdisjoint(rule.src)
            and not self.selectors(dst, version).isdisjoint(rule.dst)
            for version in versions
        )

    def selectors(self, name: str, version: int) -> frozenset[str]:
        """All selectors of this network's rules that match this member in this family (4 or 6)."""
        found = self._selectors.get((name, version))
        if found is None:
            member = self.document.members[name]
            groups = (GROUP + group for group in member.groups)
            where = self._where(name, version)
            prefixes = (
                text
                for text, prefix in self._rule_prefixes().items()
                if where is not None and contains(prefix, where)
            )
            found = frozenset((ALL, name, *groups, *prefixes))
            self._selectors[name, version] = found
        return found

    def _where(self, name: str, version: int) -> Prefix | None:
        """The address of a member, or its pool while the address is known only from a lease."""
        for address in self.network.addresses.get(name, ()):
            if address.version == version:
                return host_prefix(address)
        key = self.document.members[name].wireguard
        if version == 6 and self.network.ipv6 is not None and key is not None:
            return host_prefix(member_ipv6(self.network.ipv6, key))
        return self.network.ipv4 if version == 4 else None

    def _rule_prefixes(self) -> Mapping[str, Prefix]:
        if self._prefixes is None:
            texts = {
                text for rule in self.network.acls or () for text in (*rule.src, *rule.dst) if "/" in text
            }
            self._prefixes = {text: parse_prefix(text) for text in texts}
        return self._prefixes


def _covers(rule: Rule, proto: str, port: int | None) -> bool:
    if proto == ETHERNET or rule.proto == ETHERNET:  # without `proto`: any IP protocol
        return proto == rule.proto and (port is None or port in rule.ethertypes)
    if rule.proto not in (None, proto):
        return False
    return not rule.ports or (port is not None and any(p.first <= port <= p.last for p in rule.ports))


def decide(
    document: Document, network: Network, src: str, dst: str, proto: str, port: int | None = None
) -> Verdict:
    """May member `src` open `proto`/`port` to member `dst` in this network? For many questions: `Evaluator`."""
    return Evaluator(document, network).decide(src, dst, proto, port)


def check_tests(document: Document, report: Report) -> None:
    """Run the `tests:` of every network; each failure is a finding (NC6xx)."""
    for network in document.networks.values():
        evaluator = Evaluator(document, network)
        for index, test in enumerate(network.tests):
            _check_test(evaluator, test, ("networks", network.name, "tests", index), report)


def _check_test(evaluator: Evaluator, test: AclTest, path: Path, report: Report) -> None:
    members = evaluator.network.member_names
    if test.src not in members:
        report.error("NC601", (*path, "src"), f"'{test.src}' is not a member of this network")
        return
    for key, wanted, targets in (("accept", True, test.accept), ("deny", False, test.deny)):
        for i, target in enumerate(targets):
            dst, _, what = target.partition(":")
            proto, _, port = what.partition("/")
            place: Path = (*path, key, i)
            if dst not in members:
                report.error("NC601", place, f"'{dst}' is not a member of this network")
                continue
            if port and not 0 < int(port) < 65536:
                report.error("NC603", place, f"{port} is not a port; ports are 1-65535")
                continue
            verdict = evaluator.decide(test.src, dst, proto, int(port) if port else None)
            if verdict.allowed is not wanted:
                now = f"allowed by '{verdict.rule}'" if verdict.allowed else f"denied ({verdict.rule})"
                report.error("NC602", place, f"expected {key}: {test.src} to {target} is {now}")


class Selection:
    """Resolves the selectors of one network to addresses; each list of selectors is resolved once and cached."""

    def __init__(self, document: Document, network: Network, addresses_of: AddressesOf) -> None:
        self._addresses_of = addresses_of
        self._by_selector: dict[str, list[str]] = {ALL: list(network.member_names)}
        self._done: dict[tuple[str, ...], frozenset[Prefix]] = {}
        for name in network.member_names:
            self._by_selector.setdefault(name, []).append(name)
            for group in document.members[name].groups:
                self._by_selector.setdefault(GROUP + group, []).append(name)

    def prefixes(self, selectors: tuple[str, ...]) -> frozenset[Prefix]:
        """The addresses of a rule's selectors: members' addresses, and prefixes as they are."""
        found = self._done.get(selectors)
        if found is None:
            found = self._done[selectors] = frozenset(self._resolve(selectors))
        return found

    def _resolve(self, selectors: Iterable[str]) -> set[Prefix]:
        prefixes: set[Prefix] = set()
        for selector in selectors:
            if "/" in selector:
                prefixes.add(parse_prefix(selector))
            for name in self._by_selector.get(selector, ()):
                prefixes.update(host_prefix(address) for address in self._addresses_of(name))
        return prefixes
