"""What a host's firewall is asked about: as the document says it, and no more."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from netctl.config import load_document
from netctl.model.foreign import Foreign, ForeignRoute
from netctl.model.keys import WireGuardKey
from netctl.model.packetfilter import Chain, Match, PacketFilter, Rule, Table
from netctl.node.evaluate import evaluate
from netctl.node.firewall.obstacles import obstacles
from netctl.node.firewall.questions import FIRST_UNNAMED, MAX_QUESTIONS, link_to, questions, unnamed_port

ME, OTHER = (WireGuardKey(bytes([number]) * 32) for number in (1, 2))
ROUTES = Foreign(
    routes=tuple(
        ForeignRoute(ip_network(prefix), "", link=link)
        for prefix, link in (("0.0.0.0/0", "wan"), ("192.168.7.0/24", "lan0"), ("192.168.0.0/16", "far"))
    )
)


def asked(member: str = "", network: str = "", mode: str = "routed") -> list[str]:
    text = f"""apiVersion: netctl/v1
mediators: []
members:
  me: {{wireguard: "{ME}"{member}}}
  other: {{wireguard: "{OTHER}", endpoints: ["192.0.2.2:51820"]}}
networks:
  net:
    mode: {mode}
    ipv4: 10.1.2.0/24
    ipv6: none
    members: ["*"]
    addresses: {{me: 10.1.2.1, other: 10.1.2.2}}
{network}"""
    loaded = load_document(text, "f")
    found = evaluate(loaded.document, None, {}, ROUTES, frozenset(), {}, key=ME)
    lines = []
    for one in questions(found.desired, loaded.document, "me", ROUTES):
        packet = one.packet
        way = f"{packet.iif}>{packet.oif}" if packet.oif else packet.iif
        lines.append(f"{way} {packet.source} {packet.destination} {one.what} {packet.state}")
    return lines


SSH = '    acls: [{name: ssh, src: [other], dst: [me], proto: tcp, ports: ["22-24", 80]}]\n'
INTO_LAN = '    acls: [{name: web, src: [other], dst: ["192.168.7.9/32"], proto: tcp, ports: [80]}]\n'
FROM_LAN = '    acls: [{name: web, src: ["192.168.7.0/24"], dst: [other], proto: tcp, ports: [80]}]\n'
GATE = ", routes: [192.168.7.0/24]"


@pytest.mark.parametrize(
    ("member", "network", "expected"),
    [
        (
            "",
            SSH,
            ["nctl0 10.1.2.2/32 10.1.2.1/32 tcp/22-24 new", "nctl0 10.1.2.2/32 10.1.2.1/32 tcp/80 new"],
        ),
        ("", "    acls: []\n", []),
        ("", "", [f"nctl0 10.1.2.0/24 10.1.2.1/32 {what} new" for what in ("tcp", "udp", "icmp")]),
        (
            GATE,
            INTO_LAN,
            [
                "nctl0>lan0 10.1.2.2/32 192.168.7.9/32 tcp/80 new",
                "lan0>nctl0 192.168.7.9/32 10.1.2.2/32 answers established",
            ],
        ),
        (GATE, FROM_LAN, ["lan0>nctl0 192.168.7.0/24 10.1.2.0/24 tcp/80 new"]),
        (GATE, f"    masquerade: true\n{FROM_LAN}", []),
        (
            ', endpoints: ["192.0.2.1:51820"]',
            "    acls: []\n",
            ["wan 0.0.0.0/0 0.0.0.0/0 udp/51820 new"],
        ),
        (
            "",
            "    topology: {hub: me}\n    acls: [{src: [other], dst: [10.1.2.0/24], proto: tcp, ports: [22]}]\n",
            [
                "nctl0 10.1.2.2/32 10.1.2.1/32 tcp/22 new",
                "nctl0>nctl0 10.1.2.2/32 10.1.2.0/24 tcp/22 new",
            ],
        ),
    ],
)
def test_what_is_asked(member: str, network: str, expected: list[str]) -> None:
    assert asked(member, network) == expected


def test_of_a_segment_broadcast_is_asked_too() -> None:
    rule = '    acls: [{name: game, src: [other], dst: ["*"], proto: udp, ports: [7777]}]\n'
    segment, unicast = sorted(asked(network=rule, mode="lan"), key=lambda line: line.startswith("nctl0"))
    assert unicast == "nctl0 10.1.2.2/32 10.1.2.1/32 udp/7777 new"
    assert segment.startswith("nseg")
    assert segment.endswith(" 10.1.2.2/32 10.1.2.255/32 udp/7777 broadcast new")


def test_a_document_of_thousands_of_rules_is_not_asked_about_without_end() -> None:
    rules = "".join(
        f"      - {{name: r{n}, src: [other], dst: [me], proto: tcp, ports: [{n}]}}\n" for n in range(1, 400)
    )
    assert len(asked(network=f"    acls:\n{rules}")) == MAX_QUESTIONS


def test_the_narrowest_route_leads_to_a_lan_and_a_port_stands_for_those_that_no_rule_names() -> None:
    assert link_to(ip_network("192.168.7.9/32"), ROUTES) == "lan0"
    assert link_to(ip_network("192.168.8.0/24"), ROUTES) == "far"
    assert link_to(ip_network("fd00::/64"), ROUTES) == ""
    named = Rule((Match("dport", ((FIRST_UNNAMED, FIRST_UNNAMED), (20_000, 30_000))),), "accept")
    found = PacketFilter((Table("inet", "t", {"c": Chain("c", (named,))}),))
    assert unnamed_port(found) == FIRST_UNNAMED + 1
    everything = Rule(
        (Match("dport", tuple((port, port) for port in range(FIRST_UNNAMED, 65536))),), "accept"
    )
    assert 0 < unnamed_port(PacketFilter((Table("inet", "t", {"c": Chain("c", (everything,))}),))) < 65536


def test_a_host_without_a_firewall_is_asked_nothing() -> None:
    loaded = load_document(
        f'apiVersion: netctl/v1\nmembers: {{me: {{wireguard: "{ME}"}}}}\nnetworks: {{}}\n', "f"
    )
    found = evaluate(loaded.document, None, {}, Foreign(), frozenset(), {}, key=ME)
    assert questions(found.desired, loaded.document, "me", ROUTES) == ()
    assert obstacles(found.desired, loaded.document, "me", Foreign()) == ()
