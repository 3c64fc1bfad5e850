"""What people read about the port that their router opens."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from netctl.model.addresses import SocketAddress
from netctl.node.diagnosis.ports import port_mapping, port_mapping_json
from netctl.paths.behaviour import behaviour
from netctl.paths.mapping import Gateway, Mapping
from netctl.paths.portmap import MapState, MapStatus

STUN = SocketAddress("198.51.100.1", 3478)
OUTSIDE = SocketAddress("203.0.113.7", 51820)
HERE = Gateway(IPv4Address("192.168.1.1"), IPv4Address("192.168.1.10"))
OPEN = MapStatus(MapState.MAPPED, HERE, Mapping("PCP", 51820, OUTSIDE, 1200), 600.4)


def say(status: MapStatus, seen: SocketAddress | None = OUTSIDE) -> tuple[str, str]:
    checks = port_mapping(status, behaviour({STUN: seen}, frozenset(), 51820))
    return (checks[0]["level"], checks[0]["text"]) if checks else ("", "")


def test_an_open_port() -> None:
    expected = "your router speaks PCP: port 51820 is open as 203.0.113.7:51820"
    assert say(OPEN) == ("ok", expected)
    assert say(OPEN, None) == ("ok", expected)
    level, text = say(OPEN, SocketAddress("192.0.2.99", 51820))
    assert level == "note"
    assert text == f"{expected}; the internet sees 192.0.2.99: another NAT stands before the router"
    plain = port_mapping_json(OPEN)
    assert plain == {
        "state": "mapped",
        "gateway": "192.168.1.1",
        "protocol": "PCP",
        "external": "203.0.113.7:51820",
        "port": 51820,
        "expires_in_s": 600,
        "refused": {},
    }


def test_no_open_port() -> None:
    assert say(MapStatus(MapState.OFF)) == ("", "")
    assert say(MapStatus(MapState.ASKING, HERE)) == ("note", "your router is being asked to open a port")
    closed = replace(
        OPEN, state=MapState.RESTING, mapping=None, expires_in_s=None, refused=(("PCP", "no answer"),)
    )
    assert say(closed) == ("note", "your router opens no port for this host (PCP: no answer)")
    assert port_mapping_json(closed)["refused"] == {"PCP": "no answer"}
