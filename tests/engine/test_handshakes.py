"""Last handshakes while the wall clock steps under them."""

from __future__ import annotations

import pytest

from netctl.engine.wireguard.handshakes import Handshakes
from netctl.model.hoststate import is_session
from netctl.model.keys import WireGuardKey

A, B = WireGuardKey(b"a" * 32), WireGuardKey(b"b" * 32)
WALL, BOOT = 1_800_000_000.0, 5_000.0


@pytest.mark.parametrize("step", [600.0, 86_400.0, -7_200.0, -86_400.0])
def test_a_step_of_the_clock_ages_no_handshake_and_makes_none_of_the_future(step: float) -> None:
    handshakes = Handshakes()
    assert handshakes.settled({A: WALL - 30, B: 0.0}, WALL, BOOT) == {A: WALL - 30, B: 0.0}
    for passed in (1.0, 20.0):
        now = WALL + step + passed
        found = handshakes.settled({A: WALL - 30, B: 0.0}, now, BOOT + passed)
        assert now - found[A] == pytest.approx(30 + passed)
        assert is_session(found[A], now)
        assert found[B] == 0.0
    now = WALL + step + 300
    assert not is_session(handshakes.settled({A: WALL - 30}, now, BOOT + 300)[A], now), "it ages as ever"


@pytest.mark.parametrize("step", [600.0, -7_200.0])
def test_a_handshake_just_before_the_step_is_no_older_than_the_look_before(step: float) -> None:
    handshakes = Handshakes()
    handshakes.settled({A: 0.0}, WALL, BOOT)
    now = WALL + step + 1
    found = handshakes.settled({A: WALL + 0.5}, now, BOOT + 1)
    assert 0 <= now - found[A] <= 1
    found = handshakes.settled({A: now + 0.2}, now + 1, BOOT + 2)  # by the new clock
    assert now + 1 - found[A] == pytest.approx(0.8)


def test_the_first_look_believes_the_clock_but_for_the_future() -> None:
    assert Handshakes().settled({A: WALL - 500, B: WALL + 7_176}, WALL, BOOT) == {A: WALL - 500, B: WALL}
