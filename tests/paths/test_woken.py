"""After suspend a tunnel is opened anew: once, and only when an answer has proven the path."""

from __future__ import annotations

import pytest

from tests.support.pathsim import WAN_DELAY, World

HOME, OFFICE = "203.0.113.1", "192.0.2.1"


def pair(*, relayed: bool = False) -> World:
    world = World()
    world.host("a", "192.168.1.10", world.nat(HOME))
    world.host("b", "10.0.0.10", world.nat(OFFICE))
    if relayed:
        world.cut.add(frozenset((HOME, OFFICE)))
    world.start()
    world.run(40)
    assert {host.changes[-1][1] for host in world.hosts} == {"relay-udp" if relayed else "direct"}
    return world


@pytest.mark.parametrize("relayed", [False, True])
def test_a_tunnel_is_opened_once_its_path_has_answered(relayed: bool) -> None:
    world = pair(relayed=relayed)
    a, b = world.hosts
    woke = world.now
    world.perform(a, a.manager.woke(woke))
    assert a.opened_to == []
    world.run(30)
    assert [key for _, key in a.opened_to] == [b.key]
    assert a.opened_to[0][0] - woke == pytest.approx(
        (2 if relayed else 4) * WAN_DELAY / (1 if relayed else 2)
    )
    assert b.opened_to == []


def test_a_tunnel_is_not_opened_by_a_dead_path_but_by_the_next() -> None:
    """The NAT has forgotten the flow, and the other end is not to be reached directly any more."""
    world = pair()
    a, b = world.hosts
    world.cut.add(frozenset((HOME, OFFICE)))
    woke = world.now
    world.perform(a, a.manager.woke(woke))
    world.run(30)
    assert a.changes[-1][1] == "relay-udp"
    [(opened, key)] = a.opened_to
    assert key == b.key
    left = next(at for at, kind in a.changes if at > woke and kind == "relay-udp")
    assert left - woke < 1.2, "not 2.8 s: nothing has answered there since the wake"
    assert left <= opened < left + 0.2
    assert a.endpoints[b.key].host not in (HOME, OFFICE)


def test_who_is_suspended_again_opens_it_again() -> None:
    world = pair()
    a, b = world.hosts
    for _ in range(3):
        world.perform(a, a.manager.woke(world.now))
        world.run(5)
    assert [key for _, key in a.opened_to] == [b.key] * 3
