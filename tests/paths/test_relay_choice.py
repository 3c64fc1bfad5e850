"""Several relays: the pair takes the one with the smallest sum, leaves one that dies, and moves for a better one."""

from __future__ import annotations

import itertools
import random
from ipaddress import IPv4Address

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths.constants import METER_EVERY, METER_WAIT, RELAY_MOVE_REST, RELAY_TIE_MS
from netctl.paths.relaychoice import much_better, ranked, sums, weighted
from netctl.wire.stun import MAX_LOAD
from tests.support.pathsim import MEDIATOR, Apart, Host, World

A_PUBLIC, B_PUBLIC = "203.0.113.1", "203.0.113.2"
EAST, WEST = "198.51.100.21", "198.51.100.22"
FAILOVER_S = 5.0


def hard_pair(world: World) -> tuple[Host, Host]:
    """Both behind NATs that give every destination another port: only a relay works."""
    a = world.host("a", "10.0.1.2", world.nat(A_PUBLIC, symmetric=True))
    b = world.host("b", "10.0.2.2", world.nat(B_PUBLIC, symmetric=True))
    for host in (a, b):
        host.manager.allow_guessing(False)
    return a, b


def place(world: World, relay: str, to_a: float, to_b: float) -> None:
    """Seconds that the relay is farther from each, one way."""
    world.farther[A_PUBLIC, relay], world.farther[B_PUBLIC, relay] = to_a, to_b


def at(host: Host, peer: Host) -> str:
    """The machine that the packets to a peer go to."""
    endpoint = host.endpoints.get(peer.key)
    return "" if endpoint is None else endpoint.host


def kind(host: Host, peer: Host) -> str:
    return host.manager.status()[peer.key].kind


def longest_gap(host: Host, since: float, until: float) -> float:
    times = [since, *(when for when, _, _ in host.heard if since < when < until), until]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


def gap_of_a_death(world: World, a: Host, b: Host, relay: Apart) -> float:
    """The longest time without a packet at either, seconds, while both talk and the relay dies."""
    until = world.now + 20
    world.stream(a, b, every=0.1, until=until)
    world.stream(b, a, every=0.1, until=until)
    world.run(5)
    died, relay.up = world.now, False
    world.run(15)
    return max(longest_gap(a, died - 1, world.now), longest_gap(b, died - 1, world.now))


def two_relays(seed: int = 1) -> tuple[World, Host, Host, Apart]:
    world = World(seed)
    a, b = hard_pair(world)
    return world, a, b, world.relay_apart(EAST)


def test_without_a_relay_apart_nothing_is_asked_and_nothing_told() -> None:
    world = World(1)
    a, b = hard_pair(world)
    world.start()
    world.run(30)
    assert (kind(a, b), at(a, b)) == ("relay-udp", MEDIATOR)
    assert all(not offer.relays for offer in world._offers.values())


@pytest.mark.parametrize("seed", range(4))
def test_the_relay_with_the_smaller_sum_carries_both_ways(seed: int) -> None:
    world, a, b, _ = two_relays(seed)
    place(world, MEDIATOR, 0.080, 0.080)
    place(world, EAST, 0.002, 0.090)  # far from the one, and still the shorter way
    world.start()
    world.run(30)
    assert (at(a, b), at(b, a)) == (EAST, EAST)
    assert kind(a, b) == kind(b, a) == "relay-udp"
    world.stream(a, b, every=0.1, until=world.now + 5)
    since = world.now
    world.run(5)
    assert longest_gap(b, since + 0.5, world.now) < 0.3


def test_a_relay_of_other_members_is_not_asked() -> None:
    """A member that relays carries pairs of its own networks; it may enter a network later."""
    world, a, b, east = two_relays()
    place(world, MEDIATOR, 0.080, 0.080)
    place(world, EAST, 0.002, 0.002)
    world.start()
    for host in (a, b):
        relays = {east.name: [SocketAddress(EAST, 3478)]}
        world.perform(host, host.manager.set_relays(relays, world.now, {east.name: frozenset()}))
    world.run(60)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)
    assert not east.table.bindings()
    for host, other in ((a, b), (b, a)):
        circles = {east.name: frozenset({other.key})}
        relays = {east.name: [SocketAddress(EAST, 3478)]}
        world.perform(host, host.manager.set_relays(relays, world.now, circles))
    world.run(60)
    assert (at(a, b), at(b, a)) == (EAST, EAST)


