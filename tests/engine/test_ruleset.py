"""The nftables text: order, sets without overlaps, default deny. What it does to packets is in tests/netns."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.engine.filter.conntrack import Flow, narrowing
from netctl.engine.filter.nftables import plain_table, table_of
from netctl.engine.filter.ruleset import render
from netctl.engine.filter.ruleset_acl import COUNTER, IP_PROTOCOLS, boxes
from netctl.model.document import PortRange
from netctl.model.hoststate import VXLAN_PORT, FilterRule, FilterTable, Guards, SourceBinding
from netctl.plan.diff import same_filter

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


def sets(table: FilterTable) -> list[dict[str, Any]]:
    """The sets of a table."""
    added = [command["add"] for command in render(table)["nftables"] if "add" in command]
    return [item["set"] for item in added if "set" in item]


def lookups(table: FilterTable, *packet: int | str) -> bool:
    """Does a set of this table have this packet: source, destination, protocol, port?"""
    packet = tuple(IP_PROTOCOLS.get(str(part), part) for part in packet)
    for found in sets(table):
        for element in found["elem"]:
            parts = element["concat"]
            if all(covers(part, value) for part, value in zip(parts, packet, strict=False)):
                return True
    return False


def covers(part: Any, value: int | str) -> bool:
    """Is the value in this part of an element?"""
    if isinstance(part, dict):
        first, last = (x if isinstance(x, int) else int(ip_address(x)) for x in part["range"])
        return isinstance(value, int) and first <= value <= last
    if isinstance(value, str):
        return bool(part == value)
    return bool((part if isinstance(part, int) else int(ip_address(part))) == value)


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
        jump = rules(FilterTable(LINKS, ()), hook)[0]
        assert jump["expr"][0]["match"]["right"] == {"set": sorted(LINKS)}
        assert jump["expr"][-1] == {"jump": {"target": "guard"}}


def test_an_unknown_sender_in_a_segment_is_dropped_and_counted() -> None:
    table = FilterTable(LINKS, (), frozenset({BINDING}))
    find, drop = rules(table, "segments")
    assert find["expr"][-1] == {"vmap": {"key": find["expr"][-1]["vmap"]["key"], "data": "@members"}}
    assert drop["expr"] == [COUNTER, {"drop": None}]
    member = rules(table, "member0s0")
    assert member[-1]["expr"] == [{"accept": None}]
    assert all(rule["expr"][-2:] == [COUNTER, {"drop": None}] for rule in member[:-1])
    assert {"forged MAC", "forged IPv4", "forged ARP", "forged IPv6", "forged ND"} <= {
        rule.get("comment") for rule in member
    }


def test_members_are_found_through_one_map_whatever_their_number() -> None:
    many = frozenset(
        SourceBinding("nseg00000001", ip_address(f"fd00:1::{i:x}"), "02:00:00:00:00:01", frozenset(), 7)
        for i in range(1, 200)
    )
    table = FilterTable(LINKS, (), many)
    assert len(rules(table, "segments")) == 2
    maps = [command["add"]["map"] for command in render(table)["nftables"] if "map" in command.get("add", {})]
    assert [len(found["elem"]) for found in maps] == [199]


def test_ethertypes_that_no_rule_names_are_dropped() -> None:
    only = FilterTable(LINKS, (), frozenset({replace(BINDING, ethertypes=(0x8137,))}))
    (found,) = [rule for rule in rules(only, "member0s0") if rule.get("comment") == "ethertype"]
    allowed = [e["match"]["right"] for e in found["expr"] if "match" in e]
    assert allowed == ["0x0800", "0x0806", "0x8137", "0x86dd"]
    every = rules(FilterTable(LINKS, (), frozenset({BINDING})), "member0s0")
    assert "ethertype" not in {rule.get("comment") for rule in every}


def test_the_old_table_goes_in_the_same_transaction() -> None:
    commands = render(FilterTable(LINKS, ()))["nftables"]
    assert [next(iter(command)) for command in commands[:3]] == ["add", "delete", "add"]


def test_both_families_and_none_mixed() -> None:
    both = frozenset({ONE, TWO})
    table = FilterTable(LINKS, (FilterRule("mine", both, both, "icmp"),))
    assert sorted(part for found in sets(table) for e in found["elem"] for part in e["concat"][2:]) == [
        IP_PROTOCOLS["icmp"],
        IP_PROTOCOLS["ipv6-icmp"],
    ]
    mixed = FilterRule("mixed", frozenset({ONE}), frozenset({TWO}))
    assert not sets(FilterTable(LINKS, (mixed,))), "no packet is of both families"


def test_the_number_of_rules_asked_does_not_grow_with_the_rules() -> None:
    def of(count: int) -> FilterTable:
        ports = [PortRange(port, port) for port in range(1, count + 1)]
        return FilterTable(
            LINKS,
            tuple(FilterRule(f"{p}", frozenset({ONE}), frozenset({ONE}), "tcp", (p,)) for p in ports[::2]),
        )

    assert len(rules(of(10), "guard")) == len(rules(of(4000), "guard"))


def test_masquerade_is_for_the_way_from_the_pool_to_the_lan() -> None:
    lan = ip_network("192.168.50.0/24")
    (nat,) = rules(FilterTable(LINKS, (), masquerade=frozenset({(ONE, lan)})), "postrouting")
    assert "10.0.0.0" in json.dumps(nat["expr"][0])
    assert "192.168.50.0" in json.dumps(nat["expr"][1])
    assert nat["expr"][2] == {"masquerade": None}


PREFIXES = st.builds(
    lambda address, length: ip_network((address, length), strict=False),
    st.integers(0x0A000000, 0x0A0000FF),
    st.integers(22, 32),
)
RANGES = st.builds(lambda a, b: PortRange(min(a, b), max(a, b)), st.integers(1, 40), st.integers(1, 40))


RULES = st.lists(
    st.builds(
        lambda sources, destinations, ports: FilterRule("r", sources, destinations, "tcp", tuple(ports)),
        st.frozensets(PREFIXES, min_size=1, max_size=5),
        st.frozensets(PREFIXES, min_size=1, max_size=3),
        st.lists(RANGES, max_size=3),
    ),
    min_size=1,
    max_size=5,
)
PACKETS = st.lists(
    st.tuples(st.integers(0x0A000000, 0x0A0000FF), st.integers(0x0A000000, 0x0A0000FF), st.integers(1, 42)),
    min_size=20,
    max_size=20,
)


@settings(max_examples=60, deadline=None)
@given(RULES, PACKETS)
def test_rules_are_what_their_boxes_are(named: list[FilterRule], packets: list[tuple[int, int, int]]) -> None:
    reach = boxes(named, 4)
    for source, destination, port in packets:
        del source
        wanted = any(
            any(int(p[0]) <= destination <= int(p[-1]) for p in rule.destinations)
            and (not rule.ports or any(p.first <= port <= p.last for p in rule.ports))
            for rule in named
        )
        found = [
            box
            for box in reach
            if box[0][0] <= destination <= box[0][1] and (box[2] is None or box[2][0] <= port <= box[2][1])
        ]
        assert bool(found) == wanted
        assert len(found) <= 1, "nft refuses overlaps"


def test_a_rule_is_found_in_its_set() -> None:
    rule = FilterRule("mine", frozenset({ONE}), frozenset({ONE}), "tcp", (PortRange(20, 25),))
    table = FilterTable(LINKS, (rule,))
    inside, outside = int(ONE[9]), int(ONE[-1]) + 1
    assert lookups(table, inside, inside, "tcp", 22)
    assert not lookups(table, inside, inside, "tcp", 26)
    assert not lookups(table, outside, inside, "tcp", 22)
    assert not lookups(table, inside, inside, "udp", 22)


def test_a_narrower_table_ends_what_only_the_old_one_let_through() -> None:
    ssh = FilterRule("ssh", frozenset({ONE}), frozenset({ONE}), "tcp", (PortRange(22, 22),))
    web = FilterRule("web", frozenset({ONE}), frozenset({ONE}), "tcp", (PortRange(80, 80),))
    before, after = FilterTable(LINKS, (ssh, web)), FilterTable(LINKS, (web,))
    ended = narrowing(before, after)
    assert ended is not None
    assert ended(Flow(ONE[1], ONE[2], "tcp", 22))
    assert not ended(Flow(ONE[1], ONE[2], "tcp", 80))
    assert not ended(Flow(ONE[1], ONE[2], "tcp", 23)), "not of a rule of ours: none of our business"
    assert narrowing(after, before) is None, "nothing is taken away"


GUARDS = Guards(
    sources=frozenset({ONE, TWO}),
    destinations=frozenset({ip_network("10.0.0.1/32"), ip_network("fd00::1/128")}),
    leases=frozenset({ip_address("10.0.0.1"), ip_address("fd00::1")}),
    lans=frozenset({ip_network("192.168.50.0/24")}),
    remote=frozenset({ONE, TWO, ip_network("192.168.60.0/24")}),
    vnis=frozenset({7, 9}),
    listen_port=51820,
)


def hook(table: FilterTable, chain: str) -> dict[str, Any]:
    """How a chain hangs in the kernel."""
    added = [command["add"] for command in render(table)["nftables"] if "add" in command]
    return next(item["chain"] for item in added if item.get("chain", {}).get("name") == chain)


def test_arrivals_are_looked_at_behind_defragmentation_and_before_conntrack_and_nat() -> None:
    found = hook(FilterTable(LINKS, (), guards=GUARDS), "arrivals")
    assert (found["hook"], found["type"]) == ("prerouting", "filter")
    assert -400 < found["prio"] < -200
    found = hook(FilterTable(LINKS, (), guards=GUARDS), "departures")
    assert found["hook"] == "postrouting"
    assert found["prio"] > 100, "behind source NAT"


def test_guards_are_sets_whatever_there_is_of_pools_and_addresses() -> None:
    many = replace(
        GUARDS,
        sources=frozenset(ip_network(f"10.{number}.0.0/24") for number in range(200)),
        vnis=frozenset(range(1, 200)),
    )
    for chain in ("arrivals", "departures"):
        few, more = (rules(FilterTable(LINKS, (), guards=g), chain) for g in (GUARDS, many))
        assert 0 < len(more) <= len(few)


def test_segments_are_guarded_against_lo_and_other_segments_too() -> None:
    """The rule stands before those that let lo and our links through; without segments there is none."""
    found = rules(FilterTable(LINKS, (), guards=GUARDS), "arrivals")
    assert found[0]["comment"] == "segment from elsewhere"
    assert found[0]["expr"][0]["match"] == {
        "op": "!=",
        "left": {"meta": {"key": "iifname"}},
        "right": "nctl0",
    }
    assert found[1]["expr"][-1] == {"accept": None}
    without = rules(FilterTable(LINKS, (), guards=replace(GUARDS, vnis=frozenset())), "arrivals")
    assert "segment from elsewhere" not in {rule.get("comment") for rule in without}


def test_the_tunnels_port_is_shut_before_anything_is_let_through() -> None:
    table = FilterTable(LINKS, (), guards=GUARDS)
    for chain, side in (("input", "dport"), ("output", "sport")):
        first = rules(table, chain)[0]
        assert first["comment"] == "tunnel in a tunnel"
        assert first["expr"][1]["match"]["left"]["payload"]["field"] == side
    assert not any(rule.get("comment") for rule in rules(FilterTable(LINKS, ()), "input"))


def test_guards_survive_being_written_down() -> None:
    table = FilterTable(LINKS, (), guards=GUARDS)
    assert table_of(json.loads(json.dumps(plain_table(table)))) == table
    assert not same_filter(table, FilterTable(LINKS, ()))
