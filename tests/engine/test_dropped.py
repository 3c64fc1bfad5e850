"""What the filter dropped, in words: every reason that a rule of ours gives has a meaning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from netctl.engine.filter.dropped import MEANINGS, counted
from netctl.engine.filter.ruleset import render
from netctl.engine.filter.ruleset_acl import COUNTER
from netctl.model.hoststate import FilterRule, FilterTable
from tests.engine.test_ruleset import BINDING, GUARDS, LINKS, ONE

DOCUMENT = Path(__file__).parents[2] / "docs" / "acls.md"


def rule(comment: str, packets: int, verdict: str) -> dict[str, object]:
    counter = {"counter": {"packets": packets, "bytes": 9}}
    return {"rule": {"comment": comment, "expr": [counter, {verdict: None}]}}


def test_packets_are_summed_by_reason() -> None:
    listing = [
        {"metainfo": {}},
        {"table": {"name": "netctl"}},
        rule("flood", 3, "drop"),
        rule("flood", 4, "drop"),
        rule("forged MAC", 0, "drop"),
        rule("an ACL", 7, "accept"),
        {"rule": {"expr": [{"drop": None}]}},
    ]
    assert counted(json.dumps({"nftables": listing})) == {"flood": 7}


def test_every_reason_has_a_meaning_and_stands_in_the_documentation() -> None:
    everything = FilterTable(
        LINKS,
        (FilterRule("any", frozenset({ONE}), frozenset({ONE})),),
        frozenset({replace(BINDING, ethertypes=(0x88A4,))}),
        stock=frozenset({ONE}),
        guards=GUARDS,
    )
    added = [command["add"] for command in render(everything)["nftables"] if "add" in command]
    rules = [entry["rule"] for entry in added if "rule" in entry]
    dropping = [rule for rule in rules if {"drop": None} in rule["expr"] and COUNTER in rule["expr"]]
    assert {rule["comment"] for rule in dropping} == set(MEANINGS)
    text = DOCUMENT.read_text()
    assert [reason for reason in MEANINGS if f"`{reason}`" not in text] == []
