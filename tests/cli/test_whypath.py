"""The lines of `netctl why` about a path, from what an agent answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from netctl.cli.whypath import PeerView, say_path
from netctl.wire.agentrequests import DoctorReply, PeerState

NAT = {"udp": "works", "mapping": "endpoint-independent", "ports": "kept"}
DIRECT: dict[str, Any] = {
    "name": "nas",
    "stock": False,
    "online": True,
    "down": False,
    "path": "direct",
    "endpoint": "203.0.113.103:51820",
    "via": None,
    "rtt_ms": 3.52,
    "ping_ms": None,
    "since_s": 360.0,
    "last_handshake_s": 17.0,
    "rx_bytes": 756,
    "hindrance": None,
    "tried": ["192.168.4.10:51820 (on its interface): no answer to 8 probes"],
    "nat": "none: it has a public address",
    "own_nat": NAT,
    "port_mapping": {"external": None},
    "condition": None,
}
RELAYED = {**DIRECT, "path": "relay-udp", "endpoint": "203.0.113.10:40001", "rtt_ms": None}
NONE = {**DIRECT, "path": "none", "endpoint": None, "rtt_ms": None, "since_s": None, "last_handshake_s": None}


def said(peer: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    own = peer["own_nat"]
    state = msgspec.convert({"key": "k", "addresses": {}, "tx_bytes": 0, **peer}, PeerState)
    seen = {
        "checks": [],
        "nat": {"ipv4": own, "ipv6": {"udp": "not asked", "mapping": "unknown"}},
        "allocation": {"kind": own["ports"]} if own["ports"] else None,
        "port_mapping": peer["port_mapping"],
    }
    doctor = msgspec.convert(seen, DoctorReply)
    say_path("laptop", PeerView(state, peer, peer["ping_ms"], doctor, seen, peer["down"]))
    return capsys.readouterr().out.splitlines()


def test_a_direct_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(DIRECT, capsys) == [
        "ok   path: direct at 203.0.113.103:51820, round trip 3.5 ms, for 6 min",
        "     last handshake 17 s ago, 756 B received from nas",
        "     192.168.4.10:51820 (on its interface): no answer to 8 probes",
        "     NAT of laptop: endpoint-independent mapping",
        "     NAT of nas: none: it has a public address",
    ]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"ping_ms": 24.31},
            "ok   path: relay-udp at 203.0.113.10:40001, a ping through it takes 24.3 ms, for 6 min",
        ),
        ({"hindrance": "both NATs are hard"}, "     not direct: both NATs are hard"),
        (
            {"path": "relay-tls", "endpoint": "127.1.2.3:40000", "via": "vps.example.org:8443"},
            "ok   path: relay-tls at vps.example.org:8443, for 6 min",
        ),
        ({"last_handshake_s": None, "rx_bytes": 0}, "     no handshake yet, 0 B received from nas"),
        (
            {"own_nat": {"udp": "blocked", "mapping": "unknown", "ports": None}},
            "     NAT of laptop: unknown: UDP is blocked",
        ),
        (
            {"own_nat": {"udp": "works", "mapping": "none", "ports": "kept"}},
            "     NAT of laptop: none: it has a public address",
        ),
        (
            {"own_nat": {"udp": "works", "mapping": "address and port-dependent", "ports": "random"}},
            "     NAT of laptop: address and port-dependent mapping (symmetric), random ports",
        ),
        (
            {"port_mapping": {"external": "203.0.113.7:51820", "protocol": "PCP"}},
            "     this host's router keeps 203.0.113.7:51820 open for it (PCP)",
        ),
    ],
)
def test_a_relayed_path_says_why(
    changed: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in said({**RELAYED, **changed}, capsys)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"online": False},
            "     nas is not online: is its agent running, and does it reach the mediator?",
        ),
        ({"online": False, "stock": True}, "     nas is not online: is it switched on?"),
        (
            {"online": False, "presence_known": False},
            "     whether nas is online is not known: the mediator has not said it yet",
        ),
        ({"down": True}, "     this host is down: `netctl up` starts it"),
    ],
)
def test_no_path(changed: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said({**NONE, **changed}, capsys)
    assert lines[0] == "FAIL path: none"
    assert line in lines
