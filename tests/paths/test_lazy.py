"""Pairs that open with the first packet and are folded up when nobody talks, in a simulated internet."""

from __future__ import annotations

import pytest

from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.paths import constants as c
from netctl.paths.effects import PathStatus
from netctl.paths.folding import Activity, Folded, Waiting
from netctl.wire.control import Candidates, RelayRequest
from netctl.wire.wireguard import INITIATION, INITIATION_LEN
from tests.support.pathsim import REKEY_TIMEOUT_S, RELAY_PORTS, WAN_DELAY, Host, World

RELAYED_S = 0.3
"""From the first packet until the relay carries it: ten trips to the mediator."""
FIRST_S = 1.0
"""From the first packet to its arrival: an offer, a relay bound by both sides, and a handshake's rest."""
DIRECT_S = 5.0
RINGS_S = 5.0
"""WireGuard tries again after so long what nobody answered."""


def lazy_world(*, symmetric: bool = False, seed: int = 1) -> tuple[World, Host, Host]:
    world = World(seed)
    world.lazy = True
    ports = (lambda: world.random.randint(1024, 65535)) if symmetric else None
    a = world.host("a", "192.168.1.10", world.nat("203.0.113.1", ports=ports))
    b = world.host("b", "192.168.2.10", world.nat("203.0.113.2", ports=ports))
    world.start()
    world.run(10)
    return world, a, b


def kinds(a: Host, b: Host) -> tuple[str, str]:
    return a.manager.status()[b.key].kind, b.manager.status()[a.key].kind


def heard(host: Host) -> list[int]:
    return [sequence for _, _, sequence in host.heard]


def test_a_peer_that_nobody_talks_to_costs_nothing() -> None:
    """Nothing is said about it to the mediator, and nothing is sent but this host's own STUN."""
    world, a, b = lazy_world()
    assert kinds(a, b) == ("idle", "idle")
    assert not world._offers
    assert a.manager.resting
    sent = world.sent
    world.run(300)
    alone = World(1)
    alone.host("a", "192.168.1.10", alone.nat("203.0.113.1"))
    alone.start()
    alone.run(10)
    before = alone.sent
    alone.run(300)
    assert world.sent - sent <= 2 * (alone.sent - before) + 2
    assert not world._offers
    assert kinds(a, b) == ("idle", "idle")


@pytest.mark.parametrize("first", ["a", "b"])
def test_the_first_packet_arrives_over_the_relay_and_the_direct_path_follows(first: str) -> None:
    """Whichever of the two keys is the lower one."""
    world, a, b = lazy_world()
    one, other = (a, b) if first == "a" else (b, a)
    began = world.now
    world.data(one, other, 1)
    world.run(FIRST_S)
    assert heard(other) == [1]
    assert other.heard[0][0] - began < FIRST_S
    world.stream(one, other, every=0.5, until=world.now + DIRECT_S)
    world.run(DIRECT_S)
    assert kinds(a, b) == ("direct", "direct")
    assert heard(other) == [1, *range(10)]
    assert not a.manager.resting


@pytest.mark.parametrize("hard", ["a", "b", "ab"])
def test_the_relay_does_not_wait_until_a_nat_is_sampled(hard: str) -> None:
    """A NAT that gives each destination another port is sampled before an offer can predict its ports."""
    world = World(1)
    world.lazy = True
    a, b = (
        world.host(name, f"192.168.{n}.10", world.nat(f"203.0.113.{n}", symmetric=name in hard))
        for n, name in enumerate("ab", 1)
    )
    world.start()
    world.run(10)
    began = world.now
    world.stream(a, b, every=1.0, until=began + 120)
    world.run(RELAYED_S)
    assert kinds(a, b) != ("idle", "idle")
    assert heard(b) == [0]
    world.run(120)
    assert heard(b) == list(range(len(b.heard)))
    # What the samples have shown was offered afterwards: where one NAT is easy, its side finds the other's port.
    assert kinds(a, b) == (("relay-udp",) * 2 if hard == "ab" else ("direct",) * 2)


def test_a_pair_that_cannot_be_direct_is_relayed() -> None:
    world, a, b = lazy_world(symmetric=True)
    a.manager.allow_guessing(False)
    b.manager.allow_guessing(False)
    world.data(a, b, 7)
    world.run(FIRST_S)
    assert heard(b) == [7]
    world.run(60)
    assert kinds(a, b) == ("relay-udp", "relay-udp")