def test_a_relay_that_is_hardly_better_changes_nothing() -> None:
    world, a, b, _ = two_relays()
    place(world, MEDIATOR, 0.040, 0.040)
    place(world, EAST, 0.035, 0.035)
    world.start()
    world.run(120)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)


@pytest.mark.parametrize("with_mediator", [True, False])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("both_ways", [True, False])
def test_a_relay_that_dies_is_left_within_seconds(seed: int, with_mediator: bool, both_ways: bool) -> None:
    """With its whole machine, and the mediator on it, too: both have a grant for the next one."""
    world, a, b, _ = two_relays(seed)
    world.start()
    world.run(40)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)
    end = world.now + 30
    world.stream(a, b, every=0.1, until=end)
    if both_ways:
        world.stream(b, a, every=0.1, until=end)
    world.run(10.3 + seed * 0.17)
    died = world.now
    if with_mediator:
        world.beside_up = False
    else:
        world.lose_mediator()
    world.run(15)
    assert (at(a, b), at(b, a)) == (EAST, EAST)
    assert longest_gap(b, died - 1, world.now) < FAILOVER_S
    if both_ways:
        assert longest_gap(a, died - 1, world.now) < FAILOVER_S


@pytest.mark.parametrize("seed", range(5))
def test_a_relay_that_dies_between_packets_is_left_before_the_next(seed: int) -> None:
    """Packets have flowed within a minute, and none is on its way: both have another relay all the same."""
    world, a, b, _ = two_relays(seed)
    world.start()
    world.run(40)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)
    world.stream(a, b, every=0.1, until=world.now + 1)
    world.run(20 + seed * 5.3)
    world.beside_up = False
    world.run(FAILOVER_S)
    assert (at(a, b), at(b, a)) == (EAST, EAST)


@pytest.mark.parametrize("seed", range(5))
def test_members_that_rank_the_others_differently_meet_when_their_relay_dies(seed: int) -> None:
    """The mediator is away, so the one does not hear what the other has measured since."""
    north = "198.51.100.23"
    world, a, b, east = two_relays(seed)
    for relay in (WEST, north):
        world.relay_apart(relay)
    for relay, delay in ((MEDIATOR, 0.080), (EAST, 0.002), (WEST, 0.020), (north, 0.040)):
        place(world, relay, delay, delay)
    world.start()
    world.run(40)
    assert (at(a, b), at(b, a)) == (EAST, EAST)
    world.lose_mediator()
    place(world, WEST, 0.090, 0.020)
    world.perform(a, a.manager.ways_changed(world.now))
    world.run(8)
    assert (at(a, b), at(b, a)) == (EAST, EAST)
    assert gap_of_a_death(world, a, b, east) < FAILOVER_S


def test_a_way_that_is_dead_for_one_side_alone_is_left_by_both() -> None:
    world, a, b, _ = two_relays()
    world.start()
    world.run(40)
    world.stream(a, b, every=0.1, until=world.now + 40)
    world.stream(b, a, every=0.1, until=world.now + 40)
    world.run(10)
    since = world.now
    world.cut.add(frozenset((A_PUBLIC, MEDIATOR)))
    world.run(20)
    assert (at(a, b), at(b, a)) == (EAST, EAST)
    assert max(longest_gap(a, since, world.now), longest_gap(b, since, world.now)) < FAILOVER_S


def test_a_much_better_relay_is_taken_and_packets_go_on() -> None:
    """Packets on their way have both engines roam back, until the old relay forgets the pair: half a second at most."""
    world, a, b, east = two_relays()
    east.up = False
    place(world, MEDIATOR, 0.080, 0.080)
    world.start()
    world.run(60)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)
    east.up = True
    since, until = world.now, world.now + METER_EVERY + 60
    world.stream(a, b, every=0.1, until=until)
    world.stream(b, a, every=0.1, until=until)
    world.run(METER_EVERY + 60)
    assert (at(a, b), at(b, a)) == (EAST, EAST)
    assert max(longest_gap(a, since + 1, until - 1), longest_gap(b, since + 1, until - 1)) < 1.0
    sequences = {number for when, _, number in b.heard if when > since}
    assert len(set(range(max(sequences))) - sequences) < 10


class DeafToStun(World):
    """The mediator's STUN ports can be silent, while its relay works."""

    deaf = False

    def _server(self, source: SocketAddress, port: int, data: bytes) -> None:
        if not (self.deaf and port in (3478, 3479)):
            super()._server(source, port, data)


