"""The host's own firewall, read and walked: rulesets as ufw, firewalld and dockerd left them, and whatever JSON holds.

`rulesets/` has what `nft -j list ruleset` and `iptables-save` said (nftables 1.0.6, iptables 1.8.9): of ufw 0.36.2 with
`ufw allow 22/tcp`; of firewalld 1.3.3 with lan0 in its zone public; of firewalld 2.3.1 (nftables 1.1.3; the chains that
filter) with lan0 in public and nctl0 in trusted; of the rules of Docker 24 with a published port; and of a plain
ruleset with sets, maps and limits.
"""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.engine.hostfirewall import iptables, nftjson
from netctl.engine.hostfirewall.opener import Opener
from netctl.engine.hostfirewall.reading import HostFilter
from netctl.model.hoststate import Opening
from netctl.model.packetfilter import Packet, PacketFilter
from netctl.node.firewall.obstacles import blocked
from netctl.node.firewall.openings import stands
from netctl.node.firewall.questions import Question
from netctl.node.firewall.walk import judge

HERE = Path(__file__).with_name("rulesets")
ENDS = {4: ("10.8.0.1/32", "10.8.0.2/32"), 6: ("fd00:8::1/128", "fd00:8::2/128")}


def ruleset(name: str) -> PacketFilter:
    """As `reading` puts it together."""
    saved = {}
    for family, file in (("ip", f"{name}.save"), ("ip6", f"{name}6.save")):
        if (HERE / file).exists():
            found = iptables.tables((HERE / file).read_text(), family)
            saved.update({(family, table.name): table for table in found})
    listed = nftjson.tables(json.loads((HERE / f"{name}.json").read_text()))
    return PacketFilter(
        tuple(
            iptables.named(table, other) if (other := saved.get((table.family, table.name))) else table
            for table in listed
        )
    )


def inbound(what: str, version: int = 4, *, iif: str = "nctl0", source: str = "") -> Packet:
    proto, _, port = what.partition("/")
    start, end = ENDS[version]
    return Packet("input", iif, ip_network(source or start), ip_network(end), proto, int(port or 0))


def through(iif: str, oif: str, *, answers: bool = False) -> Packet:
    start, end = (ip_network(text) for text in ENDS[4])
    return Packet("forward", iif, start, end, "tcp", 80, oif, "established" if answers else "new")


@pytest.mark.parametrize(
    ("name", "packet", "kind", "at"),
    [
        ("ufw", inbound("tcp/22"), "passes", ""),
        ("ufw", inbound("tcp/22", 6), "passes", ""),
        ("ufw", inbound("tcp/80"), "dropped", "policy drop, chain INPUT of table ip filter"),
        ("ufw", inbound("udp/53", 6), "dropped", "policy drop, chain INPUT of table ip6 filter"),
        ("ufw", inbound("tcp/445"), "dropped", "-A ufw-skip-to-policy-input -j DROP"),
        ("ufw", inbound("icmp"), "passes", ""),
        ("ufw", inbound("icmp", 6), "passes", ""),
        ("ufw", through("nctl0", "lan0"), "dropped", "policy drop, chain FORWARD of table ip filter"),
        ("ufw", through("lan0", "nctl0", answers=True), "passes", ""),
        ("firewalld", inbound("tcp/22"), "passes", ""),
        ("firewalld", inbound("tcp/80"), "dropped", "reject, chain filter_IN_public of table inet firewalld"),
        ("firewalld", inbound("icmp", 6), "passes", ""),
        ("firewalld", through("nctl0", "eth0"), "dropped", "reject, chain filter_FWD_public"),
        ("firewalld", through("nctl0", "lan0"), "passes", ""),
        ("docker", inbound("tcp/80"), "passes", ""),
        ("docker", through("nctl0", "lan0"), "dropped", "policy drop, chain FORWARD of table ip filter"),
        ("docker", through("lan0", "nctl0", answers=True), "dropped", "policy drop, chain FORWARD"),
        ("docker", through("docker0", "nctl0"), "passes", ""),
        ("plain", inbound("tcp/22"), "passes", ""),
        ("plain", inbound("tcp/80"), "passes", ""),
        ("plain", inbound("tcp/80", iif="eth0"), "dropped", "policy drop, chain input of table inet filter"),
        ("plain", inbound("tcp/9093"), "dropped", "drop, chain input of table inet filter handle 14"),
        ("plain", inbound("udp/5050"), "passes", ""),
        ("plain", inbound("udp/123", 6), "passes", ""),
        ("plain", inbound("tcp/4000", source="192.0.2.7/32"), "passes", ""),
        ("plain", inbound("icmp", 6), "passes", ""),
        ("plain", through("nctl0", "eth0"), "dropped", "reject, chain forward of table inet filter"),
        ("plain", through("nctl0", "lan0"), "passes", ""),
        # A limit, a count and half of a prefix: some pass, some do not.
        ("plain", inbound("icmp"), "unknown", "accept"),
        ("plain", inbound("tcp/8443"), "unknown", ""),
        ("plain", inbound("tcp/4000", source="192.0.0.0/16"), "unknown", ""),
    ],
)
def test_what_a_packet_meets(name: str, packet: Packet, kind: str, at: str) -> None:
    found = judge(ruleset(name), packet)
    assert found.kind == kind, found
    if kind == "dropped":
        assert at in str(found.at)


