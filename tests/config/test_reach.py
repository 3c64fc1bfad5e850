"""What changes for people between two documents: in words, and held against the evaluator pair by pair."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import yaml
from hypothesis import given, settings

from netctl.config import load_document, reach_changes, reach_lines, reach_to_json
from netctl.config.load.acl import Evaluator
from netctl.config.reach.flows import Flows, flows_of
from netctl.config.reach.reachchanges import MAX_ROWS, ReachChange
from netctl.config.reach.reachtext import SHOWN_LINES
from netctl.model.document import Document, Member, Mode, Network, PortRange, Rule
from netctl.model.keys import WireGuardKey
from tests.support.documents import key, trees

OFFICE = """
apiVersion: netctl/v1
mediators: [{url: "netctl://m.example.net:8443", identity: ["ed25519:%s"]}]
members:
  laptop: {wireguard: "%s", identity: "ed25519:%s", groups: [admins]}
  desktop: {wireguard: "%s", identity: "ed25519:%s", groups: [staff]}
  nas: {wireguard: "%s", identity: "ed25519:%s", groups: [servers]}
  branch: {wireguard: "%s", identity: "ed25519:%s", routes: [192.168.50.0/24]}
networks:
  office:
    mode: routed
    ipv4: 10.77.0.0/16
    members: ["*"]
    acls:
      - {name: ssh, src: ["group:admins"], dst: ["group:servers"], proto: tcp, ports: [22]}
      - {name: db, src: ["group:staff"], dst: [nas], proto: tcp, ports: [5432]}
      - {name: ping, src: ["*"], dst: ["*"], proto: icmp}