def test_both_ring_at_once() -> None:
    world, a, b = lazy_world()
    world.data(a, b, 1)
    world.data(b, a, 2)
    world.run(FIRST_S)
    assert heard(b) == [1]
    assert heard(a) == [2]
    world.run(DIRECT_S)
    assert kinds(a, b) == ("direct", "direct")


@pytest.mark.parametrize("symmetric", [False, True])
def test_an_idle_pair_is_folded_up_and_rings_again(symmetric: bool) -> None:
    world, a, b = lazy_world(symmetric=symmetric)
    for turn in range(3):
        world.data(a, b, turn)
        world.run(30)
        assert heard(b) == list(range(turn + 1))
        assert "idle" not in kinds(a, b)
        world.run(c.LAZY_IDLE + 5)
        assert kinds(a, b) == ("idle", "idle")
        quiet, sent = len(world._offers), world.sent
        world.run(100)
        assert len(world._offers) == quiet
        assert world.sent - sent < 100  # STUN
        assert not a.stand_ins
        assert not a.rewrites


def test_a_pair_that_talks_is_not_folded_up() -> None:
    world, a, b = lazy_world()
    world.stream(a, b, every=c.LAZY_IDLE / 3, until=world.now + 4 * c.LAZY_IDLE)
    world.run(4 * c.LAZY_IDLE)
    assert kinds(a, b) == ("direct", "direct")
    assert [kind for _, kind in a.changes] == [kind for _, kind in b.changes]
    assert "idle" not in [kind for _, kind in a.changes]


@pytest.mark.parametrize("symmetric", [False, True])
def test_folded_up_while_a_packet_is_on_its_way(symmetric: bool) -> None:
    """A packet is sent each tenth of a second around the moment of folding, by either side: each arrives."""
    for tenth in range(-15, 15):
        world, a, b = lazy_world(symmetric=symmetric, seed=40 + tenth)
        began = world.now
        world.data(a, b, 1)
        world.run(30)
        at = began + c.LAZY_IDLE + tenth / 10
        sender, receiver = (a, b) if tenth % 2 else (b, a)
        world.run(at - world.now)
        world.data(sender, receiver, 2)
        world.run(3)
        assert heard(receiver)[-1:] == [2], f"sent {tenth / 10} s from the moment"
        world.data(receiver, sender, 3)
        world.run(3)
        assert heard(sender)[-1:] == [3]


def test_a_lost_ring_is_no_lost_pair() -> None:
    """The agent was away for a moment: WireGuard rings again after five seconds."""
    world, a, b = lazy_world()
    a.deaf = True
    world.data(a, b, 1)
    world.run(RINGS_S)
    assert kinds(a, b) == ("idle", "idle")
    a.deaf = False
    world.data(a, b, 2)
    world.run(FIRST_S)
    assert heard(b) == [2]


def test_one_side_that_folds_first_is_woken_by_packets_or_by_the_mediator() -> None:
    """Its clock, or what it counts, may be another one's."""
    for symmetric in (False, True):
        world, a, b = lazy_world(symmetric=symmetric)
        world.data(a, b, 1)
        world.run(20)
        pair = b.manager._pairs[a.key]
        world.perform(b, b.manager._fold(pair, world.now))
        world.run(0.5)
        world.stream(a, b, every=1.0, until=world.now + 60)
        world.run(60)
        assert heard(b)[1:4] == [0, 1, 2]
        assert heard(b)[-1] == 59
        assert "idle" not in kinds(a, b)
        assert "none" not in kinds(a, b)


def test_an_idle_side_that_sees_its_peer_fold_does_not_wake_it() -> None:
    world, a, b = lazy_world()
    world.data(a, b, 1)
    world.run(60)
    offers = dict(world._offers)
    world.perform(b, b.manager._fold(b.manager._pairs[a.key], world.now))
    world.run(120)
    assert kinds(a, b) == ("idle", "idle")
    assert world._offers == offers