def test_rules_of_iptables_that_nft_cannot_name_are_not_guessed() -> None:
    listed = tuple(nftjson.tables(json.loads((HERE / "ufw.json").read_text())))
    assert judge(PacketFilter(listed), inbound("tcp/80")).kind == "unknown"
    assert judge(PacketFilter(listed), through("nctl0", "lan0")).kind == "unknown"


def test_handles_of_nft_stay_with_the_rules_of_iptables() -> None:
    table = next(one for one in ruleset("docker").tables if (one.family, one.name) == ("ip", "filter"))
    assert [rule.handle > 0 for rule in table.chains["FORWARD"].rules] == [True] * 6
    assert table.chains["DOCKER-USER"].rules[0].text == "-A DOCKER-USER -j RETURN"


@pytest.mark.parametrize(
    ("name", "packet", "says", "commands"),
    [
        ("ufw", inbound("tcp/80"), "your ufw drops tcp/80 on nctl0", ("ufw allow in on nctl0",)),
        (
            "ufw",
            through("nctl0", "lan0"),
            "your ufw drops tcp/80 from nctl0 to lan0",
            ("ufw route allow in on nctl0 out on lan0",),
        ),
        (
            "firewalld",
            inbound("tcp/80"),
            "your firewalld drops tcp/80 on nctl0",
            (
                "firewall-cmd --zone=trusted --add-interface=nctl0 && "
                "firewall-cmd --permanent --zone=trusted --add-interface=nctl0",
            ),
        ),
        (
            "docker",
            through("nctl0", "lan0"),
            "Docker's FORWARD chain drops tcp/80 from nctl0 to lan0",
            ("iptables -I DOCKER-USER -i nctl0 -o lan0 -j ACCEPT",),
        ),
        (
            "plain",
            through("nctl0", "eth0"),
            "this host's nftables drops tcp/80 from nctl0 to eth0",
            ('nft insert rule inet filter forward iifname "nctl0" oifname "eth0" accept',),
        ),
    ],
)
def test_the_line_and_the_command(name: str, packet: Packet, says: str, commands: tuple[str, ...]) -> None:
    (one,) = blocked(ruleset(name), [Question(packet, "tcp/80")])
    assert one.text.startswith(says)
    assert one.commands == commands


@pytest.mark.parametrize("packet", [inbound("tcp/80"), through("nctl0", "eth0")], ids=lambda one: one.hook)
def test_what_firewalld_2_lets_through_by_our_opening_is_known_as_ours(packet: Packet) -> None:
    """Else the opening would not be wanted any more as soon as it stands, and go and come with every plan."""
    found, opening = ruleset("firewalld2"), Opening("firewalld", "input", "nctl0")
    assert judge(found, packet).kind == "passes"
    assert stands(opening, found)
    assert opening in [
        one for case in blocked(found, [Question(packet, "")], [opening]) for one in case.openings
    ]
    assert blocked(found, [Question(packet, "")], [Opening("firewalld", "input", "nctl9")]) == ()


