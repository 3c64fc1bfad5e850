"""ACLs offline: who may reach whom, the document's own tests, and rules resolved to addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netctl.config.build import select
from netctl.config.loader import Path
from netctl.config.report import Report
from netctl.model.addresses import Address, Prefix, host_prefix
from netctl.model.document import AclTest, Document, Network, Rule

AddressesOf = Callable[[str], tuple[Address, ...]]
"""The addresses of a member in one network; empty while it has no lease."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a flow passes, and the rule that says so (empty: the default)."""

    allowed: bool
    rule: str


def _names(selectors: tuple[str, ...], network: Network, document: Document) -> set[str]:
    members = {name: document.members[name] for name in network.member_names}
    return set(select(selectors, members))


def decide(
    document: Document, network: Network, src: str, dst: str, proto: str, port: int | None = None
) -> Verdict:
    """May member `src` open `proto`/`port` to member `dst` in this network?"""
    if src not in network.member_names or dst not in network.member_names:
        return Verdict(False, "not both members of this network")
    if network.acls is None:
        return Verdict(True, "no acls: all reach all")
    for rule in network.acls:
        if rule.proto == "ethernet" or rule.proto not in (None, proto):
            continue
        if rule.ports and (port is None or not any(p.first <= port <= p.last for p in rule.ports)):
            continue
        if src in _names(rule.src, network, document) and dst in _names(rule.dst, network, document):
            return Verdict(True, rule.name)
    return Verdict(False, "default deny")


def check_tests(document: Document, report: Report) -> None:
    """Run the `tests:` of every network; each failure is a finding (NC6xx)."""
    for network in document.networks.values():
        for index, test in enumerate(network.tests):
            path: Path = ("networks", network.name, "tests", index)
            _check_test(document, network, test, path, report)


def _check_test(document: Document, network: Network, test: AclTest, path: Path, report: Report) -> None:
    if test.src not in network.member_names:
        report.error("NC601", (*path, "src"), f"'{test.src}' is not a member of this network")
        return
    for key, wanted, targets in (("accept", True, test.accept), ("deny", False, test.deny)):
        for i, target in enumerate(targets):
            dst, _, what = target.partition(":")
            proto, _, port = what.partition("/")
            if dst not in network.member_names:
                report.error("NC601", (*path, key, i), f"'{dst}' is not a member of this network")
                continue
            verdict = decide(document, network, test.src, dst, proto, int(port) if port else None)
            if verdict.allowed is not wanted:
                now = f"allowed by '{verdict.rule}'" if verdict.allowed else f"denied ({verdict.rule})"
                message = f"expected {key}: {test.src} to {target} is {now}"
                report.error("NC602", (*path, key, i), message)


def selector_prefixes(
    selectors: tuple[str, ...], network: Network, document: Document, addresses_of: AddressesOf
) -> frozenset[Prefix]:
    """What the selectors of a rule mean in addresses: members' leases, and prefixes as they stand."""
    prefixes = {ipaddress.ip_network(text) for text in selectors if "/" in text}
    for name in _names(selectors, network, document):
        prefixes.update(host_prefix(address) for address in addresses_of(name))
    return frozenset(prefixes)


def rule_lines(network: Network) -> Mapping[str, Rule]:
    """The rules of a network by their YAML path."""
    return {f"networks.{network.name}.acls[{i}]": rule for i, rule in enumerate(network.acls or ())}
