"""Hard NATs over the deterministic internet: windows that are guessed, birthdays, early packets that clash."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths import constants as c
from netctl.paths.guess import TRANSITIONS, GuessState
from tests.support.pathsim import STUN, UNIX_EPOCH, World

HOME, OFFICE = "203.0.113.1", "192.0.2.1"


def counting(first: int, step: int) -> Callable[[], int]:
    numbers = itertools.count(first, step)
    return lambda: next(numbers)


def within(first: int, last: int, seed: int) -> Callable[[], int]:
    chance = random.Random(seed)
    return lambda: chance.randint(first, last)


def hard_and_easy(
    ports: Callable[[], int], *, seed: int = 1, loss: float = 0.0, swapped: bool = False
) -> World:
    world = World(seed, loss=loss)
    nats = [world.nat(HOME, ports=ports), world.nat(OFFICE)]
    if swapped:
        nats.reverse()
    world.host("a", "192.168.1.10", nats[0])
    world.host("b", "10.0.0.10", nats[1])
    return world


def kinds(world: World) -> list[str]:
    a, b = world.hosts
    return [a.manager.status()[b.key].kind, b.manager.status()[a.key].kind]


def carries(world: World) -> bool:
    """Data both ways arrives, and WireGuard roams nowhere: it comes from where it is sent to."""
    a, b = world.hosts
    before = a.endpoints[b.key], b.endpoints[a.key], len(a.heard), len(b.heard)
    world.data(a, b, 7)
    world.data(b, a, 7)
    world.run(0.2)
    return before == (a.endpoints[b.key], b.endpoints[a.key], len(a.heard) - 1, len(b.heard) - 1)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("step", [1, 2, -1, 8])
def test_a_nat_that_counts_is_direct_within_two_seconds(step: int, swapped: bool) -> None:
    world = hard_and_easy(counting(30000, step), swapped=swapped)
    world.start()
    world.run(3)
    assert kinds(world) == ["direct", "direct"]
    assert carries(world)
    assert all(not host.rewrites and not host.batches for host in world.hosts)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_small_block_is_direct_within_a_few_seconds(seed: int, swapped: bool) -> None:
    world = hard_and_easy(within(40000, 40127, seed), seed=seed, swapped=swapped)
    world.start()
    world.run(6)
    assert kinds(world) == ["direct", "direct"]
    assert carries(world)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_block_that_shows_two_servers_one_port_by_chance(swapped: bool) -> None:
    """In a block of 128 ports it does so to one host in 128, for as long as the mappings live."""
    world = hard_and_easy(within(40000, 40127, 1), swapped=swapped)
    behind = world.hosts[swapped]
    for server in STUN:
        behind.nat.take(behind.address, server, 40055)
    world.start()
    world.run(6)
    assert kinds(world) == ["direct", "direct"]
    assert carries(world)
    assert behind.manager.nat(world.now)[0].mapping == "address and port-dependent"


@pytest.mark.parametrize("seed", range(20))
def test_a_counting_nat_with_neighbours_and_loss(seed: int) -> None:
    """Others behind it take ports all the time; every twentieth packet is lost."""
    chance, number = random.Random(seed), 30000

    def busy() -> int:
        nonlocal number
        number += chance.choice([1, 1, 1, 1, 2, 3])
        return number

    world = hard_and_easy(busy, seed=seed, loss=0.05)
    world.start()
    world.run(45)
    assert kinds(world) == ["direct", "direct"]


def test_birthdays_make_nearly_every_random_nat_direct() -> None:
    direct, seeds = 0, range(24)
    for seed in seeds:
        world = hard_and_easy(within(1024, 65535, seed), seed=seed, swapped=bool(seed % 2))
        world.start()
        world.run(20)
        hard = next(host for host in world.hosts if host.nat is not None and host.nat.symmetric)
        if kinds(world) == ["direct", "direct"]:
            direct += 1
            assert len(hard.rewrites) == 1
            assert carries(world)
        else:
            assert kinds(world) == ["relay-udp", "relay-udp"]
            assert not hard.rewrites
        assert all(not host.batches for host in world.hosts)
    assert direct >= 0.9 * len(seeds)


@pytest.mark.parametrize("late", [0.02, 0.3, 0.55, 0.7, 1.2, 2.0, 3.1])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_member_that_comes_later_takes_part_in_the_same_attempt(late: float, swapped: bool) -> None:
    """Offers are repeated and rounds begin anew while both come: both sides still mean one attempt."""
    direct = 0
    for seed in range(4):
        world = hard_and_easy(within(1024, 65535, seed), seed=seed, swapped=swapped)
        first, second = world.hosts
        world.start_one(first)
        world.run(late)
        world.start_one(second)
        world.perform(first, first.manager.peer_online(second.key, True, world.now))
        world.run(22)
        direct += kinds(world) == ["direct", "direct"]
    assert direct >= 3


def test_a_rewrite_goes_with_its_path() -> None:
    world = hard_and_easy(within(1024, 65535, 3), seed=3)
    world.start()
    world.run(20)
    hard = world.hosts[0]
    assert len(hard.rewrites) == 1
    world.cut.add(frozenset((HOME, OFFICE)))
    world.run(15)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    assert not hard.rewrites


def test_the_switch_keeps_a_host_from_birthdays_but_not_from_windows() -> None:
    world = hard_and_easy(within(1024, 65535, 3), seed=3)
    world.hosts[1].manager.allow_guessing(False)
    world.start()
    world.run(60)
    assert kinds(world) == ["relay-udp", "relay-udp"]
    assert all(host.opened <= 12 * 6 for host in world.hosts), "samples alone"
    world = hard_and_easy(counting(30000, 1))
    for host in world.hosts:
        host.manager.allow_guessing(False)
    world.start()
    world.run(3)
    assert kinds(world) == ["direct", "direct"]


def test_one_attempt_an_hour_within_its_limits() -> None:
    """Nothing passes between the two NATs, so the attempt fails: few probes, and not again for an hour."""
    world = hard_and_easy(within(1024, 65535, 3), seed=3)
    home = world.hosts[0]
    world.cut.add(frozenset((HOME, OFFICE)))
    world.start()
    before = world.sent
    world.run(25)
    first = world.sent - before
    assert home.opened >= c.BIRTHDAY_SOCKETS
    assert first <= c.BIRTHDAY_PROBES + c.BIRTHDAY_SOCKETS + 400
    opened = home.opened
    world.run(3000)
    assert home.opened - opened < c.BIRTHDAY_SOCKETS
    world.run(1800)
    assert home.opened - opened >= c.BIRTHDAY_SOCKETS
    assert not home.rewrites


def test_two_peers_take_turns() -> None:
    """A random NAT has two easy peers: one attempt at a time, and both are direct in the end."""
    world = World(5)
    world.host("a", "192.168.1.10", world.nat(HOME, ports=within(1024, 65535, 9)))
    world.host("b", "10.0.0.10", world.nat(OFFICE))
    world.host("c", "10.1.0.10", world.nat("198.51.100.77"))
    world.start()
    most = 0
    for _ in range(900):
        world.run(0.1)
        most = max(most, sum(len(ports) for ports in world.hosts[0].batches.values()))
    assert most <= c.BIRTHDAY_SOCKETS + c.SAMPLES
    hard = world.hosts[0]
    assert {status.kind for status in hard.manager.status().values()} == {"direct"}
    assert len(hard.rewrites) == 2


@pytest.mark.parametrize(("short_reach", "direct"), [(True, True), (False, False)])
def test_an_early_packet_that_dies_on_the_way_spares_a_clash(short_reach: bool, direct: bool) -> None:
    """Both NATs take what comes early for themselves; one member's word from the mediator comes late."""
    world = World(1)
    world.host("a", "192.168.1.10", world.nat(HOME, accepts=True))
    world.host("b", "10.0.0.10", world.nat(OFFICE, accepts=True))
    world.short_reach = short_reach
    world.hosts[1].far = 0.04
    world.start()
    world.run(12)
    assert (kinds(world) == ["direct", "direct"]) is direct


