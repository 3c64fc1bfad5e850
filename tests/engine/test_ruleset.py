"""The nftables text: order, sets without overlaps, default deny. What it does to packets is in tests/netns."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.engine.ruleset import VXLAN_PORT, render
from netctl.model.document import PortRange
from netctl.model.hoststate import FilterRule, FilterTable, SourceBinding

ONE, TWO = ip_network("10.0.0.0/24"), ip_network("fd00::/64")
LINKS = frozenset({"nctl0", "nseg00000001"})
BINDING = SourceBinding(
    "nseg00000001",
    ip_address("fd00:1::1"),
    "02:00:00:00:00:01",
    frozenset({ip_address("10.0.0.1"), ip_address("fd00::1")}),
    7,
)


def rules(table: FilterTable, chain: str) -> list[dict[str, Any]]:
    """The rules of one chain, in order."""
    added = [command["add"] for command in render(table)["nftables"] if "add" in command]
    return [item["rule"] for item in added if "rule" in item and item["rule"]["chain"] == chain]


def accept(*, proto: str | None = None, ports: tuple[PortRange, ...] = ()) -> list[dict[str, Any]]:
    """The rules that one FilterRule of both families becomes."""
    both = frozenset({ONE, TWO})
    table = FilterTable(LINKS, (FilterRule("mine", both, both, proto, ports),))
    return [rule for rule in rules(table, "guard") if rule.get("comment") == "mine"]


def place(found: list[dict[str, Any]], word: str) -> int:
    """Where the first rule with this word is."""
    return next(number for number, rule in enumerate(found) if word in json.dumps(rule))


def test_segments_are_checked_before_established_flows_pass() -> None:
    for bindings in (frozenset({BINDING}), frozenset[SourceBinding]()):
        guard = rules(FilterTable(LINKS, (), bindings), "guard")
        vxlan, established = place(guard, str(VXLAN_PORT)), place(guard, "established")
        assert vxlan < established
        verdict = guard[vxlan]["expr"][-1]
        assert verdict == ({"goto": {"target": "segments"}} if bindings else {"drop": None})


def test_everything_that_no_rule_names_is_dropped_last() -> None:
    guard = rules(FilterTable(LINKS, (FilterRule("any", frozenset({ONE}), frozenset({ONE})),)), "guard")
    assert guard[-1]["expr"][-1] == {"drop": None}
    for hook in ("input", "forward"):
        (jump,) = rules(FilterTable(LINKS, ()), hook)
        assert jump["expr"][0]["match"]["right"] == {"set": sorted(LINKS)}
        assert jump["expr"][-1] == {"jump": {"target": "guard"}}


def test_an_unknown_sender_in_a_segment_is_dropped() -> None:
    segments = rules(FilterTable(LINKS, (), frozenset({BINDING})), "segments")
    assert segments[0]["expr"][-1] == {"goto": {"target": "member0"}}
    assert segments[-1]["expr"] == [{"drop": None}]
    member = rules(FilterTable(LINKS, (), frozenset({BINDING})), "member0")
    assert member[-1]["expr"] == [{"accept": None}]
    assert all(rule["expr"][-1] == {"drop": None} for rule in member[:-1])


def test_the_old_table_goes_in_the_same_transaction() -> None:
    commands = render(FilterTable(LINKS, ()))["nftables"]
    assert [next(iter(command)) for command in commands[:3]] == ["add", "delete", "add"]


def test_one_rule_becomes_one_for_each_family() -> None:
    assert len(accept()) == 2
    icmp = [rule["expr"][2]["match"]["right"] for rule in accept(proto="icmp")]
    assert icmp == ["icmp", "ipv6-icmp"]
    mixed = FilterRule("mixed", frozenset({ONE}), frozenset({TWO}))
    guard = rules(FilterTable(LINKS, (mixed,)), "guard")
    assert not [rule for rule in guard if rule.get("comment") == "mixed"], "no packet is of both families"


def test_masquerade_is_for_the_way_from_the_pool_to_the_lan() -> None:
    lan = ip_network("192.168.50.0/24")
    (nat,) = rules(FilterTable(LINKS, (), masquerade=frozenset({(ONE, lan)})), "postrouting")
    assert "10.0.0.0" in json.dumps(nat["expr"][0])
    assert "192.168.50.0" in json.dumps(nat["expr"][1])
    assert nat["expr"][2] == {"masquerade": None}


def intervals(items: Any) -> list[tuple[int, int]]:
    """The members of a set (or the one value it is) as first and last."""
    found = []
    for item in items["set"] if isinstance(items, dict) and "set" in items else [items]:
        if isinstance(item, dict) and "prefix" in item:
            network = ip_network(f"{item['prefix']['addr']}/{item['prefix']['len']}")
            found.append((int(network[0]), int(network[-1])))
        elif isinstance(item, dict):
            found.append((item["range"][0], item["range"][1]))
        else:
            value = item if isinstance(item, int) else int(ip_address(item))
            found.append((value, value))
    return found


PREFIXES = st.builds(
    lambda address, length: ip_network((address, length), strict=False),
    st.integers(0x0A000000, 0x0A0000FF),
    st.integers(22, 32),
)
RANGES = st.builds(lambda a, b: PortRange(min(a, b), max(a, b)), st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(st.frozensets(PREFIXES, min_size=1, max_size=8), st.lists(RANGES, min_size=1, max_size=6))
def test_sets_have_no_overlaps_and_lose_nothing(prefixes: frozenset[Any], ports: list[PortRange]) -> None:
    rule = FilterRule("mine", prefixes, frozenset({ONE}), "tcp", tuple(ports))
    guard = rules(FilterTable(LINKS, (rule,)), "guard")
    (found,) = [rule for rule in guard if rule.get("comment") == "mine"]
    sources = sorted(intervals(found["expr"][0]["match"]["right"]))
    shown_ports = sorted(intervals(found["expr"][2]["match"]["right"]))
    for ranges in (sources, shown_ports):
        assert all(before[1] < after[0] for before, after in pairwise(ranges)), "nft refuses overlaps"
    covered = {port for first, last in shown_ports for port in range(first, last + 1)}
    assert covered == {port for item in ports for port in range(item.first, item.last + 1)}
    wanted = {address for prefix in prefixes for address in range(int(prefix[0]), int(prefix[-1]) + 1)}
    assert {address for first, last in sources for address in range(first, last + 1)} == wanted
