"""A peer is introduced before this host has set it up: the first round is not lost."""

from __future__ import annotations

import pytest

from netctl.model.keys import WireGuardKey
from netctl.paths.constants import EARLY_FOR, EARLY_KEPT
from netctl.paths.pendingintroductions import EarlyIntroductions
from netctl.wire.control import Candidate, Introduction
from tests.support.pathsim import STUN, World

KEYS = [WireGuardKey(number.to_bytes(32, "big")) for number in range(EARLY_KEPT + 1)]


def introduction(key: WireGuardKey, round_: int = 1) -> Introduction:
    return Introduction(str(key), round_, [])


def test_the_last_one_is_kept_and_given_once() -> None:
    early = EarlyIntroductions()
    early.put(KEYS[0], introduction(KEYS[0], 1), 0.0)
    early.put(KEYS[0], introduction(KEYS[0], 2), 1.0)
    assert early.take(KEYS[1], 1.0) is None
    assert early.take(KEYS[0], 1.0 + EARLY_FOR) == introduction(KEYS[0], 2)
    assert early.take(KEYS[0], 1.0) is None


def test_old_ones_are_none_and_many_push_out_the_oldest() -> None:
    early = EarlyIntroductions()
    early.put(KEYS[0], introduction(KEYS[0]), 0.0)
    assert early.take(KEYS[0], EARLY_FOR + 0.1) is None
    for key in KEYS:
        early.put(key, introduction(key), 0.0)
    assert early.take(KEYS[0], 0.0) is None
    assert early.take(KEYS[1], 0.0) is not None
    assert early.take(KEYS[-1], 0.0) is not None
    early.put(KEYS[0], introduction(KEYS[0]), 0.0)
    early.clear()
    assert early.take(KEYS[0], 0.0) is None


@pytest.mark.parametrize("late", [0.005, 0.03, 0.2, 1.0])
def test_a_peer_that_is_set_up_later_is_direct_in_its_first_round(late: float) -> None:
    world = World(3)
    one = world.host("one", "10.0.0.2", world.nat("203.0.113.1", accepts=True))
    two = world.host("two", "10.0.1.2", world.nat("203.0.113.2", accepts=True))
    world.start_one(one)
    world.run(2.0)
    world.perform(two, two.manager.set_local([Candidate("host", str(two.address))], world.now))
    two.control = True
    world.perform(two, two.manager.control_up(world.now))
    world.perform(one, one.manager.peer_online(two.key, True, world.now))
    world.run(0.05 + late)
    world.perform(two, two.manager.set_stun(STUN, world.now))  # its offer waits for the answers
    world.perform(two, two.manager.set_peers([one.key], world.now))
    world.perform(two, two.manager.peer_online(one.key, True, world.now))
    world.run(0.4)
    for host, other in ((one, two), (two, one)):
        assert host.manager.status()[other.key].kind == "direct"