"""
for name in ("m", *(f"{kind} {name}" for name in "abcd" for kind in ("w", "i"))):
    OFFICE = OFFICE.replace("%s", key(name), 1)


def document(text: str = OFFICE) -> Document:
    return load_document(text).document


def edited(*changes: tuple[str, str]) -> Document:
    text = OFFICE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return document(text)


def said(after: Document, before: Document | None = None, **more: Any) -> list[str]:
    return reach_lines(reach_changes(before or document(), after, **more))


def test_nothing_changes_for_nobody() -> None:
    changes = reach_changes(document(), document(OFFICE + "# a comment\n"))
    assert not changes
    assert reach_lines(changes) == []


def test_a_rule_under_another_name_changes_nothing() -> None:
    assert said(edited(("name: ssh", "name: shell"))) == []


def test_a_rule_that_goes() -> None:
    gone = edited(('      - {name: db, src: ["group:staff"], dst: [nas], proto: tcp, ports: [5432]}\n', ""))
    assert said(gone) == ["- desktop loses nas:tcp/5432 in office"]
    assert said(document(), gone) == ["+ desktop gains nas:tcp/5432 in office"]


def test_ports_that_narrow_and_widen() -> None:
    assert said(edited(("ports: [5432]", 'ports: ["5433-5440", 22]'))) == [
        "- desktop loses nas:tcp/5432 and gains nas:tcp/22, nas:tcp/5433-5440 in office"
    ]


def test_default_deny_comes() -> None:
    start = OFFICE.index("    acls:")
    assert said(document(), document(OFFICE[:start])) == [
        "- laptop, desktop and nas can no longer reach 192.168.50.0/24 behind branch at all, "
        "nor 192.168.50.0/24 behind branch them",
        "- desktop loses everything but icmp, tcp/5432 to nas in office",
        "- laptop loses everything but icmp, tcp/22 to nas in office",
        "- laptop and desktop lose everything but icmp to laptop, desktop and branch in office",
        "- nas and branch lose everything but icmp to laptop, desktop, nas and branch in office",
    ]


def test_a_member_that_goes_and_a_network_that_goes() -> None:
    gone = edited(("  nas: {", "  nas: {state: absent, "), ("dst: [nas]", "dst: [branch]"))
    lines = said(gone)
    assert lines == [
        "- nas leaves the document for good",
        "- tunnels of nas with laptop, desktop and branch drop: no network joins them any more",
        "- laptop, desktop and branch can no longer reach nas at all, nor nas them",
        "+ desktop gains branch:tcp/5432 in office",
    ]
    assert said(gone, about="laptop") == [
        "- the tunnel between laptop and nas drops: no network joins them any more",
        "- laptop can no longer reach nas at all, nor nas it",
    ]


def test_another_key_drops_tunnels_and_moves_addresses_and_no_reach() -> None:
    after = edited((key("w c"), key("new")))
    lines = said(after)
    assert lines[0] == "~ nas has another key"
    assert "~ nas in office gets a new lease" in lines
    assert lines[-1] == "- tunnels of nas with laptop, desktop and branch drop: another key"


def test_a_renamed_member_is_the_same_member() -> None:
    lines = said(edited(("  laptop: {", "  notebook: {")))
    assert lines == ["~ laptop is called notebook now"]


def test_a_pool_that_moves() -> None:
    lines = said(edited(("10.77.0.0/16", "10.78.0.0/16")))
    assert lines == [
        f"~ {name} in office gets a new lease" for name in ("laptop", "desktop", "nas", "branch")
    ]


def test_a_fixed_address_that_moves() -> None:
    fixed = ("    members: [", "    addresses: {nas: 10.77.0.%s}\n    members: [")
    one, other = (edited((fixed[0], fixed[1] % last)) for last in ("5", "6"))
    assert said(other, one) == ["~ nas in office moves from 10.77.0.5 to 10.77.0.6"]


def test_a_hub_takes_tunnels_and_no_reach() -> None:
    lines = said(edited(("mode: routed", "mode: routed\n    topology: {hub: nas}")))
    assert lines == [
        "- tunnels of laptop, desktop and branch with each other drop: no network joins them any more"
    ]


def test_a_lan_behind_a_member_is_reached_too() -> None:
    rule = '      - {name: site, src: [laptop], dst: ["192.168.50.0/24"], proto: tcp, ports: [80]}\n'
    lines = said(document(OFFICE + rule))
    assert lines == ["+ laptop can now reach 192.168.50.0/24 behind branch in office: tcp/80"]


def test_the_json_is_plain_and_says_the_same() -> None:
    gone = edited(("ports: [5432]", "ports: [5433]"))
    published = json.loads(json.dumps(reach_to_json(reach_changes(document(), gone))))
    assert published["reach"] == [
        {
            "network": "office",
            "src": {"names": ["desktop"], "count": 1},
            "dst": {"names": ["nas"], "count": 1},
            "gained": ["tcp/5433"],
            "lost": ["tcp/5432"],
            "at_all": "",
        }
    ]
    assert published["complete"] is True


PROBES = [("tcp", 22), ("tcp", 53), ("tcp", 85), ("tcp", 4000), ("udp", 53), ("udp", 2000), ("icmp", None)]


def told(rows: tuple[ReachChange, ...], side: str) -> set[tuple[str, str]]:
    """Ordered pairs of members that the rows say gain (or lose) something."""
    return {
        pair
        for row in rows
        if getattr(row, side)
        for pair in itertools.product(row.src.names, row.dst.names)
        if pair[0] != pair[1] and "behind" not in "".join(pair)
    }


@settings(max_examples=60, deadline=None)
@given(trees(), trees())
def test_it_agrees_with_the_evaluator_about_every_pair(one: dict[str, Any], other: dict[str, Any]) -> None:
    before, after = (load_document(yaml.safe_dump(tree)).document for tree in (one, other))
    changes = reach_changes(before, after)
    gained, lost = told(changes.reach, "gained"), told(changes.reach, "lost")
    for name in before.networks:
        was, now = Evaluator(before, before.networks[name]), Evaluator(after, after.networks[name])
        for src, dst in itertools.permutations(before.members, 2):
            for proto, port in PROBES:
                had, has = (side.decide(src, dst, proto, port).allowed for side in (was, now))
                assert not (had and not has) or (src, dst) in lost
                assert not (has and not had) or (src, dst) in gained
    about = reach_changes(before, after, about="nas")
    assert told(about.reach, "lost") == {pair for pair in lost if "nas" in pair}
    assert told(about.reach, "gained") == {pair for pair in gained if "nas" in pair}


def test_a_set_of_flows_less_another() -> None:
    wide = flows_of([Rule("a", ("*",), ("*",), "tcp", (PortRange(1, 100), PortRange(101, 200)))])
    hole = flows_of([Rule("b", ("*",), ("*",), "tcp", (PortRange(50, 60), PortRange(200, 300)))])
    assert wide.minus(hole).plain() == ["tcp/1-49", "tcp/61-199"]
    assert hole.minus(wide).plain() == ["tcp/201-300"]
    assert Flows(everything=True).minus(wide).plain() == ["everything but tcp/1-200"]
    ipx = flows_of([Rule("c", ("*",), ("*",), "ethernet", ethertypes=(0x8137,))])
    assert ipx.minus(Flows()).plain() == ["ethernet/0x8137"]


def large(count: int, rules: int) -> Document:
    """So many members under twenty groups, and rules between the groups."""
    members = {
        f"m{n}": Member(f"m{n}", WireGuardKey(n.to_bytes(32, "big")), groups=frozenset({f"g{n % 20}"}))
        for n in range(count)
    }
    acls = tuple(
        Rule(f"r{n}", (f"group:g{n % 20}",), (f"group:g{n // 20 % 20}",), "tcp", (PortRange(n + 1, n + 1),))
        for n in range(rules)
    )
    acls = (*acls, Rule("ping", ("*",), ("*",), "icmp"))
    network = Network(
        "net", "ab" * 8, Mode.ROUTED, IPv4Network("10.0.0.0/8"), None, ("*",), tuple(members), acls=acls
    )
    return Document(members, {"net": network})


def test_ten_thousand_members_are_a_screen_and_a_second() -> None:
    before = large(10_000, 400)
    network = before.networks["net"]
    assert network.acls is not None
    after = replace(before, networks={"net": replace(network, acls=network.acls[200:])})
    started = time.process_time()
    changes = reach_changes(before, after)
    assert time.process_time() - started < 2.0
    assert changes.complete
    assert len(changes.reach) == 200
    assert all(row.src.count == 500 for row in changes.reach)
    assert len(reach_lines(changes)) == SHOWN_LINES + 1


def test_what_is_too_varied_to_compare_is_said() -> None:
    before = large(1500, 0)
    network = before.networks["net"]
    rules = tuple(Rule(f"r{n}", (f"m{n}",), (f"m{(n + 1) % 1500}",), "icmp") for n in range(1500))
    changes = reach_changes(before, replace(before, networks={"net": replace(network, acls=rules)}))
    assert not changes.complete
    assert len(changes.reach) == MAX_ROWS
    assert changes.left_out["reach"] > 0
    assert "too many to compare" in reach_lines(changes)[-1]
