"""When a name is looked up, and where a peer is called then."""

from __future__ import annotations

import pytest

from netctl.model.addresses import Endpoint, SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.node.lookups import (
    AGAIN_S,
    POKE_REST_S,
    RETRY_MAX_S,
    SILENT_S,
    UNANSWERED_S,
    Lookups,
)

KEY = WireGuardKey(bytes([1]) * 32)
NAME, OWN = Endpoint("vpn.example.net", 51820), Endpoint("me.example.net", 51820)
OLD, NEW, THIRD = (SocketAddress(f"192.0.2.{number}", 51820) for number in (1, 2, 3))
START = 1000.0


def followed() -> Lookups:
    names = Lookups()
    names.follow({NAME: frozenset({KEY})}, ())
    assert names.begin(START) == [NAME]
    return names


def known() -> Lookups:
    """The name is known, and the peer is heard."""
    names = followed()
    assert names.answered(NAME, (OLD,), START) == frozenset(), "the engine does not have the peer yet"
    hear(names, START, 1000)
    return names


def hear(names: Lookups, now: float, received: int, sent: int = 0, *, live: bool = True) -> None:
    status = PeerStatus(OLD, 1.0, received, sent)
    names.observe({KEY: status}, frozenset({KEY}) if live else frozenset(), now)


def due(names: Lookups, now: float) -> float | None:
    at = names.next_timer(now)
    return None if at is None else at - now


def test_while_nobody_answers_the_name_is_asked_again_with_a_back_off_that_ends() -> None:
    names, now, waits = followed(), START, []
    for _ in range(7):
        assert names.answered(NAME, (), now) is None
        wait = due(names, now)
        assert wait is not None
        waits.append(wait)
        assert names.begin(now + wait - 0.01) == []
        now += wait
        assert names.begin(now) == [NAME]
    assert waits == [1.0, 2.0, 4.0, 8.0, RETRY_MAX_S, RETRY_MAX_S, RETRY_MAX_S]
    assert names.resolved() == {}


def test_another_network_is_a_reason_to_ask_at_once_and_not_all_the_time() -> None:
    names = followed()
    for failures in range(5):
        assert names.answered(NAME, (), START + failures * 100) is None
        assert names.begin(START + (failures + 1) * 100) == [NAME]
    now = START + 500
    names.answered(NAME, (), now)
    names.network_changed()
    assert names.begin(now) == []
    assert names.begin(now + POKE_REST_S) == [NAME]


def test_nobody_asks_for_the_name_of_a_peer_that_is_heard() -> None:
    names = known()
    for second in range(0, 3600, 25):
        hear(names, START + second, 2000 + second)
        assert names.begin(START + second) == []
        assert due(names, START + second) is None


def test_a_silent_peer_is_looked_up_every_minute_and_called_where_its_name_leads() -> None:
    names = known()
    silent_at = START + SILENT_S
    hear(names, silent_at - 1, 1000)
    assert names.begin(silent_at - 1) == []
    now = silent_at
    hear(names, now, 1000)
    assert names.begin(now) == [NAME]
    assert names.answered(NAME, (OLD,), now) is None
    assert due(names, now) == AGAIN_S
    now += AGAIN_S
    assert names.begin(now) == [NAME]
    assert names.answered(NAME, (NEW,), now) == frozenset({KEY})
    assert names.resolved() == {str(NAME): NEW}


def test_a_peer_that_does_not_answer_packets_is_silent_sooner() -> None:
    names = known()
    now = START + 1000
    hear(names, now, 5000, sent=10_000)
    hear(names, now + 1, 5000, sent=20_000)
    hear(names, now + UNANSWERED_S, 5000, sent=30_000)
    assert names.begin(now + UNANSWERED_S) == []
    hear(names, now + 1 + UNANSWERED_S, 5000, sent=40_000)
    assert names.begin(now + 1 + UNANSWERED_S) == [NAME]


def test_keepalives_are_nothing_that_waits_for_an_answer() -> None:
    names = known()
    now = START + 1000
    hear(names, now, 5000, sent=10_000)
    hear(names, now + 1, 5000, sent=10_032)
    hear(names, now + 2 + UNANSWERED_S, 5000, sent=10_032)
    assert names.begin(now + 2 + UNANSWERED_S) == []


def test_a_peer_without_a_session_is_tried_at_each_of_its_addresses() -> None:
    names = followed()
    names.answered(NAME, (OLD, NEW, THIRD), START)
    called = []
    for minute in range(1, 4):
        now = START + minute * AGAIN_S
        hear(names, now, 0, live=False)
        assert names.begin(now) == [NAME]
        assert names.answered(NAME, (OLD, NEW, THIRD), now) == frozenset({KEY})
        called.append(names.resolved()[str(NAME)])
    assert called == [NEW, THIRD, OLD]


def test_a_name_of_many_addresses_moves_no_peer_that_has_a_session() -> None:
    names = known()
    now = START + 1000
    hear(names, now, 1000)
    assert names.begin(now) == [NAME]
    assert names.answered(NAME, (NEW, OLD), now) is None, "it is one of them still"


def test_what_a_name_said_is_kept_while_the_resolver_is_away() -> None:
    names = known()
    now = START + 1000
    hear(names, now, 1000)
    assert names.begin(now) == [NAME]
    assert names.answered(NAME, (), now) is None
    assert names.resolved() == {str(NAME): OLD}
    assert due(names, now) == 1.0


def test_this_hosts_own_name_is_looked_up_every_minute() -> None:
    names = Lookups()
    names.follow({}, [OWN])
    assert names.begin(START) == [OWN]
    assert names.answered(OWN, (OLD,), START) == frozenset()
    assert due(names, START) == AGAIN_S
    assert names.begin(START + AGAIN_S) == [OWN]
    assert names.answered(OWN, (OLD, NEW), START + AGAIN_S) is None
    assert names.begin(START + 2 * AGAIN_S) == [OWN]
    assert names.answered(OWN, (NEW,), START + 2 * AGAIN_S) == frozenset()


def test_names_of_a_document_that_is_only_planned_are_asked_once_each_time() -> None:
    names = Lookups()
    for turn in range(2):
        names.want([NAME])
        assert names.pending([NAME])
        assert names.begin(START + turn) == [NAME]
        assert names.pending([NAME])
        assert names.answered(NAME, (), START + turn) is None
        assert not names.pending([NAME])
        assert names.next_timer(START + turn) is None
    names.follow({}, ())
    assert names.answered(NAME, (OLD,), START) is None
    assert names.resolved() == {}


def test_nobody_waits_for_a_name_that_has_failed_and_is_tried_by_itself() -> None:
    names = followed()
    names.answered(NAME, (), START)
    names.want([NAME])
    assert not names.pending([NAME])


@pytest.mark.parametrize("state", ["new", "asking"])
def test_an_answer_that_nobody_has_asked_for_changes_nothing(state: str) -> None:
    names = Lookups()
    if state == "asking":
        names.follow({NAME: frozenset({KEY})}, ())
    assert names.answered(NAME, (OLD,), START) is None
    assert names.resolved() == {}