def rule(*expressions: Any, chain: str = "input") -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "t", "chain": chain, "handle": 7, "expr": list(expressions)}}


def table(*rules: Any, policy: str = "accept", chains: tuple[str, ...] = ()) -> PacketFilter:
    base: dict[str, Any] = {"name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": policy}
    listed: list[dict[str, Any]] = [{"table": {"family": "inet", "name": "t"}}]
    listed += [
        {"chain": {"family": "inet", "table": "t", **one}} for one in (base, *({"name": n} for n in chains))
    ]
    return PacketFilter(tuple(nftjson.tables({"nftables": [*listed, *rules]})))


NEVER_SEEN = {"osf": {"key": "name"}}
TCP = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}}
DROP, ACCEPT = {"drop": None}, {"accept": None}


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (table(rule(DROP)), "dropped"),
        (table(rule(NEVER_SEEN, DROP)), "unknown"),
        (table(rule(NEVER_SEEN, DROP), policy="drop"), "unknown"),
        (table(rule(TCP, NEVER_SEEN), rule(DROP)), "unknown"),
        # What comes after it ends it whatever it does.
        (table(rule({"limit": {"rate": 1}}, {"log": None}), rule(DROP)), "dropped"),
        (table(rule({"limit": {"rate": 1}}, DROP), rule(DROP)), "dropped"),
        (table(rule({"limit": {"rate": 1}}, ACCEPT), rule(DROP)), "unknown"),
        (table(rule({"limit": {"rate": 1}}, {"return": None}), rule(DROP)), "unknown"),
        (table(rule({"limit": {"rate": 1}}, {"return": None}), rule(DROP), policy="drop"), "dropped"),
        (table(rule({"jump": {"target": "nowhere"}}), rule(DROP)), "unknown"),
        (
            table(rule({"jump": {"target": "a"}}), rule({"jump": {"target": "a"}}, chain="a"), chains=("a",)),
            "unknown",
        ),
        (table(rule({"goto": {"target": "a"}}), rule(DROP), chains=("a",)), "passes"),
        (table(rule({"jump": {"target": "a"}}), rule(DROP), chains=("a",)), "dropped"),
        (table(rule({"vmap": {"key": NEVER_SEEN, "data": {"set": [["x", DROP]]}}})), "unknown"),
        (table(rule({"queue": None})), "unknown"),
        (table(rule({"xt": None}), rule(DROP)), "unknown"),
        (table(rule({"mangle": {"key": {"meta": {"key": "mark"}}, "value": 7}}), rule(DROP)), "dropped"),
        (
            table(rule({"mangle": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "value": 7}})),
            "unknown",
        ),
    ],
)
def test_nothing_is_claimed_of_what_is_not_understood(found: PacketFilter, kind: str) -> None:
    assert judge(found, inbound("tcp/80")).kind == kind


def test_a_dormant_table_drops_nothing_and_another_chain_cannot_save_a_packet() -> None:
    listed = json.loads((HERE / "plain.json").read_text())["nftables"]
    first = {"table": {**listed[0]["table"], "flags": ["dormant"]}}
    assert not list(nftjson.tables({"nftables": [first, *listed[1:]]}))
    saving = {
        "chain": {
            "family": "inet",
            "table": "filter",
            "name": "early",
            "type": "filter",
            "hook": "input",
            "prio": -9,
        }
    }
    accept = {"rule": {"family": "inet", "table": "filter", "chain": "early", "handle": 99, "expr": [ACCEPT]}}
    found = PacketFilter(tuple(nftjson.tables({"nftables": [*listed, saving, accept]})))
    assert judge(found, inbound("tcp/4000")).kind == "dropped"


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=6)
words = st.sampled_from(
    [
        "match",
        "op",
        "==",
        "left",
        "right",
        "meta",
        "key",
        "iifname",
        "ct",
        "state",
        "payload",
        "protocol",
        "tcp",
        "dport",
        "set",
        "elem",
        "prefix",
        "range",
        "vmap",
        "data",
        "jump",
        "target",
        "goto",
        "accept",
        "drop",
        "&",
        "|",
        "fib",
    ]
)
anything = st.recursive(
    scalars | words,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(anything, max_size=4),
    st.lists(
        st.dictionaries(st.sampled_from(["rule", "chain", "set", "table"]), anything, max_size=2), max_size=4
    ),
)
def test_whatever_json_holds_nothing_breaks(expressions: list[Any], objects: list[Any]) -> None:
    found = table(rule(*expressions), rule(ACCEPT), *objects, policy="drop", chains=("set", "iifname"))
    for packet in (inbound("tcp/80"), inbound("icmp", 6)):
        assert judge(found, packet).kind in ("passes", "dropped", "unknown")
    list(nftjson.tables(expressions))