def test_an_agent_that_starts_anew_goes_on_by_the_port_found_before() -> None:
    world = hard_and_easy(within(1024, 65535, 3), seed=3)
    world.start()
    world.run(20)
    hard, easy = world.hosts
    assert len(hard.rewrites) == 1
    (remote,) = hard.rewrites
    fresh = world.host("again", "192.168.1.10", hard.nat)
    world.hosts.remove(fresh)
    manager = type(hard.manager)(hard.key, bytes([1]) * 32, world.random.randbytes, epoch_s=UNIX_EPOCH)
    hard.manager = manager
    manager.adopt(hard.rewrites, world.now)
    world.start_one(hard)
    world.run(10)
    assert kinds(world) == ["direct", "direct"]
    assert hard.endpoints[easy.key] == remote
    world.run(c.REWRITE_ORPHAN)
    assert list(hard.rewrites) == [remote]


def test_a_rewrite_that_no_path_claims_is_taken_back() -> None:
    world = hard_and_easy(counting(30000, 1))
    stale = SocketAddress("198.51.100.200", 9)
    world.hosts[0].rewrites[stale] = 40001
    world.hosts[0].manager.adopt({stale: 40001}, world.now)
    world.start()
    world.run(c.REWRITE_ORPHAN + 1)
    assert stale not in world.hosts[0].rewrites


def test_every_transition_leads_somewhere_and_back() -> None:
    for state in GuessState:
        assert state in set(TRANSITIONS.values())
        assert any(before is state for before, _ in TRANSITIONS)