@pytest.mark.parametrize("viewers", ["a", "b", "ab"])
def test_who_only_looks_keeps_no_relayed_pair_open(viewers: str) -> None:
    """The echo requests of a page are no data, on either side. Both fold up at the same time."""
    world, a, b = lazy_world(symmetric=True)
    for host in (a, b):
        host.manager.allow_guessing(False)
    world.data(a, b, 1)
    world.run(5)
    assert kinds(a, b) == ("relay-udp", "relay-udp")
    end = (
        world.now + c.LAZY_IDLE * (1 + c.LAZY_QUIET) + 5
    )  # the last offer counts as somebody who wants to talk
    while world.now < end:
        for host in (a, b):
            if host.name in viewers:
                world.perform(host, host.manager.watch(world.now + 3.0, world.now))
        world.run(1.0)
    assert (a if "a" in viewers else b).asked
    assert kinds(a, b) == ("idle", "idle")
    asked = len(a.asked) + len(b.asked)
    world.run(10)
    assert len(a.asked) + len(b.asked) == asked


def test_data_beside_echoes_keeps_a_pair_open() -> None:
    world, a, b = lazy_world(symmetric=True)
    for host in (a, b):
        host.manager.allow_guessing(False)
    world.stream(a, b, every=c.LAZY_IDLE / 3, until=world.now + 2 * c.LAZY_IDLE)
    end = world.now + 2 * c.LAZY_IDLE
    while world.now < end:
        world.perform(a, a.manager.watch(world.now + 3.0, world.now))
        world.run(1.0)
    assert kinds(a, b) == ("relay-udp", "relay-udp")
    assert "idle" not in [kind for _, kind in a.changes]


def test_a_pair_whose_peer_is_offline_is_folded_up_soon() -> None:
    """Nobody there could answer: it does not wait for the whole idle time."""
    world, a, b = lazy_world()
    world.perform(a, a.manager.peer_online(b.key, False, world.now))
    b.on = b.control = False
    world.data(a, b, 1)
    world.run(5)
    assert kinds(a, b)[0] == "none"
    world.run(c.LAZY_IDLE * c.LAZY_QUIET)
    assert kinds(a, b)[0] == "idle"


class RelayCounted(World):
    """Counts what reaches the relay's ports."""

    to_relay = 0

    def _internet(self, source: SocketAddress, destination: SocketAddress, data: bytes) -> None:
        self.to_relay += destination.port in RELAY_PORTS
        super()._internet(source, destination, data)

    def _mediate(self, host: Host, message: Candidates | RelayRequest) -> None:
        """The mediator grants the relay whoever is online."""
        asleep = [other for other in self.hosts if not other.control]
        for other in asleep if isinstance(message, RelayRequest) else ():
            other.control = True
        super()._mediate(host, message)
        for other in asleep:
            other.control = False


def unknown_world() -> tuple[RelayCounted, Host, Host]:
    """b is not online, and the mediator, which grants the relay all the same, does not say so unasked."""
    world = RelayCounted(1)
    world.lazy = True
    a, b = (
        world.host(name, f"192.168.{n}.10", world.nat(f"203.0.113.{n}")) for n, name in enumerate("ab", 1)
    )
    world.start()
    world.run(10)
    world.perform(a, a.manager.peers_online({b.key: None}, world.now))
    b.on = b.control = False
    return world, a, b


def test_a_ring_for_an_absent_peer_sends_nothing_to_the_relay() -> None:
    """The mediator is asked first; and again, after the pair was folded up and its presence forgotten."""
    world, a, b = unknown_world()
    for asked in (1, 2):
        world.data(a, b, asked)
        assert a.manager.presence_asked == asked
        world.run(2 * WAN_DELAY)
        world.perform(a, a.manager.peer_online(b.key, False, world.now))
        world.run(c.LAZY_IDLE * c.LAZY_QUIET + RINGS_S)
        assert kinds(a, b)[0] == "idle"
        world.perform(a, a.manager.peers_online({b.key: None}, world.now))
    assert world.to_relay == 0
    world.perform(a, a.manager.presence_in_view({b.key: False}, world.now))
    world.data(a, b, 3)
    assert a.manager.presence_asked == 2, "what is known is not asked"
    world.run(RINGS_S)
    assert world.to_relay == 0


def test_a_ring_waits_for_the_mediators_word_no_longer_than_for_its_grant() -> None:
    world, a, b = unknown_world()
    b.on = b.control = True
    world.data(a, b, 1)
    world.run(2 * WAN_DELAY)
    world.perform(a, a.manager.peer_online(b.key, True, world.now))
    world.run(RELAYED_S)
    assert heard(b) == [1]


