"""`status` and `doctor` are projections of a snapshot: no agent, no clock, no file is behind them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from netctl.config import Condition, load_document
from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.node.doctor import examine
from netctl.node.linkstate import LinkState
from netctl.node.ownport import PortState
from netctl.node.sharing import SHARED_NOTE_S, Sharing
from netctl.node.snapshot import Snapshot
from netctl.node.state import NodeState
from netctl.node.status import status_of
from netctl.paths.behaviour import NOT_ASKED, Behaviour
from netctl.paths.effects import PathStatus
from netctl.paths.portjudge import Verdict

ME, OTHER = (WireGuardKey(bytes([number]) * 32) for number in (1, 2))
TEXT = f"""apiVersion: netctl/v1
mediators: []
members:
  me: {{wireguard: "{ME}"}}
  other: {{wireguard: "{OTHER}", endpoints: ["192.0.2.2:51820"]}}
networks:
  net: {{mode: routed, ipv4: 10.1.2.0/24, members: ["*"], addresses: {{me: 10.1.2.1, other: 10.1.2.2}}}}
"""
AT = SocketAddress("192.0.2.2", 51820)
BASE = Snapshot(
    key=ME,
    now_s=1000.0,
    unix_s=5000.0,
    state=NodeState(loaded=load_document(TEXT, "f")),
    link=LinkState("none", 990.0),
    tunnels={OTHER: PeerStatus(AT, 4990.0, 7, 8)},
)


def test_what_the_engine_could_not_handle_is_said() -> None:
    assert status_of(BASE)["engine_faults"] == 0
    status = status_of(replace(BASE, engine_faults=3))
    assert status["engine_faults"] == 3
    assert any("the engine could not handle 3 of what came in" in line for line in status["conditions"])


def test_ages_come_from_the_times_of_the_snapshot() -> None:
    status = status_of(BASE)
    assert status["mediator"]["since_s"] == 10.0
    (peer,) = status["peers"]
    assert (peer["last_handshake_s"], peer["rx_bytes"], peer["endpoint"]) == (10.0, 7, str(AT))
    assert status_of(replace(BASE, link_away_since=997.5))["link_away_s"] == 2.5
    assert status_of(BASE) == status, "it has changed something"


def test_what_was_lost_of_the_disk_and_what_is_refused_is_said() -> None:
    state = replace(BASE.state, conditions=(Condition("networks.net", "not brought up: a route"),))
    status = status_of(replace(BASE, state=state, store=("joined.json is empty",), trouble="paths wait"))
    assert status["conditions"] == [
        "networks.net: not brought up: a route",
        "joined.json is empty",
        "paths wait",
    ]
    assert status["networks"]["net"]["refused"] == "not brought up: a route"
    told = [(one["check"], one["text"]) for one in examine(replace(BASE, state=state))["checks"]]
    assert ("condition", "networks.net: not brought up: a route") in told


def test_a_way_that_carries_too_little_is_a_condition_and_a_check() -> None:
    narrow = replace(BASE, path_mtus={AT: 1280})
    assert any("1280 bytes" in line for line in status_of(narrow)["conditions"])
    assert any(one["check"] == "mtu" for one in examine(narrow)["checks"])
    assert not any(one["check"] == "mtu" for one in examine(replace(BASE, path_mtus={AT: None}))["checks"])


def test_it_is_said_of_a_peer_behind_many_others() -> None:
    keys = [WireGuardKey(bytes([number]) * 32) for number in range(2, 14)]
    text = TEXT
    for number, key in enumerate(keys[1:], 3):
        line = f'  p{number}: {{wireguard: "{key}", endpoints: ["192.0.2.{number}:51820"]}}\nnetworks:'
        text = text.replace("networks:", line, 1).replace("}}", f", p{number}: 10.1.2.{number}}}}}", 1)
    many = replace(
        BASE,
        state=NodeState(loaded=load_document(text, "f")),
        tunnels={
            key: PeerStatus(SocketAddress(f"192.0.2.{number}", 51820), 4990.0, 7, 8)
            for number, key in enumerate(keys, 2)
        },
        paths={keys[-1]: PathStatus("direct", mtu=1280)},
    )
    assert len(status_of(many)["peers"]) == 12
    assert any("p13 carries packets of up to 1280 bytes" in line for line in status_of(many)["conditions"])


def test_a_host_without_a_document_says_only_what_it_knows() -> None:
    status = status_of(replace(BASE, state=NodeState()))
    assert (status["member"], status["peers"], status["document"]) == (None, [], {"digest": None})


@pytest.mark.parametrize(
    ("verdict", "said", "level"),
    [
        ("dead", "nothing that it sends is answered", "problem"),
        ("shared", "another host behind the same router", "note"),
    ],
)
def test_a_port_that_is_not_fit_is_named_and_nothing_is_said_of_the_nat(
    verdict: Verdict, said: str, level: str
) -> None:
    nat = Behaviour("works", "endpoint-independent", False, False, (SocketAddress("203.0.113.7", 61003),))
    snapshot = replace(BASE, port=PortState(51820, verdict), nat=(nat, NOT_ASKED, None))
    checks = examine(snapshot)["checks"]
    (found,) = [check for check in checks if said in check["text"]]
    assert found["level"] == level
    assert not [check for check in checks if "endpoint-independent" in check["text"]]
    assert any(said in line for line in status_of(snapshot)["conditions"]) == (verdict == "dead")


def test_a_mediator_with_another_store_is_a_condition() -> None:
    assert "two has another store than one" not in status_of(BASE)["conditions"]
    there = replace(BASE, other_store="two has another store than one")
    assert "two has another store than one" in status_of(there)["conditions"]


def test_two_hosts_with_one_key_are_said_for_ten_minutes() -> None:
    def said(snapshot: Snapshot) -> str:
        return " ".join(status_of(snapshot)["conditions"])

    shared = replace(BASE, sharing=Sharing("203.0.113.9", BASE.now_s - 5))
    assert "tried to log in from 203.0.113.9 5 s ago, and waits" in said(shared)
    assert any(check["check"] == "key" for check in examine(shared)["checks"])
    assert "another host" not in said(
        replace(shared, sharing=Sharing("203.0.113.9", BASE.now_s - SHARED_NOTE_S))
    )
    waits = replace(
        BASE, link=LinkState("unreachable", 0.0, "another host is connected", final=True, waits=True)
    )
    assert "this host has no tunnels: another host is connected" in said(waits)
