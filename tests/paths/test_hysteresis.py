"""No flapping: a pair stays where it is unless something is clearly better, and trusts less what fails often."""

import pytest

from netctl.paths import constants as c
from netctl.wire.control import Candidate
from tests.support.pathsim import World

HOME, OFFICE = "203.0.113.1", "192.0.2.1"


def pair(seed: int = 1) -> World:
    world = World(seed)
    world.host("a", "192.168.1.10", world.nat(HOME))
    world.host("b", "10.0.0.10", world.nat(OFFICE))
    return world


def busy(world: World, seconds: float) -> None:
    a, b = world.hosts
    world.stream(a, b, every=0.5, until=world.now + seconds)
    world.stream(b, a, every=0.5, until=world.now + seconds)


@pytest.mark.parametrize("up_s", [5.0, 20.0, 50.0])
def test_a_way_that_comes_and_goes_is_followed_ever_more_rarely(up_s: float) -> None:
    world = pair()
    world.start()
    busy(world, 3600)
    ways = frozenset((HOME, OFFICE))
    tries = []
    for _ in range(3):
        before = [len(host.changes) for host in world.hosts]
        end = world.now + 1200
        while world.now < end:
            world.run(up_s)
            world.cut.add(ways)
            world.run(20)
            world.cut.clear()
        new = (host.changes[n:] for host, n in zip(world.hosts, before, strict=True))
        tries.append(max(sum(kind == "direct" for _, kind in changes) for changes in new))
    # The way came back 17 to 48 times in each 20 minutes; the back-off from 15 s doubles to ten minutes.
    assert tries[0] <= 7, tries
    assert tries[1] <= 3, tries
    assert tries[2] <= 3, tries


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_a_relayed_pair_is_relayed_all_the_time(loss: float) -> None:
    world = pair()
    world.cut.add(frozenset((HOME, OFFICE)))
    world.start()
    world.run(5)
    world.loss = loss
    busy(world, 1800)  # the relay asks for another cookie fifteen times
    world.run(1800)
    for host in world.hosts:
        assert [kind for _, kind in host.changes] == ["relay-udp"], host.changes
        assert len(host.steered) == 1


@pytest.mark.parametrize("seed", range(4))
def test_two_ways_of_one_kind_are_not_changed_for_the_jitter_between_them(seed: int) -> None:
    world = pair(seed)
    world.jitter = 0.35  # the longest round trip is 1.35 of the shortest: SWITCH_GAIN asks for more
    assert c.SWITCH_GAIN < 1 / 1.35
    a, b = world.hosts
    assert a.nat is not None
    world.start()
    a.nat.forwarded[7777] = a.address
    world.perform(a, a.manager.set_mapped(Candidate("mapped", f"{HOME}:7777"), world.now))
    world.run(10)
    assert {host.changes[-1][1] for host in world.hosts} == {"direct"}
    busy(world, 600)
    before = [len(host.steered) for host in world.hosts]
    for _ in range(20):  # each round tries every way anew
        world.perform(a, a.manager.set_local([Candidate("host", str(a.address))] * 1, world.now))
        world.perform(a, a.manager.control_up(world.now))
        for host, other in ((a, b), (b, a)):
            world.perform(host, host.manager.peer_online(other.key, False, world.now))
            world.perform(host, host.manager.peer_online(other.key, True, world.now))
        world.run(30)
    assert [len(host.steered) for host in world.hosts] == before
