"""An endpoint whose packets would come back into the interface is none, whoever says so."""

from __future__ import annotations

import ipaddress

from netctl.model.addresses import SocketAddress
from netctl.tunnel import Device

INSIDE = SocketAddress("10.87.0.7", 51820)
OUTSIDE = SocketAddress("203.0.113.7", 51820)


def device(*, routed: bool = True) -> Device:
    made = Device(bytes(range(32)), lambda count: b"\x01" * count)
    made.comes_back = lambda endpoint: routed
    return made


def test_neither_set_nor_roamed_into_itself() -> None:
    made = device()
    peer = made.add_peer(b"\x05" * 32)
    assert peer is not None
    made.allowed_ips.insert(ipaddress.ip_network("10.87.0.7/32"), peer)
    made.set_endpoint(peer, OUTSIDE, 1.0)
    made.set_endpoint(peer, INSIDE, 1.0)
    assert peer.endpoint == OUTSIDE
    peer.roam(INSIDE)
    assert peer.endpoint == OUTSIDE
    peer.roam(SocketAddress("203.0.113.8", 9))
    assert peer.endpoint == SocketAddress("203.0.113.8", 9)


def test_allowed_ips_that_make_a_loop_end_it() -> None:
    made = device()
    peer = made.add_peer(b"\x05" * 32)
    assert peer is not None
    made.set_endpoint(peer, INSIDE, 1.0)
    assert peer.endpoint == INSIDE
    made.allowed_ips.insert(ipaddress.ip_network("10.87.0.0/24"), peer)
    made.leave_loops(peer)
    assert peer.endpoint is None


def test_a_whole_tunnel_whose_own_packets_are_routed_past_it_keeps_its_endpoint() -> None:
    made = device(routed=False)
    peer = made.add_peer(b"\x05" * 32)
    assert peer is not None
    made.allowed_ips.insert(ipaddress.ip_network("0.0.0.0/0"), peer)
    made.set_endpoint(peer, OUTSIDE, 1.0)
    made.leave_loops(peer)
    assert peer.endpoint == OUTSIDE


def endpoints(made: Device) -> list[SocketAddress | None]:
    return [peer.endpoint for peer in made.peers.values()]


def test_a_route_that_makes_a_loop_puts_the_endpoint_aside_until_it_is_gone() -> None:
    made = device(routed=False)
    peer, other = made.add_peer(b"\x05" * 32), made.add_peer(b"\x06" * 32)
    assert peer is not None
    assert other is not None
    made.allowed_ips.insert(ipaddress.ip_network("203.0.113.0/24"), peer)
    for one in (peer, other):
        made.set_endpoint(one, OUTSIDE, 1.0)
    made.comes_back = lambda endpoint: endpoint == OUTSIDE
    made.changed.clear()
    made.routes_changed(2.0)
    assert (peer.endpoint, other.endpoint, made.changed) == (None, None, {peer, other})
    made.routes_changed(3.0)
    assert peer.endpoint is None
    other.roam(SocketAddress("198.51.100.7", 9))
    made.comes_back = lambda endpoint: False
    made.routes_changed(4.0)
    assert endpoints(made) == [OUTSIDE, SocketAddress("198.51.100.7", 9)], (
        "one was heard from elsewhere meanwhile"
    )


def test_what_was_set_meanwhile_is_not_replaced() -> None:
    made = device(routed=False)
    peer = made.add_peer(b"\x05" * 32)
    assert peer is not None
    made.allowed_ips.insert(ipaddress.ip_network("0.0.0.0/0"), peer)
    made.set_endpoint(peer, OUTSIDE, 1.0)
    made.comes_back = lambda endpoint: endpoint == OUTSIDE
    made.routes_changed(2.0)
    made.set_endpoint(peer, SocketAddress("198.51.100.7", 9), 3.0)
    made.comes_back = lambda endpoint: False
    made.routes_changed(4.0)
    assert peer.endpoint == SocketAddress("198.51.100.7", 9)