@pytest.mark.parametrize("seed", range(3))
def test_a_missed_series_of_questions_is_no_reason_to_move(seed: int) -> None:
    world = DeafToStun(seed)
    a, b = hard_pair(world)
    world.relay_apart(EAST)
    place(world, EAST, 0.060, 0.060)
    world.start()
    world.run(40)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)
    steered = len(a.steered), len(b.steered)
    world.deaf = True
    world.run(2 * METER_EVERY + 60)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)
    assert (len(a.steered), len(b.steered)) == steered


def test_a_better_relay_that_the_peer_does_not_reach_is_given_up() -> None:
    world, a, b, _ = two_relays()
    place(world, MEDIATOR, 0.080, 0.080)
    world.start()
    world.run(40)
    assert at(a, b) == EAST
    world.cut.add(frozenset((B_PUBLIC, EAST)))
    world.stream(a, b, every=0.2, until=world.now + 200)
    world.stream(b, a, every=0.2, until=world.now + 200)
    since = world.now
    world.run(200)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)
    assert longest_gap(b, since + 10, world.now - 1) < 1.0
    assert len([1 for when, _ in a.steered if when > since + 20]) < 20, "it does not flap"


def test_a_peer_that_knows_of_one_relay_alone_is_met_there() -> None:
    """An agent of an earlier release asks for the mediator's relay and tells no distances."""
    world, a, b, _ = two_relays()
    place(world, MEDIATOR, 0.080, 0.080)
    apart, world.apart = world.apart, {}
    world.start_one(b)
    world.apart = apart
    world.start_one(a)
    world.run(60)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)
    assert kind(a, b) == "relay-udp"


def test_a_relay_that_leaves_the_document_is_left() -> None:
    world, a, b, _ = two_relays()
    place(world, MEDIATOR, 0.080, 0.080)
    world.start()
    world.run(30)
    assert at(a, b) == EAST
    for host in (a, b):
        world.perform(host, host.manager.set_relays({}, world.now))
    world.run(10)
    assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)
    assert kind(a, b) == kind(b, a) == "relay-udp"


def test_an_idle_relayed_pair_costs_hardly_more() -> None:
    def packets(apart: bool) -> int:
        world = World(3)
        hard_pair(world)
        if apart:
            world.relay_apart(EAST)
            world.relay_apart(WEST)
        world.start()
        world.run(700)
        before = world.sent
        world.run(300)
        return world.sent - before

    # One series in five minutes: three questions of each host to each of three relays.
    assert packets(True) <= packets(False) + 3 * 2 * 3


def choice_in_a_random_placement(seed: int, chance: random.Random) -> tuple[bool, bool]:
    """Two members and four relays on a plane of 100 ms. Whether both settle on one relay that is the best or hardly
    farther, and whether it is the best.
    """
    world = World(seed)
    a, b = hard_pair(world)
    spots = [(chance.uniform(0, 0.1), chance.uniform(0, 0.1)) for _ in range(6)]
    relays = [MEDIATOR, *(str(IPv4Address(EAST) + number) for number in range(3))]
    for address in relays[1:]:
        world.relay_apart(address)
    where = dict(zip(relays, spots[2:], strict=True))
    total: dict[str, float] = {}
    for address, (x, y) in where.items():
        ways = [((x - hx) ** 2 + (y - hy) ** 2) ** 0.5 for hx, hy in spots[:2]]
        place(world, address, *ways)
        total[address] = 2 * sum(ways) + 0.04
    world.start()
    world.run(2 * RELAY_MOVE_REST + 20)
    used, best = at(a, b), min(total.values())
    if used != at(b, a) or used not in total:
        return False, False
    return not much_better(best * 1000, total[used] * 1000 - 2), total[used] == best


def test_choices_of_random_placements() -> None:
    """In 99 of 100 the pair is on the relay with the smallest sum, or on one that is hardly farther."""
    chance, rounds = random.Random(20), 100
    right = sum(choice_in_a_random_placement(seed, chance)[0] for seed in range(rounds))
    assert right >= 0.99 * rounds


def test_what_is_much_better() -> None:
    assert sums({"x": 3, "y": 4}, {"y": 5, "z": 6}) == {"y": 9}
    assert much_better(69, 100)
    assert not much_better(71, 100)
    assert not much_better(5, 14), "less than 10 ms is nothing that anybody notices"


