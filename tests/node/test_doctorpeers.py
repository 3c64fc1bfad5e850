"""What the doctor says about peers."""

from __future__ import annotations

from typing import Any

from netctl.node.diagnosis.peers import checks


def state(*peers: tuple[str, bool, str], mediator: str = "connected", down: bool = False) -> dict[str, Any]:
    return {
        "member": "laptop",
        "mediator": {"state": mediator},
        "down": {"everything": down},
        "peers": [{"name": name, "online": online, "path": path} for name, online, path in peers],
    }


def said(state: dict[str, Any]) -> list[tuple[str, str]]:
    return [(check["level"], check["text"]) for check in checks(state)]


def test_a_peer_that_is_switched_off_is_no_problem_of_this_host() -> None:
    assert said(state(("nas", True, "direct"), ("tv", False, "none"))) == [
        ("ok", "paths to peers: 1 direct"),
        ("note", "not online: tv"),
    ]


def test_a_peer_that_is_there_and_not_reached_is_one_and_named() -> None:
    found = checks(state(("nas", True, "relay-udp"), ("tv", True, "none"), ("pi", True, "relay-udp")))
    assert [check["level"] for check in found] == ["ok", "problem"]
    assert found[0]["text"] == "paths to peers: 2 relay-udp"
    assert found[1]["text"] == "online and without a path: tv"
    assert found[1]["advice"] == "`netctl why laptop tv` says what was tried"


def test_without_a_mediator_in_reach_who_is_online_is_old_news() -> None:
    assert said(state(("nas", False, "direct"), mediator="connecting")) == [
        ("ok", "paths to peers: 1 direct"),
        ("note", "not online when the mediator was last heard: nas"),
    ]


def test_a_peer_whose_presence_nobody_has_asked_for_is_not_said_to_be_away() -> None:
    unknown = state(("nas", False, "idle"))
    unknown["peers"][0]["presence_known"] = False
    assert said(unknown) == [("ok", "idle, opens with the first packet: 1 peer")]


def test_many_are_counted() -> None:
    away = [(f"m{number}", False, "none") for number in range(10)]
    assert said(state(*away)) == [("note", "not online: m0, m1, m2, m3, m4, m5, m6, m7 and 2 more")]


def test_a_host_that_is_down_says_so_and_nothing_else() -> None:
    assert said(state(("nas", True, "none"), down=True)) == [("note", "this host is down: it has no tunnels")]
    assert said(state()) == []


def test_a_direct_way_that_carries_no_data_is_named() -> None:
    one = state(("nas", True, "relay-udp"))
    one["peers"][0]["distrust"] = (
        "203.0.113.7:51820: answers probes, but WireGuard's packets do not arrive by it"
    )
    assert said(one)[1] == ("note", f"nas is relayed: {one['peers'][0]['distrust']}")


def test_idle_peers_are_no_problem() -> None:
    assert said(state(("nas", True, "idle"), ("tv", True, "idle"), ("pi", True, "direct"))) == [
        ("ok", "paths to peers: 1 direct"),
        ("ok", "idle, opens with the first packet: 2 peers"),
    ]
