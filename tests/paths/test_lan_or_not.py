"""What is called `lan`, and when its round trip says otherwise."""

from __future__ import annotations

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths.candidates import path_kind
from netctl.paths.route import Route


def at(host: str) -> SocketAddress:
    return SocketAddress(host, 51820)


OWN, OWN_OUTSIDE = at("192.168.1.10"), at("203.0.113.1")


@pytest.mark.parametrize(
    ("remote", "outside", "kind"),
    [
        ("192.168.1.20", "203.0.113.1", "lan"),  # one prefix, one outside
        ("192.168.1.20", "203.0.113.2", "lan"),  # one prefix: two ways out of one LAN
        ("192.168.9.20", "203.0.113.1", "lan"),  # another prefix of the same site
        ("192.168.9.20", "203.0.113.2", "direct"),  # a VPN between two routers
        ("10.0.0.20", "203.0.113.2", "direct"),
    ],
)
def test_a_private_range_alone_makes_no_lan(remote: str, outside: str, kind: str) -> None:
    offered = {at(remote): "host", at(outside): "srflx"}
    assert path_kind(at(remote), "host", offered, [OWN], [OWN, OWN_OUTSIDE]) == kind


def _route(host: str, path: str, rtt_ms: float) -> Route:
    route = Route(at(host), "host", "lan" if path == "lan" else "direct")
    route.rtt_s = rtt_ms / 1000
    return route


@pytest.mark.parametrize(
    ("lan_ms", "direct_ms", "far"),
    [
        (0.5, 0.4, False),
        (6.0, 2.0, False),
        (9.0, 4.0, False),
        (9.1, 4.0, True),
        (40.0, 25.0, False),
        (60.0, 25.0, True),
    ],
)
def test_a_lan_goes_first_unless_it_is_far_behind(lan_ms: float, direct_ms: float, far: bool) -> None:
    assert _route("192.168.1.20", "lan", lan_ms).far_behind(_route("203.0.113.2", "direct", direct_ms)) is far
