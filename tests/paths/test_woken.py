"""After suspend a tunnel is opened anew: once, and only when an answer has proven the path."""

from __future__ import annotations

import pytest

from mediator.core.relay_table import RelayTable
from netctl.paths.constants import DEAD_AFTER, OPEN_ANEW
from tests.support.pathsim import REKEY_TIMEOUT_S, RELAY_PORTS, UNIX_EPOCH, WAN_DELAY, World

HOME, OFFICE = "203.0.113.1", "192.0.2.1"
SLEPT_S = 200.0
"""After so long a NAT has forgotten a flow, and a grant of the relay is still good."""
NIGHT_S = 7 * 3600.0
"""All grants are over after it."""


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
    world.perform(a, a.manager.woke(woke, SLEPT_S))
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
    world.perform(a, a.manager.woke(woke, SLEPT_S))
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
        world.perform(a, a.manager.woke(world.now, SLEPT_S))
        world.run(5)
    assert [key for _, key in a.opened_to] == [b.key] * 3


def lost_at(world: World, suspended_s: float) -> float:
    """Seconds from the wake until the path, which is dead now, is left."""
    a, _ = world.hosts
    world.cut.add(frozenset((HOME, OFFICE)))
    woke = world.now
    world.perform(a, a.manager.woke(woke, suspended_s))
    world.run(10)
    return next(at for at, kind in a.changes if at > woke and kind != "direct") - woke


@pytest.mark.parametrize("suspended_s", [0.0, 10.0])
def test_a_path_has_its_time_after_a_standstill_in_which_nats_forget_nothing(suspended_s: float) -> None:
    assert lost_at(pair(), suspended_s) >= DEAD_AFTER


def test_a_path_has_its_time_while_nothing_tells_that_the_network_is_ready() -> None:
    """A wireless network comes back seconds after the wake: no ping can be answered before."""
    world = pair()
    world.beside_up = False
    assert lost_at(world, SLEPT_S) >= DEAD_AFTER


def test_the_time_of_a_path_begins_when_the_network_is_ready() -> None:
    world = pair()
    a, b = world.hosts
    a.on = False
    woke = world.now
    world.perform(a, a.manager.woke(woke, SLEPT_S))
    world.run(1.5)
    a.on = True
    world.run(30)
    assert {kind for at, kind in a.changes if at > woke} <= {"direct"}, "the path works, and stays"
    assert [key for _, key in a.opened_to] == [b.key]


@pytest.mark.parametrize("suspended_s", [0.0, SLEPT_S])
def test_a_ping_from_before_the_sleep_does_not_count_against_the_path(suspended_s: float) -> None:
    world = pair()
    a, b = world.hosts
    a.on = False
    world.perform(a, a.manager.control_down(world.now))  # it pings the path, in vain
    world.run(0.3)
    a.on = True
    world.now += DEAD_AFTER  # nothing ran meanwhile
    woke = world.now
    world.perform(a, a.manager.woke(woke, suspended_s))
    world.run(30)
    assert {kind for at, kind in a.changes if at >= woke} <= {"direct"}
    assert [key for _, key in a.opened_to] == [b.key]


@pytest.mark.parametrize("login_s", [0.5, 3.0, 5.0])
@pytest.mark.parametrize("relayed", [False, True])
def test_a_new_grant_is_asked_for_as_soon_as_the_mediator_is_back(relayed: bool, login_s: float) -> None:
    """All grants are over after the night, and the relay answers nothing to them."""
    world = pair(relayed=relayed)
    a, b = world.hosts
    world.cut.add(frozenset((HOME, OFFICE)))
    world.secret = bytes(32)
    world.relay = RelayTable(world.secret, b"d" * 32, RELAY_PORTS)
    world.perform(b, b.manager.woke(world.now, NIGHT_S))  # the other end has new grants
    world.run(0.1)
    a.control = False
    world.perform(a, a.manager.control_down(world.now))
    woke = world.now
    world.perform(a, a.manager.woke(woke, NIGHT_S))
    world.run(login_s)
    a.control = True
    world.perform(a, a.manager.control_up(world.now))
    world.run(60)
    opened = next(at for at, key in a.opened_to if at > woke)
    assert opened - woke < max(login_s, DEAD_AFTER) + 1.0


