"""Two clocks tell whether a host was suspended, or only its process stopped."""

from __future__ import annotations

from netctl.agent.transport.standstill import Standstill
from netctl.system.clockalarm import ClockAlarm


def test_a_host_that_runs_has_not_stood_still() -> None:
    found = Standstill(1000.0, 400.0)
    for second in range(1, 100):
        assert found.rested(1000.0 + second, 400.0 + second, 1.0) == 0.0
        found.rests(1000.0 + second)


def test_a_suspend_is_told_once_however_short_and_however_long_the_rest_was_to_be() -> None:
    found = Standstill(1000.0, 400.0)
    assert found.rested(1002.5, 400.5, 10.0) == 2.0
    assert found.suspended_s == 2.0
    found.rests(1002.5)
    assert found.rested(1003.5, 401.5, 1.0) == 0.0
    assert found.suspended_s == 0.0


def test_a_suspend_between_two_rests_is_told_too() -> None:
    """While the engine is read, for example."""
    found = Standstill(1000.0, 400.0)
    found.rests(1200.0)
    assert found.rested(1201.0, 402.0, 1.0) == 199.0


def test_a_stopped_process_is_told_by_how_late_it_is() -> None:
    found = Standstill(1000.0, 400.0)
    assert found.rested(1005.9, 405.9, 1.0) == 0.0
    found.rests(1005.9)
    assert found.rested(1018.9, 418.9, 1.0) == 12.0
    assert found.suspended_s == 0.0, "the monotonic clock went on meanwhile"


def test_a_clock_that_nobody_sets_gives_no_alarm() -> None:
    alarm = ClockAlarm()
    try:
        assert alarm.fileno() >= 0
        assert not alarm.acknowledge()
    finally:
        alarm.close()