def three_relays(seed: int = 1) -> tuple[World, Host, Host, Apart, Apart]:
    """Two relays apart, nearly as far as each other, and the mediator's far away."""
    world = World(seed)
    a, b = hard_pair(world)
    east, west = world.relay_apart(EAST), world.relay_apart(WEST)
    for relay, delay in ((MEDIATOR, 0.080), (EAST, 0.010), (WEST, 0.013)):
        place(world, relay, delay, delay)
    return world, a, b, east, west


@pytest.mark.parametrize("load", [1, 2, MAX_LOAD])
def test_of_two_relays_nearly_as_far_the_less_loaded_one_is_taken(load: int) -> None:
    world, a, b, east, _ = three_relays()
    east.load = load
    world.start()
    world.run(30)
    assert (at(a, b), at(b, a)) == (WEST, WEST)


def test_a_loaded_relay_that_is_much_nearer_is_taken_unless_it_is_full() -> None:
    for load, expected in ((2, EAST), (MAX_LOAD, WEST)):
        world, a, b, east, _ = three_relays()
        place(world, WEST, 0.040, 0.040)
        east.load = load
        world.start()
        world.run(30)
        assert (at(a, b), at(b, a)) == (expected, expected)


def test_a_full_relay_is_better_than_none() -> None:
    world, a, b, east, west = three_relays()
    world.beside_up = False
    east.load = west.load = MAX_LOAD
    world.start()
    world.run(30)
    assert at(a, b) == at(b, a) == EAST


def test_load_moves_no_pair_that_has_a_relay() -> None:
    """All pairs would leave at once, fill the next relay, and come back."""
    world, a, b, east, west = three_relays()
    world.start()
    world.run(30)
    assert (at(a, b), at(b, a)) == (EAST, EAST)
    steered = len(a.steered), len(b.steered)
    for east.load, west.load in ((MAX_LOAD, 0), (1, 2), (2, 1), (0, MAX_LOAD)):
        world.run(METER_EVERY + 20)
        assert (at(a, b), at(b, a)) == (EAST, EAST)
    assert (len(a.steered), len(b.steered)) == steered


def test_only_one_member_knows_of_the_load_and_both_go_by_it() -> None:
    """The load changes between the questions of the one and those of the other."""
    world, a, b, east, _ = three_relays()
    world.start_one(a)
    world.run(2 * METER_WAIT)
    east.load = 2
    world.start_one(b)
    world.run(30)
    assert (at(a, b), at(b, a)) == (WEST, WEST)


@pytest.mark.parametrize("seed", range(4))
def test_a_pair_whose_relay_dies_takes_the_less_loaded_one_without_waiting(seed: int) -> None:
    north = "198.51.100.23"
    world, a, b, east, west = three_relays(seed)
    world.relay_apart(north)
    place(world, WEST, 0.030, 0.030)
    place(world, north, 0.032, 0.032)
    west.load = 2
    world.start()
    world.run(40)
    assert (at(a, b), at(b, a)) == (EAST, EAST)
    gap = gap_of_a_death(world, a, b, east)
    assert (at(a, b), at(b, a)) == (north, north)
    assert gap < FAILOVER_S


def test_of_relays_at_one_distance_the_first_of_the_document_counts() -> None:
    """Two measurements of one machine differ by a millisecond or so, and decide nothing."""
    assert ranked({"": 40 + RELAY_TIE_MS, "y": 40, "x": 41}) == ["", "y", "x"]
    assert ranked({"": 41 + RELAY_TIE_MS, "y": 40, "x": 41}) == ["y", "", "x"]
    assert ranked({"b": float("inf"), "a": float("inf"), "c": 5}) == ["c", "b", "a"]
    for seed in range(4):
        world = World(seed)
        a, b = hard_pair(world)
        for number, relay in enumerate((EAST, WEST)):
            world.relay_apart(relay)
            place(world, relay, 0.0003 * number, 0.0003)
        place(world, MEDIATOR, 0.0007, 0.0007)
        world.start()
        world.run(30)
        assert (at(a, b), at(b, a)) == (MEDIATOR, MEDIATOR)


def test_a_load_of_two_counts_as_much_as_a_move_has_to_gain() -> None:
    assert weighted(60, 2) > 95 > weighted(59, 2)
    assert not much_better(61, 95) or weighted(61, 2) > 95
    assert weighted(100, 0) == 100 < weighted(100, 1) < weighted(100, 2)