def test_a_request_that_was_due_without_the_mediator_is_made_when_it_is_back() -> None:
    """It has started anew, and the relay's secret is another."""
    world = pair(relayed=True)
    world.tls_up = False
    a, b = world.hosts
    world.lose_mediator()
    world.secret = bytes(32)
    world.relay = RelayTable(world.secret, b"d" * 32, RELAY_PORTS)
    world.run(45)
    assert a.manager.status()[b.key].kind == "none"
    world.restore_mediator()
    world.run(2)
    assert a.manager.status()[b.key].kind == "relay-udp"


def data_again(world: World, *, pings: bool = True, cut: bool = True) -> float:
    """Seconds from the wake of a, without sessions, until data of it arrives; with `pings` it sends at once.

    `cut`: the path that was there before is dead.
    """
    a, b = world.hosts
    if cut:
        world.cut.add(frozenset((HOME, OFFICE)))
    world.lose_sessions(a)
    woke = world.now
    if pings:
        world.stream(a, b, every=0.05, until=woke + 30)
    world.run(0.03)  # programs run before the agent looks around
    world.perform(a, a.manager.woke(world.now, SLEPT_S))
    world.run(30)
    return min((at for at, *_ in b.heard if at > woke), default=float("inf")) - woke


def test_a_handshake_that_was_lost_at_the_wake_is_begun_anew_on_the_living_path() -> None:
    """A program sends before the agent runs: its packet begins a handshake on a path that is dead by now."""
    world = pair()
    a, b = world.hosts
    assert data_again(world) < 1.5 < REKEY_TIMEOUT_S
    assert a.renewed == [b.key]


def test_a_handshake_that_is_answered_is_not_begun_anew() -> None:
    world = pair()
    a, _ = world.hosts
    assert data_again(world, cut=False) < 0.1
    assert a.renewed == []


@pytest.mark.parametrize("seed", range(20))
def test_a_handshake_that_loses_its_messages_is_begun_anew(seed: int) -> None:
    world = pair()
    world.random.seed(seed)
    world.loss = 0.1
    assert data_again(world) < REKEY_TIMEOUT_S


def test_a_host_on_which_nobody_sends_opens_its_tunnel_once() -> None:
    world = pair()
    a, b = world.hosts
    data_again(world, pings=False)
    assert b.key not in a.lost
    assert a.renewed == []
    assert [key for _, key in a.opened_to] == [b.key]


def test_an_engine_whose_handshakes_are_not_answered_is_left_alone_after_a_few() -> None:
    world = pair()
    a, b = world.hosts
    b.deaf_to_handshakes = True
    data_again(world, cut=False)
    assert a.renewed == [b.key] * OPEN_ANEW
    b.deaf_to_handshakes = False
    world.run(REKEY_TIMEOUT_S)
    assert b.key not in a.lost, "WireGuard goes on by itself"


@pytest.mark.parametrize("phase", range(5))
def test_after_an_outage_that_outlasts_a_session_the_first_path_carries_at_once(phase: int) -> None:
    """Both ends send all the time, so each engine begins a handshake every five seconds, in vain."""
    world = pair()
    world.tls_up = False
    a, b = world.hosts
    for one, other in ((a, b), (b, a)):
        one.handshakes[other.key] = UNIX_EPOCH + world.now
        world.stream(one, other, every=0.1, until=world.now + 400)
    world.run(10)
    a.on = False
    world.run(190)
    for host in (a, b):  # too old, the one earlier than the other
        world.lose_sessions(host)
        world.run(1.7)
    world.run(20 + phase)
    assert a.manager.status()[b.key].kind == "none"
    a.on = True
    world.perform(a, a.manager.ways_changed(world.now))
    world.run(30)
    back = next(at for at, kind in a.changes if kind != "none" and at > world.now - 30)
    assert min(at for at, *_ in b.heard if at > back) - back < 1.0
    assert len(a.renewed) + len(b.renewed) <= 1


@pytest.mark.parametrize("seed", range(5))
def test_two_hosts_that_wake_at_once_do_not_keep_each_other_from_it(seed: int) -> None:
    """Initiations that cross make each other void."""
    world = pair()
    world.random.seed(seed)
    a, b = world.hosts
    world.cut.add(frozenset((HOME, OFFICE)))
    for host in (a, b):
        world.lose_sessions(host)
    woke = world.now
    world.stream(b, a, every=0.05, until=woke + 30)
    world.at(woke + 0.03, lambda: world.perform(b, b.manager.woke(world.now, SLEPT_S)))
    assert data_again(world) < 2.0
