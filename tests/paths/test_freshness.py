"""Pings are taken once and while they are new, over restarts, wrong clocks and members of an older kind."""

from __future__ import annotations

import random

from netctl.paths import constants as c
from netctl.paths.freshness import Freshness, Numbers
from netctl.wire.probe import MAX_NUMBER, Probe, ProbeType

CHANCE = random.Random(13)
UNIX_S = 1.8e9
WELL_LATER = c.NUMBERS_FORGOTTEN + c.INTRODUCED_LATELY


def ping(number: int | None) -> Probe:
    return Probe(ProbeType.PING, CHANCE.randbytes(8), number=number)


def numbered(numbers: Numbers, now: float) -> Probe:
    return ping(numbers.following(now))


def test_numbers_grow_within_a_life_and_over_a_restart() -> None:
    life = Numbers(UNIX_S - 100)
    given = [life.following(now) for now in (100.0, 100.0, 100.0, 99.0, 200.0)]
    assert given == sorted(set(given))
    after_a_reboot = Numbers(UNIX_S + 150)  # the monotonic clock begins anew
    assert after_a_reboot.following(1.0) > given[-1]
    assert 0 < Numbers(-1e12).following(0.0) < MAX_NUMBER
    assert Numbers(1e30).following(0.0) == MAX_NUMBER


def test_each_is_taken_once_in_any_order() -> None:
    numbers, fresh = Numbers(UNIX_S), Freshness()
    sent = [numbered(numbers, i * 0.01) for i in range(c.SEEN_PINGS)]
    CHANCE.shuffle(sent)
    assert all(fresh.takes(message, 3.0, from_peer=False) for message in sent)
    assert not any(fresh.takes(message, 3.0, from_peer=False) for message in sent)


def test_what_is_remembered_is_bounded_and_what_is_forgotten_is_old() -> None:
    numbers, fresh = Numbers(UNIX_S), Freshness()
    sent = [numbered(numbers, 1.0) for _ in range(3 * c.SEEN_PINGS)]
    assert all(fresh.takes(message, 1.0, from_peer=False) for message in sent)
    assert not any(fresh.takes(message, 1.0, from_peer=True) for message in sent)


def test_a_recorded_one_is_old_ten_seconds_later_and_after_any_restart_of_the_peer() -> None:
    first, fresh = Numbers(UNIX_S), Freshness()
    late, recorded = numbered(first, 5.0), numbered(first, 5.0)
    assert fresh.takes(numbered(first, 14.0), 14.0, from_peer=False)
    assert fresh.takes(late, 14.0, from_peer=False)
    assert fresh.takes(numbered(Numbers(UNIX_S + 16), 0.0), 16.0, from_peer=False)
    assert not fresh.takes(recorded, 16.0, from_peer=False)


def test_one_to_whom_the_mediator_speaks_of_the_peer_is_no_easier_to_deceive_while_it_lives() -> None:
    numbers, fresh = Numbers(UNIX_S), Freshness()
    recorded = numbered(numbers, 0.0)
    for second in range(100, 400, 10):
        fresh.introduced(second)
        assert fresh.takes(numbered(numbers, second), second, from_peer=False)
        assert not fresh.takes(recorded, second + 9.0, from_peer=True)


def test_a_clock_that_went_back_locks_out_for_half_a_minute() -> None:
    fresh, back = Freshness(), Numbers(UNIX_S - 1e6)
    assert fresh.takes(numbered(Numbers(UNIX_S), 0.0), 0.0, from_peer=False)
    assert not fresh.takes(numbered(back, 10.0), 10.0, from_peer=True)
    soon = c.NUMBERS_FORGOTTEN
    assert not fresh.takes(numbered(back, soon), soon, from_peer=False), "anybody may have recorded it"
    assert fresh.takes(numbered(back, soon), soon, from_peer=True)
    assert fresh.takes(numbered(back, soon + 1), soon + 1, from_peer=False)


def test_or_until_the_mediator_speaks_of_the_peer() -> None:
    fresh, back = Freshness(), Numbers(UNIX_S - 1e6)
    assert fresh.takes(numbered(Numbers(UNIX_S), 0.0), 0.0, from_peer=False)
    assert not fresh.takes(numbered(back, WELL_LATER), WELL_LATER, from_peer=False)
    fresh.introduced(WELL_LATER)
    assert fresh.takes(numbered(back, WELL_LATER), WELL_LATER, from_peer=False)


def test_a_member_that_knows_no_numbers_is_heard_until_it_does_and_again_when_it_went_back() -> None:
    numbers, fresh, old = Numbers(UNIX_S), Freshness(), ping(None)
    assert fresh.takes(old, 0.0, from_peer=False)
    assert not fresh.takes(old, 0.0, from_peer=False)
    assert fresh.takes(numbered(numbers, 1.0), 1.0, from_peer=False)
    assert not fresh.takes(ping(None), 2.0, from_peer=True)
    assert fresh.takes(ping(None), 1.0 + c.NUMBERS_FORGOTTEN, from_peer=True)
    assert fresh.takes(ping(None), 2.0 + c.NUMBERS_FORGOTTEN, from_peer=False)
    assert fresh.takes(numbered(numbers, 90.0), 90.0, from_peer=False)


def test_transactions_are_remembered_and_no_more_than_so_many() -> None:
    fresh = Freshness()
    sent = [ping(None) for _ in range(2 * c.SEEN_PINGS)]
    assert all(fresh.takes(message, 0.0, from_peer=False) for message in sent)
    assert not any(fresh.takes(message, 0.0, from_peer=False) for message in sent[-c.SEEN_PINGS :])
    assert fresh.takes(sent[0], 0.0, from_peer=False)
