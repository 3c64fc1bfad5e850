"""A direct path that answers probes and drops WireGuard's packets is left, and only such a one."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths.constants import HANDSHAKE_OVERDUE, KEEPALIVE_WAIT, REKEY_AFTER
from netctl.paths.datawatch import NO_DATA, NO_HANDSHAKES, DataState, DataWatch
from netctl.wire.datagram import DatagramKind, classify
from tests.support.pathsim import Host, World

HOME, OFFICE = "203.0.113.1", "192.0.2.1"


class Boxes(World):
    """An internet with boxes in it that drop what they take for a VPN."""

    def __init__(self) -> None:
        super().__init__()
        self.drops: Callable[[SocketAddress, SocketAddress], bool] = lambda *_: False
        """By source and destination: whether data is dropped there."""

    def _internet(self, source: SocketAddress, destination: SocketAddress, data: bytes) -> None:
        if not (classify(data) is DatagramKind.WIREGUARD and self.drops(source, destination)):
            super()._internet(source, destination, data)


def pair() -> tuple[Boxes, Host, Host]:
    world = Boxes()
    a = world.host("a", "192.168.1.10", world.nat(HOME))
    b = world.host("b", "10.0.0.10", world.nat(OFFICE))
    world.start()
    world.run(3)
    assert kinds(a, b) == ["direct", "direct"]
    return world, a, b


def kinds(a: Host, b: Host) -> list[str]:
    return [a.manager.status()[b.key].kind, b.manager.status()[a.key].kind]


def both_ways(world: World, seconds: float) -> None:
    a, b = world.hosts
    world.stream(a, b, every=0.2, until=world.now + seconds)
    world.stream(b, a, every=0.2, until=world.now + seconds)


def between(*ends: str) -> Callable[[SocketAddress, SocketAddress], bool]:
    return lambda source, destination: {source.host, destination.host} == set(ends)


@pytest.mark.parametrize("direction", ["both", "to-b", "to-a"])
def test_the_relay_carries_within_five_seconds_and_both_say_why(direction: str) -> None:
    world, a, b = pair()
    ends = {"to-b": (HOME, OFFICE), "to-a": (OFFICE, HOME)}.get(direction)
    both_ways(world, 30)
    world.run(5)
    world.drops = between(HOME, OFFICE) if ends is None else lambda s, d: (s.host, d.host) == ends
    cut = world.now
    world.run(8)
    assert kinds(a, b) == ["relay-udp", "relay-udp"]
    for host, other in ((a, b), (b, a)):
        times = [at for at, _, _ in host.heard if at > cut - 1]
        assert max(later - sooner for sooner, later in itertools.pairwise(times)) <= 5.0
        status = host.manager.status()[other.key]
        assert status.blocker is not None
        assert "do not arrive" in status.blocker
        assert any("do not arrive" in line for line in status.tried)


def test_the_path_is_tried_again_and_taken_once_it_carries() -> None:
    world, a, b = pair()
    both_ways(world, 1500)
    world.drops = between(HOME, OFFICE)
    world.run(300)
    assert kinds(a, b) == ["relay-udp", "relay-udp"]
    lost = 300 / 0.2 - len([1 for at, _, _ in a.heard if at > world.now - 300])
    assert lost * 0.2 < 12  # the first time, and each try that it was given again
    world.drops = lambda *_: False
    world.run(1200)
    assert kinds(a, b) == ["direct", "direct"]
    assert a.manager.status()[b.key].blocker is None


def test_a_stream_that_nobody_answers_stays_direct() -> None:
    world, a, b = pair()
    world.stream(a, b, every=0.1, until=world.now + 120)
    world.run(121)
    assert kinds(a, b) == ["direct", "direct"]
    assert [kind for _, kind in a.changes][-1:] == ["direct"]


def test_a_lossy_stream_that_nobody_answers_stays_direct() -> None:
    world, a, b = pair()
    world.loss = 0.1
    world.stream(a, b, every=0.1, until=world.now + 600)
    world.run(601)
    assert not [line for line in a.manager.status()[b.key].tried if "do not arrive" in line]


def test_a_peer_that_knows_of_no_question_is_not_judged() -> None:
    watch = DataWatch()
    watch.observe(0, 0, 0.0, 0.0)
    watch.observe(0, 100, 0.0, 1.0)
    watch.observe(0, 200, 0.0, 2.0)
    assert watch.doubted
    for at in (2.1, 2.5, 2.9):
        watch.answered(False, at)
    assert watch.state is DataState.RESTING
    assert watch.verdict(10.0) is None


def test_an_idle_pair_sends_nothing_more() -> None:
    world, _, _ = pair()
    world.run(70)  # the relay is let go
    before = world.sent
    world.run(60)
    assert world.sent - before <= 30


def test_a_keepalive_is_waited_for() -> None:
    watch = DataWatch()
    watch.observe(0, 0, 0.0, 0.0)
    watch.observe(92, 228, 0.0, 1.0)  # a handshake, and one packet behind it
    watch.observe(92, 228, 0.0, 11.0)
    assert not watch.doubted
    watch.observe(92, 228, 0.0, 1.0 + KEEPALIVE_WAIT)
    assert watch.doubted


def test_what_a_handshake_brings_is_no_data() -> None:
    watch = DataWatch()
    watch.observe(0, 0, 0.0, 0.0)
    for second in range(1, 5):
        watch.observe(92 * second, 240 * second, 0.0, float(second))
    assert watch.doubted
    for at in (5.0, 5.4, 5.8):
        watch.answered(True, at)
    assert watch.verdict(5.9) is None
    assert watch.verdict(6.1) == NO_DATA


@pytest.mark.parametrize("length", [32, 64])
def test_a_keepalive_of_ours_needs_no_answer(length: int) -> None:
    """Nor two: one that meets an old key, and the new handshake's."""
    watch = DataWatch()
    watch.observe(0, 0, 0.0, 0.0)
    for second in range(1, 60):
        watch.observe(0, length * (second // 10), 0.0, float(second))
    assert watch.state is DataState.TRUSTED


def test_handshakes_that_do_not_pass_are_noticed_before_the_session_ends() -> None:
    watch = DataWatch()
    found = None
    for second in range(200):
        watch.observe(128 * second, 128 * second, 1000.0, float(second))
        if (found := watch.verdict(float(second))) is not None:
            break
    assert found == NO_HANDSHAKES
    assert REKEY_AFTER < second <= REKEY_AFTER + HANDSHAKE_OVERDUE + 1 < 180


def test_a_session_that_is_renewed_in_time_is_none_of_these() -> None:
    watch = DataWatch()
    for second in range(1000):
        watch.observe(128 * second, 128 * second, 1000.0 + 121 * (second // 121), float(second))
        assert watch.verdict(float(second)) is None


def test_traffic_after_a_rest_has_time_for_its_handshake() -> None:
    watch = DataWatch()
    watch.observe(0, 0, 1000.0, 0.0)
    for second in range(170, 180):
        watch.observe(128 * second, 128 * second, 1000.0, float(second))
        assert watch.verdict(float(second)) is None
