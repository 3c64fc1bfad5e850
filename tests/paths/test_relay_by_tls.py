"""Where UDP is blocked: the path manager takes TLS, and leaves it, over the deterministic internet of `pathsim`."""

from __future__ import annotations

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths import constants as c
from tests.support.pathsim import MEDIATOR, Host, World

HOME, OFFICE, EAST = "203.0.113.1", "192.0.2.1", "198.51.100.21"


def two(*, blocked: tuple[bool, bool] = (True, False), symmetric: bool = False, seed: int = 1) -> World:
    world = World(seed)
    world.host("a", "192.168.1.10", world.nat(HOME, symmetric=symmetric))
    world.host("b", "10.0.0.10", world.nat(OFFICE, symmetric=symmetric))
    for host, no_udp in zip(world.hosts, blocked, strict=True):
        host.no_udp = no_udp
    return world


def kinds(world: World) -> tuple[str, str]:
    a, b = world.hosts
    return a.manager.status()[b.key].kind, b.manager.status()[a.key].kind


def lost(host: Host) -> int:
    numbers = [number for _, _, number in host.heard]
    return max(numbers) + 1 - len(set(numbers))


@pytest.mark.parametrize(
    ("blocked", "expected"),
    [
        ((True, False), ("relay-tls", "relay-udp")),
        ((False, True), ("relay-udp", "relay-tls")),
        ((True, True), ("relay-tls", "relay-tls")),
    ],
)
def test_a_blocked_member_is_reached_over_tls(blocked: tuple[bool, bool], expected: tuple[str, str]) -> None:
    world = two(blocked=blocked)
    world.start()
    world.run(3)
    assert kinds(world) == expected
    a, b = world.hosts
    world.stream(a, b, every=0.1, until=world.now + 10)
    world.stream(b, a, every=0.1, until=world.now + 10)
    world.run(12)
    assert (lost(a), lost(b)) == (0, 0)
    for host, kind in zip(world.hosts, expected, strict=True):
        assert [what for _, what in host.changes if what != "none"] == [kind], "nothing flaps"
    index = 0 if blocked[0] else 1
    one, other = world.hosts[index], world.hosts[1 - index]
    assert one.endpoints[other.key] == next(iter(one.stand_ins))
    tried = one.manager.status()[other.key].tried
    assert any("UDP is blocked" in line for line in tried), tried
    assert one.manager.udp_blocked


def test_nobody_takes_tls_where_udp_works() -> None:
    world = two(blocked=(False, False), symmetric=True)
    world.start()
    world.run(120)
    assert kinds(world) == ("relay-udp", "relay-udp")
    assert not any(host.tunnel_wanted for host in world.hosts)


def test_udp_is_found_again_within_a_minute_and_nothing_is_lost() -> None:
    world = two(blocked=(True, True), symmetric=True)
    a, b = world.hosts
    world.start()
    world.run(30)
    assert kinds(world) == ("relay-tls", "relay-tls")
    a.no_udp = False
    world.stream(a, b, every=0.05, until=world.now + 75)
    world.stream(b, a, every=0.05, until=world.now + 75)
    world.run(c.UDP_RETRY + 2)
    assert kinds(world) == ("relay-udp", "relay-tls")
    world.run(20)
    assert not a.tunnel_wanted
    assert a.tunnel is None
    assert a.stand_ins == set()
    assert lost(a) == 0
    # Frames that are on their way to the relay when the binding moves: one way of 10 ms at 20 a second.
    assert lost(b) <= 1


def test_a_pair_becomes_direct_when_the_block_is_lifted_and_takes_tls_again_when_it_is_back() -> None:
    world = two()
    a, b = world.hosts
    world.start()
    world.run(20)
    a.no_udp = False
    world.run(c.UDP_RETRY)
    assert kinds(world) == ("direct", "direct")
    world.run(2 * c.RELAY_KEEP)
    assert (a.tunnel, a.stand_ins) == (None, set())
    world.stream(a, b, every=0.1, until=world.now + 20)
    world.stream(b, a, every=0.1, until=world.now + 20)
    world.run(6)
    a.no_udp = True
    began = world.now
    world.run(10)
    assert kinds(world) == ("relay-tls", "relay-udp")
    again = next(at for at, kind in a.changes if kind == "relay-tls" and at > began)
    assert again - began < 5.0


def test_a_lost_connection_is_taken_again() -> None:
    world = two(blocked=(True, True))
    world.start()
    world.run(5)
    world.kill_tunnels()
    assert kinds(world) == ("none", "none")
    world.run(2)
    assert kinds(world) == ("relay-tls", "relay-tls")


def test_a_relay_that_is_not_there_over_tls_either_leaves_udp_being_tried() -> None:
    world = two(symmetric=True)
    world.tls_up = False
    world.start()
    world.run(30)
    assert kinds(world) == ("none", "none")
    assert world.hosts[0].tunnel_wanted
    world.hosts[0].no_udp = False
    world.run(10)
    assert kinds(world) == ("relay-udp", "relay-udp")
    assert not world.hosts[0].tunnel_wanted


def test_a_peer_that_is_gone_leaves_nothing_open() -> None:
    world = two()
    world.start()
    world.run(5)
    a = world.hosts[0]
    assert a.stand_ins
    world.perform(a, a.manager.set_peers([], world.now))
    assert a.stand_ins == set()
    assert not a.tunnel_wanted


def test_messages_over_tls_are_believed_only_on_tls() -> None:
    world = two()
    a, b = world.hosts
    world.start()
    world.run(5)
    server = a.manager._pairs[b.key].relay.beside.server
    assert server == SocketAddress(MEDIATOR, 40001)
    before = kinds(world)
    assert a.manager.handle_frame(40001, b"\xf5nc1\x13" + bytes(44), world.now) == []
    assert a.manager.handle_frame(1, b"\xf5nc1\x13" + bytes(44), world.now) == []
    assert kinds(world) == before


@pytest.mark.parametrize("blocked", [(True, False), (True, True)])
@pytest.mark.parametrize("seed", range(3))
def test_members_without_udp_meet_at_a_relay_apart_when_the_mediators_machine_is_gone(
    blocked: tuple[bool, bool], seed: int
) -> None:
    world = two(blocked=blocked, symmetric=True, seed=seed)
    east = world.relay_apart(EAST)
    a, b = world.hosts
    world.start()
    world.run(30)
    assert kinds(world)[0] == "relay-tls"
    assert not east.table.bindings(), "the mediator's relay is enough"
    world.beside_up = False
    world.lose_mediator()
    world.tls_to = east
    world.kill_tunnels()
    world.run(20)
    assert kinds(world) == ("relay-tls", "relay-tls" if blocked[1] else "relay-udp")
    assert len(east.table.bindings()) == 2
    world.stream(a, b, every=0.1, until=world.now + 10)
    world.stream(b, a, every=0.1, until=world.now + 10)
    began = world.now
    world.run(12)
    for host in (a, b):
        assert len([1 for when, _, _ in host.heard if when > began]) >= 98
    # UDP works again: the pair takes it, at the relay where it is.
    for host in (a, b):
        host.no_udp = False
    world.run(c.UDP_RETRY + 20)
    assert kinds(world) == ("relay-udp", "relay-udp")
    assert not a.tunnel_wanted
    assert a.stand_ins == set()
