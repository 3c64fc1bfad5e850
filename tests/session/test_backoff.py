"""How long a member waits before it tries again."""

from __future__ import annotations

from netctl.session.backoff import BASE_S, CAP_S, MOVE_S, Backoff


def test_delays_grow_up_to_a_cap_and_begin_anew_after_a_success() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay(0.999) for _ in range(10)]
    assert delays == sorted(delays)
    assert delays[0] < BASE_S
    assert CAP_S * 0.99 < delays[-1] < CAP_S
    assert backoff.next_delay(0.0) == 0.0
    backoff.reset()
    assert backoff.next_delay(0.999) == delays[0]


def test_whoever_alone_lost_its_mediator_returns_as_fast_as_in_a_small_network() -> None:
    backoff = Backoff()
    backoff.spread(1_000_000)
    backoff.spread(0)
    assert backoff.next_delay(1.0) == BASE_S


def test_another_mediator_is_tried_within_a_second_and_a_second_failure_counts_as_such() -> None:
    backoff = Backoff()
    assert backoff.next_delay(0.999, elsewhere=True) < MOVE_S
    assert backoff.next_delay(0.999, elsewhere=True) > BASE_S
