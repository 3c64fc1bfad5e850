"""The size of packets that a path carries is tried out where a hop drops what is too large and says nothing."""

from __future__ import annotations

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths.constants import MTU_CONFIRM, MTU_RAISE
from netctl.paths.effects import SendDatagram
from tests.support.pathsim import Host, World

HOME, OFFICE = "203.0.113.1", "192.0.2.1"
TUNNEL = 1420
OUTSIDE = 28
"""IPv4 and UDP."""


class Narrow(World):
    """An internet with one hop that drops silently what is larger than `hop` bytes."""

    hop = 1500

    def __init__(self) -> None:
        super().__init__()
        self.padded = 0

    def _internet(self, source: SocketAddress, destination: SocketAddress, data: bytes) -> None:
        self.padded += len(data) > 200
        if len(data) + OUTSIDE <= self.hop:
            super()._internet(source, destination, data)


def pair(hop: int = 1500, *, mtu: int = TUNNEL, settle_s: float = 6.0) -> tuple[Narrow, Host, Host]:
    world = Narrow()
    world.hop = hop
    a = world.host("a", "192.168.1.10", world.nat(HOME))
    b = world.host("b", "10.0.0.10", world.nat(OFFICE))
    for host in (a, b):
        world.perform(host, host.manager.set_mtu(mtu, world.now))
    world.start()
    world.run(settle_s)
    assert a.manager.status()[b.key].kind == b.manager.status()[a.key].kind == "direct"
    return world, a, b


def limits(a: Host, b: Host) -> tuple[int | None, int | None]:
    return a.limits.get(b.key), b.limits.get(a.key)


@pytest.mark.parametrize(
    ("hop", "fits"), [(1400, 1328), (1300, 1232), (1280, 1216), (1480, None), (1500, None)]
)
def test_both_ends_learn_what_passes(hop: int, fits: int | None) -> None:
    _, a, b = pair(hop)
    assert limits(a, b) == (fits, fits)
    assert a.manager.status()[b.key].mtu == fits


def test_the_full_size_costs_one_ping_and_an_idle_path_no_more() -> None:
    world, _, _ = pair()
    assert world.padded <= 4  # the peer's word that it answers may come behind the choice
    before = world.padded
    world.run(900)
    assert world.padded == before


def test_a_way_that_becomes_narrow_is_noticed_while_packets_flow() -> None:
    world, a, b = pair()
    world.stream(a, b, every=0.5, until=world.now + 1000)
    world.stream(b, a, every=0.5, until=world.now + 1000)
    world.run(5)
    world.hop = 1400
    world.run(MTU_CONFIRM + 5)
    assert limits(a, b) == (1328, 1328)
    world.hop = 1500
    world.run(MTU_RAISE + 5)
    assert limits(a, b) == (None, None)


def test_a_stall_is_a_reason_to_ask_at_once() -> None:
    """What an upload is where full packets vanish: they go out, and no acknowledgement comes back."""
    world, a, b = pair()
    world.hop = 1400
    world.stream(a, b, every=0.5, until=world.now + 20)
    world.run(12)
    assert limits(a, b)[0] == 1328


def test_a_doubt_right_after_the_choice_is_not_forgotten() -> None:
    """The size was asked seconds ago and passed. Then TCP sends less and less, and the peer answers with small packets:
    nothing doubts any more."""
    world, a, b = pair(settle_s=1.5)
    world.hop = 1400
    world.stream(a, b, every=0.3, until=world.now + 2)
    world.run(9)
    assert limits(a, b)[0] == 1328


def test_a_peer_that_answers_no_padded_ping_limits_nothing() -> None:
    world, a, b = pair(hop=200)
    assert limits(a, b) == (None, None)
    assert a.manager.status()[b.key].kind == "direct"
    assert world.padded


def test_loss_is_no_narrow_way() -> None:
    for seed in range(5):
        world, a, b = pair()
        world.random.seed(seed)
        world.loss = 0.1
        world.stream(a, b, every=0.5, until=world.now + 300)
        world.stream(b, a, every=0.5, until=world.now + 300)
        world.run(300)
        assert {limit for limit in limits(a, b) if limit is not None} <= {1408}, seed


def test_padded_pings_go_whole() -> None:
    world, a, b = pair()
    sent = [e for e in a.manager.set_mtu(1400, world.now) if isinstance(e, SendDatagram)]
    assert [(len(ping.data), ping.whole) for ping in sent] == [(1432, True)]
    assert b.limits.get(a.key) is None