def test_a_mediator_that_says_nothing_delays_a_ring_for_a_moment_only() -> None:
    world, a, b = unknown_world()
    b.on = b.control = True
    world.data(a, b, 1)
    world.run(c.PRESENCE_WAIT / 2)
    assert a.manager.presence_asked == 1
    world.run(c.PRESENCE_WAIT / 2 + FIRST_S)
    assert heard(b) == [1]


def test_the_path_says_how_soon_it_came_after_the_first_packet() -> None:
    world, a, b = lazy_world()
    told: list[tuple[str, float | None]] = []
    began = world.now
    world.data(a, b, 1)
    while kinds(a, b)[0] != "direct":
        world.run(0.01)
        found = a.manager.status()[b.key]
        if found.kind in ("relay-udp", "direct") and found.kind not in dict(told):
            told.append((found.kind, found.opened_s))
            assert found.opened_s == pytest.approx(world.now - began, abs=0.02)
    assert [kind for kind, _ in told] == ["relay-udp", "direct"]
    assert b.manager.status()[a.key].opened_s is None, "its engine did not ring"
    for host in (a, b):
        world.perform(host, host.manager.woke(world.now, 200.0))
    world.cut.add(frozenset(("203.0.113.1", "203.0.113.2")))
    world.stream(a, b, every=0.5, until=world.now + 10)
    world.run(10)
    assert a.manager.status()[b.key].kind == "relay-udp"
    assert a.manager.status()[b.key].opened_s is None, "a later path has nothing to do with the first packet"


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("late", "fails"), [(0.5, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_a_doorbell_that_is_set_late_or_not_at_all_loses_no_pair(
    symmetric: bool, late: float, fails: float
) -> None:
    """The first attempt fails: the next look at the engine sets it."""
    for tenth in range(-5, 25, 3):
        world, a, b = lazy_world(symmetric=symmetric, seed=70 + tenth)
        world.fold_late, world.fold_fails = late, fails
        world.data(a, b, 1)
        world.run(30)
        world.run(c.LAZY_IDLE - 30 + tenth / 10)
        for number in (2, 3, 4):
            world.data(a, b, number)
            world.run(RINGS_S)
        assert heard(b)[-1] == 4, f"sent {tenth / 10} s from the moment"
        assert "idle" not in kinds(a, b)
        world.run(c.LAZY_IDLE + RINGS_S)
        assert kinds(a, b) == ("idle", "idle")


def test_a_limit_of_the_size_ends_with_the_fold_and_nobody_says_that_full_packets_pass() -> None:
    world, a, b = lazy_world()
    world.data(a, b, 1)
    world.run(20)
    pair = a.manager._pairs[b.key]
    pair._limited = a.limits[b.key] = 1328
    world.perform(a, a.manager._fold(pair, world.now))
    assert a.limits[b.key] is None
    assert None not in a.limits_told


def test_nothing_is_folded_up_while_the_mediator_is_away() -> None:
    world, a, b = lazy_world()
    world.data(a, b, 1)
    world.run(30)
    world.lose_mediator()
    world.run(2 * c.LAZY_IDLE)
    assert kinds(a, b) == ("direct", "direct")
    world.data(b, a, 2)
    world.run(1)
    assert heard(a) == [2]
    world.restore_mediator()
    world.run(c.LAZY_IDLE + 10)
    assert kinds(a, b) == ("idle", "idle")


def test_a_ring_without_a_mediator_opens_when_it_is_back() -> None:
    world, a, b = lazy_world()
    world.lose_mediator()
    world.run(20)
    for second in range(30):
        world.at(world.now + second, lambda: world.data(a, b, 1))
    world.at(world.now + 20, world.restore_mediator)
    world.run(40)
    assert heard(b)
    assert kinds(a, b) == ("direct", "direct")


def test_a_network_that_is_lazy_no_more_opens_all_and_becomes_lazy_again() -> None:
    world, a, b = lazy_world()
    for host, other in ((a, b), (b, a)):
        world.perform(host, host.manager.set_peers([other.key], world.now))
    world.run(DIRECT_S)
    assert kinds(a, b) == ("direct", "direct")
    world.run(2 * c.LAZY_IDLE)
    assert kinds(a, b) == ("direct", "direct")
    for host, other in ((a, b), (b, a)):
        lazy = frozenset({other.key})
        world.perform(host, host.manager.set_peers([other.key], world.now, lazy=lazy))
    world.run(5)
    assert kinds(a, b) == ("direct", "direct")
    world.run(c.LAZY_IDLE)
    assert kinds(a, b) == ("idle", "idle")


def test_an_agent_that_starts_again_keeps_what_is_talking() -> None:
    """A peer with a session is open from the start; the others are folded."""
    world, a, b = lazy_world()
    effects = a.manager.set_peers([], world.now)
    effects += a.manager.set_peers([b.key], world.now, lazy=frozenset({b.key}), live=frozenset({b.key}))
    world.perform(a, effects)
    assert kinds(a, b)[0] == "none"
    world.run(DIRECT_S)
    assert kinds(a, b) == ("direct", "direct")


def test_a_stock_app_is_never_folded() -> None:
    """Nobody there hears of an offer."""
    world, a, b = lazy_world()
    both = frozenset({b.key})
    world.perform(a, a.manager.set_peers([b.key], world.now, stock=both, lazy=both))
    assert kinds(a, b)[0] == "none"


def test_of_two_initiations_only_the_newer_one_waits() -> None:
    waiting = Waiting()
    one, two = (bytes([INITIATION, 0, 0, 0, number]).ljust(INITIATION_LEN, b"\0") for number in (1, 2))
    waiting.add(one, 0.0)
    waiting.add(b"data", 0.1)
    waiting.add(two, 0.2)
    assert waiting.take(0.3) == [b"data", two]
    assert waiting.take(0.3) == []


def test_what_waits_is_bounded_in_number_and_time() -> None:
    waiting = Waiting()
    for number in range(100):
        waiting.add(bytes([number]), 0.0)
    assert waiting.take(0.0) == [bytes([number]) for number in range(100 - c.RING_DATAGRAMS, 100)]
    waiting.add(b"old", 0.0)
    assert waiting.take(c.RING_KEPT + 0.1) == []


def test_only_a_lazy_pair_is_ever_over() -> None:
    activity = Activity(idle_s=100.0)
    activity.seen(0.0)
    activity.work_left()
    assert not activity.over(1000.0, stranded=True)
    activity.lazy = True
    activity.seen(1000.0)
    assert not activity.over(1099.0, stranded=True)
    assert activity.over(1100.0, stranded=False)
    activity.work_left()
    assert not activity.over(1009.0, stranded=True)
    assert activity.over(1010.0, stranded=True)
    assert not activity.over(1010.0, stranded=False)


def test_counters_of_a_new_engine_wake_nobody() -> None:
    folded = Folded(PathStatus("idle"))
    assert not folded.hears(PeerStatus(None, 0, 500, 0))
    assert folded.hears(PeerStatus(None, 0, 501, 0))
    assert not folded.hears(PeerStatus(None, 0, 0, 0))
    assert folded.hears(PeerStatus(None, 0, 32, 0))


def folded_up(world: World, a: Host, b: Host) -> None:
    """They have talked, and are folded up."""
    world.data(a, b, 1)
    world.run(30 + c.LAZY_IDLE)
    assert kinds(a, b) == ("idle", "idle")


def test_after_suspend_the_tunnel_opens_though_only_the_other_end_has_a_session() -> None:
    """It sends data of its session, which the engine of the woken host cannot read: 15 s until it begins a new one."""
    world, a, b = lazy_world()
    folded_up(world, a, b)
    world.lose_sessions(a)
    world.perform(a, a.manager.woke(world.now, 40.0))
    world.run(5)
    before, began = len(a.heard), world.now
    world.stream(b, a, every=0.1, until=began + 10)
    world.run(10)
    assert b.key not in a.lost
    assert a.heard[before][0] - began < FIRST_S
    assert not a.renewed


@pytest.mark.parametrize("first", ["a", "b"])
def test_after_suspend_the_first_packet_makes_one_handshake(first: str) -> None:
    """Neither end has a session, and only one of them begins a handshake."""
    world, a, b = lazy_world()
    folded_up(world, a, b)
    world.lose_sessions(a)
    world.lose_sessions(b)
    world.perform(a, a.manager.woke(world.now, 200.0))
    one, other = (a, b) if first == "a" else (b, a)
    before, began = len(other.heard), world.now
    world.data(one, other, 2)
    world.run(FIRST_S)
    assert other.heard[before][0] - began < FIRST_S < REKEY_TIMEOUT_S
    assert not a.renewed
    assert one.key not in other.lost
    assert other.key not in one.lost
