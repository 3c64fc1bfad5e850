"""One member that asks too much harms itself alone, and is told."""

from __future__ import annotations

import pytest

from mediator.core import pace
from netctl.model.keys import WireGuardKey
from netctl.wire import control as w
from tests.mediator.test_hub import Shell, key


def test_a_key_that_logs_in_without_end_is_kept_out_alone_and_told_why() -> None:
    shell = Shell()
    for number in range(pace.LOGINS_BURST):
        shell.login(number, "ann")
        assert number not in shell.dropped
    shell.login(200, "ann")
    assert shell.dropped[200] == "session.too-often"
    assert shell.hub.is_online(key("ann")), "who is in stays in"
    assert [(item.key, item.refused) for item in shell.hub.pace.slowed()] == [(key("ann"), 1)]
    shell.login(201, "bob")
    assert 201 not in shell.dropped
    shell.login(202, "ann", now=1 / pace.LOGINS_PER_S)
    assert 202 not in shell.dropped
    assert shell.hub.pace.slowed() == []


def test_it_is_forgiven_on_demand() -> None:
    shell = Shell()
    for number in range(pace.LOGINS_BURST + 1):
        shell.login(number, "ann")
    assert shell.hub.pace.forgive(key("ann"))
    assert not shell.hub.pace.forgive(key("ann"))
    shell.login(200, "ann")
    assert 200 not in shell.dropped


def test_who_only_knows_the_key_uses_nothing_up() -> None:
    shell = Shell()
    for number in range(2 * pace.LOGINS_BURST):
        shell.connect(number)
        shell.give(number, w.Login(1, "ed25519:" + "A" * 43 + "=", str(key("ann")), "00" * 32, "00" * 64))
        assert shell.dropped[number].startswith("login.")
    shell.login(200, "ann")
    assert 200 not in shell.dropped


@pytest.mark.parametrize(
    ("message", "burst", "per_s"),
    [
        (w.Refresh(), pace.REFRESHES_BURST, pace.REFRESHES_PER_S),
        (w.Ping(1), pace.QUESTIONS_BURST, pace.QUESTIONS_PER_S),
    ],
    ids=["refresh", "ping"],
)
def test_a_member_that_floods_is_dropped(message: w.Message, burst: int, per_s: float) -> None:
    shell = Shell()
    shell.login(1, "ann")
    for _ in range(burst):
        shell.give(1, message)
    shell.give(1, message, now=1 / per_s)
    assert 1 not in shell.dropped
    shell.give(1, message, now=1 / per_s)
    assert shell.dropped[1] == "session.flood"
    shell.login(2, "ann", now=1.0)
    assert 2 not in shell.dropped


def test_memory_is_bounded() -> None:
    paced = pace.Pace()
    many = pace.MAX_PACED + 5
    keys = [WireGuardKey(number.to_bytes(32, "big")) for number in range(many)]
    for one in keys:
        paced.login(one, 0.0)
    assert len(paced._buckets) <= pace.MAX_PACED