@settings(max_examples=100, deadline=None)
@given(anything, st.sampled_from(["match", "", "osf", "synproxy", "tproxy", "fwd", "xt", "Ω"]), st.booleans())
def test_an_expression_of_no_known_form_is_no_reason_for_a_claim(value: Any, kind: str, drops: bool) -> None:
    """Whatever such a rule holds, the packet may be dropped by it and may be not."""
    if kind == "match":
        value = {"op": "==", "left": {"osf": {"key": value}}, "right": "x"}
    if kind == "xt":
        value = {"type": "match", "name": "never-seen", "more": value}
    odd = rule({kind: value}, DROP if drops else ACCEPT)
    found = table(odd, policy="accept" if drops else "drop")
    assert judge(found, inbound("tcp/80")).kind == "unknown"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="-AIjgmpsd! \"'ACEPT0123/:.*\n", max_size=40), max_size=6))
def test_whatever_iptables_save_holds_nothing_breaks(lines: list[str]) -> None:
    text = "*filter\n:INPUT DROP [0:0]\n" + "\n".join(f"-A INPUT {line}" for line in lines) + "\nCOMMIT\n"
    for saved in iptables.legacy(text, "ip"):
        judge(PacketFilter((saved,)), inbound("tcp/80"))


@pytest.mark.parametrize(
    "rest", ["-m never --seen 5 -j ACCEPT", "-m set --match-set x src -j ACCEPT", "-j NFQUEUE"]
)
def test_options_of_iptables_that_are_not_known_are_no_reason_for_a_claim(rest: str) -> None:
    text = f"*filter\n:INPUT DROP [0:0]\n-A INPUT {rest}\nCOMMIT\n"
    (saved,) = iptables.legacy(text, "ip")
    assert judge(PacketFilter((saved,)), inbound("tcp/80")).kind == "unknown"


def test_what_a_firewall_refuses_holds_nothing_up_and_is_known_after_a_crash(tmp_path: Path) -> None:
    note, found = tmp_path / "openings.json", HostFilter()
    opener = Opener(note, found)
    nowhere = Opening("nft", "input", "nctl0", place="inet nosuchtable input")
    opener.open(nowhere)
    assert opener.read() == {nowhere}, "no change could bring it: it counts as there"
    (trouble,) = opener.troubles()
    assert trouble.startswith("the firewall cannot be opened: nft refused a rule in inet nosuchtable input")
    opener.retry()
    assert opener.troubles() == (trouble,)
    # Another life, as after a crash between the note and the rule.
    again = Opener(note, found)
    assert again.read() == {replace(nowhere, stands=False)}
    again.close(nowhere)
    assert again.recorded() == frozenset()
    assert not note.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"manager": "ufw"}]', '{"a": 1}'])
def test_a_note_that_is_none_is_no_opening(text: str, tmp_path: Path) -> None:
    (tmp_path / "openings.json").write_text(text)
    assert Opener(tmp_path / "openings.json", HostFilter()).read() == frozenset()


def test_a_name_that_would_be_words_of_a_rule_is_refused(tmp_path: Path) -> None:
    opener = Opener(tmp_path / "openings.json", HostFilter())
    opener.open(Opening("nft", "input", 'x" drop; add', place="inet mine input"))
    assert "is no name" in opener.troubles()[0]
