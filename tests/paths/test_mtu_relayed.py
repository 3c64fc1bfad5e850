"""How large packets may be is tried out over the relay too, over UDP and over TLS."""

from __future__ import annotations

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths.constants import MTU_CONFIRM, MTU_RAISE, MTU_RELAYED_AFTER
from netctl.wire.datagram import DatagramKind, classify
from netctl.wire.probe import PROBE_LEN
from tests.support.pathsim import World

HOME, OFFICE = "203.0.113.1", "192.0.2.1"
TUNNEL = 1420
OUTSIDE = 28
"""IPv4 and UDP."""


class Narrow(World):
    """What goes to or from one public address may be no larger than `hop` bytes; more vanishes."""

    def __init__(self) -> None:
        super().__init__()
        self.hop = 1500
        self.narrow_at = OFFICE
        self.relayed: list[tuple[SocketAddress, bytes]] = []
        """The probes that the relay was sent, or sent on, over UDP, and where to."""
        self.relay_is_old = False

    def _internet(self, source: SocketAddress, destination: SocketAddress, data: bytes) -> None:
        if classify(data) is DatagramKind.RELAYED_PROBE:
            self.relayed.append((destination, data))
            if self.relay_is_old:
                return
        passes = self.narrow_at not in (source.host, destination.host) or len(data) + OUTSIDE <= self.hop
        if passes:
            super()._internet(source, destination, data)


def pair(hop: int = 1500, *, blocked: tuple[bool, bool] = (False, False), old: bool = False) -> Narrow:
    """Two whom only the relay connects; those who are `blocked` have no UDP."""
    world = Narrow()
    world.hop, world.relay_is_old = hop, old
    for name, address, public, no_udp in (
        ("a", "192.168.1.10", HOME, blocked[0]),
        ("b", "10.0.0.10", OFFICE, blocked[1]),
    ):
        host = world.host(name, address, world.nat(public, symmetric=True))
        host.manager.allow_guessing(False)
        host.no_udp = no_udp
        world.perform(host, host.manager.set_mtu(TUNNEL, world.now))
    world.start()
    world.run(6 + MTU_RELAYED_AFTER)
    return world


def limits(world: World) -> tuple[int | None, int | None]:
    a, b = world.hosts
    return a.limits.get(b.key), b.limits.get(a.key)


def kinds(world: World) -> list[str]:
    a, b = world.hosts
    return [a.manager.status()[b.key].kind, b.manager.status()[a.key].kind]


def both_ways(world: World, seconds: float) -> None:
    a, b = world.hosts
    for one, other in ((a, b), (b, a)):
        world.stream(one, other, every=0.5, until=world.now + seconds)


@pytest.mark.parametrize(("hop", "fits"), [(1400, 1328), (1300, 1232), (1480, None), (1500, None)])
def test_both_ends_learn_what_the_relay_carries(hop: int, fits: int | None) -> None:
    """Whichever leg is narrow: it is the end behind it, and the one that sends to it."""
    world = pair(hop)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    assert limits(world) == (fits, fits)
    a, b = world.hosts
    assert a.manager.status()[b.key].mtu == fits


@pytest.mark.parametrize(
    ("blocked", "expected", "fits"),
    [
        ((True, False), ["relay-tls", "relay-udp"], 1328),
        ((False, True), ["relay-udp", "relay-tls"], None),
        ((True, True), ["relay-tls", "relay-tls"], None),
    ],
)
def test_over_tls_only_the_other_ends_datagrams_are_narrow(
    blocked: tuple[bool, bool], expected: list[str], fits: int | None
) -> None:
    """The narrow leg is that of `b`; a stream of TLS takes any size."""
    world = pair(1400, blocked=blocked)
    assert kinds(world) == expected
    assert limits(world) == (fits, fits)


def test_the_full_size_costs_two_pings_and_an_idle_pair_no_more() -> None:
    world = pair()
    assert kinds(world) == ["relay-udp", "relay-udp"]
    # Each end sends a small one and a full one, is answered, and the relay sends all of it on.
    assert sorted(len(data) for _, data in world.relayed) == [PROBE_LEN] * 12 + [TUNNEL + 32] * 4
    world.run(900)
    assert len(world.relayed) == 16


def test_a_pair_that_is_direct_at_once_asks_the_relay_nothing() -> None:
    world = Narrow()
    for name, address, public in (("a", "192.168.1.10", HOME), ("b", "10.0.0.10", OFFICE)):
        host = world.host(name, address, world.nat(public))
        world.perform(host, host.manager.set_mtu(TUNNEL, world.now))
    world.start()
    world.run(30)
    assert kinds(world) == ["direct", "direct"]
    assert not world.relayed


def test_a_leg_that_becomes_narrow_is_noticed_while_packets_flow_and_wide_again() -> None:
    world = pair()
    both_ways(world, 1000)
    world.run(5)
    world.hop = 1400
    world.run(MTU_CONFIRM + 5)
    assert limits(world) == (1328, 1328)
    world.hop = 1500
    world.run(MTU_RAISE + 5)
    assert limits(world) == (None, None)


def test_a_peer_that_takes_tls_is_no_longer_narrow() -> None:
    """Its packets need not fit any more, and the other end hears that its way is another, at rest too."""
    world = pair(1400)
    assert limits(world) == (1328, 1328)
    _, b = world.hosts
    b.no_udp = True
    both_ways(world, 10)
    world.run(60)
    assert kinds(world) == ["relay-udp", "relay-tls"]
    assert limits(world) == (None, None)


def test_a_stall_is_a_reason_to_ask_at_once() -> None:
    """An upload of full packets that vanish: packets go out, and nothing comes back."""
    world = pair()
    a, b = world.hosts
    world.hop = 1400
    world.stream(a, b, every=0.5, until=world.now + 20)
    world.run(12)
    assert limits(world)[0] == 1328


def test_a_relay_of_an_older_release_limits_nothing_and_is_asked_three_times() -> None:
    world = pair(1400, old=True)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    assert limits(world) == (None, None)
    assert len(world.relayed) == 6
    world.run(900)
    assert len(world.relayed) == 6


def test_a_direct_path_replaces_what_was_found_over_the_relay() -> None:
    world = pair(1400)
    a, b = world.hosts
    assert limits(world) == (1328, 1328)
    for host, public in ((a, HOME), (b, "192.0.2.77")):
        host.nat = world.nat(public)
        world.perform(host, host.manager.ways_changed(world.now))
    world.run(10)
    assert kinds(world) == ["direct", "direct"]
    assert limits(world) == (None, None)


def test_no_path_is_chosen_by_what_the_relay_carries() -> None:
    """A ping by the relay is a ping of the peer: its answer must not make the relay's address a direct path."""
    world = pair(1400)
    both_ways(world, 120)
    world.run(120)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    for host, other in (world.hosts, reversed(world.hosts)):
        assert not any("198.51.100.1" in line for line in host.manager.status()[other.key].tried)


def test_a_copied_relayed_ping_is_not_answered_twice() -> None:
    world = pair()
    a, b = world.hosts
    relay = b.endpoints[a.key]
    copies = [data for destination, data in world.relayed if destination.host == OFFICE]
    assert copies
    for data in copies:
        assert b.manager.handle_datagram(data, relay, world.now) == []


def test_a_stranger_at_the_relays_address_gets_silence() -> None:
    world = pair()
    a, b = world.hosts
    relay = b.endpoints[a.key]
    assert b.manager.handle_datagram(b"\xf5nc1\x02" + bytes(80), relay, world.now) == []
    assert b.manager.handle_frame(relay.port, b"\xf5nc1\x02" + bytes(80), world.now) == []
