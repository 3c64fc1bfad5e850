"""One key on two hosts (a cloned disk): the one that is here stays, and a host that only comes back is no clone."""

from __future__ import annotations

from pathlib import Path

from mediator.core import duplicates as d
from mediator.core.logins import DUPLICATE
from netctl.session.login import make_login
from netctl.wire import control as w
from tests.mediator.test_hub import NONCE, PIN, SOURCE, Shell, document, identity, key, private
from tests.support.work import lines_run


def ping(shell: Shell, number: int) -> w.Ping:
    found = [message for message in shell.sent[number] if isinstance(message, w.Ping)][-1]
    assert isinstance(found, w.Ping)
    return found


def login(shell: Shell, number: int, name: str, now: float, previous: str = "") -> None:
    nonce = shell.connect(number, now)
    made = make_login(PIN, nonce, NONCE, identity(name), key(name), private(name).sign)
    shell.give(
        number,
        w.Login(made.version, made.identity, made.wireguard, made.nonce, made.signature, "", previous),
        now,
    )


def welcomed(shell: Shell, number: int) -> bool:
    return any(isinstance(message, w.Welcome) for message in shell.sent[number])


def test_a_clone_waits_and_the_host_that_was_here_keeps_its_session() -> None:
    shell = Shell()
    shell.login(1, "ann")
    shell.login(9, "bob")
    heard = len(shell.sent[9])
    for turn in range(3):
        now = 60.0 * turn
        login(shell, 10 + turn, "ann", now)
        assert not welcomed(shell, 10 + turn)
        shell.give(1, w.Pong(ping(shell, 1).id), now + 0.1)
        assert shell.dropped == {10 + n: DUPLICATE for n in range(turn + 1)}
        assert ping(shell, 1).other == SOURCE.host, "the host that stays is told where the other one is"
        (note,) = shell.hub.duplicates(now + 0.1)
        assert (note.key, note.refused, note.first_s) == (key("ann"), turn + 1, 0.1)
    assert shell.hub.is_online(key("ann"))
    assert len(shell.sent[9]) == heard, "nobody else is told anything: nothing has changed for them"
    assert shell.hub.duplicates(120.1 + d.NOTE_S) == [], "and it is forgotten"


def test_a_process_that_comes_back_is_let_in_at_once() -> None:
    shell = Shell()
    shell.login(1, "ann")
    login(shell, 2, "ann", 5.0, previous=(bytes([1]) * 32).hex())
    assert welcomed(shell, 2)
    assert shell.dropped == {1: "session.replaced"}
    assert shell.hub.duplicates(5.0) == []


def test_a_host_whose_older_connection_is_dead_is_let_in_after_two_seconds() -> None:
    shell = Shell()
    shell.login(1, "ann")
    login(shell, 2, "ann", 5.0, previous="77" * 32)
    due = shell.hub.next_timer()
    assert due == 5.0 + d.ANSWER_S
    shell.perform(shell.hub.handle_timer(due, 0))
    assert welcomed(shell, 2)
    assert shell.dropped == {1: "session.replaced"}
    assert shell.hub.is_online(key("ann"))
    assert shell.hub.duplicates(due) == []
    shell.perform(shell.hub.disconnected(1))
    assert shell.hub.is_online(key("ann"))


def test_it_is_let_in_as_soon_as_the_older_connection_ends() -> None:
    shell = Shell()
    shell.login(1, "ann")
    login(shell, 2, "ann", 5.0)
    login(shell, 3, "ann", 5.1)
    shell.perform(shell.hub.disconnected(1))
    due = shell.hub.next_timer()
    assert due is not None
    assert due <= 5.1
    shell.perform(shell.hub.handle_timer(5.2, 0))
    assert welcomed(shell, 2)
    assert not welcomed(shell, 3), "the next one waits for the word of this one"
    shell.give(2, w.Pong(ping(shell, 2).id), 5.3)
    assert shell.dropped == {3: DUPLICATE}


def test_an_answer_to_nothing_an_old_one_and_somebody_elses_prove_nothing() -> None:
    shell = Shell()
    shell.login(1, "ann")
    shell.login(9, "bob")
    login(shell, 2, "ann", 5.0)
    for number, pong in ((1, 0), (1, ping(shell, 1).id + 1), (9, ping(shell, 1).id)):
        shell.give(number, w.Pong(pong), 5.1)
    assert shell.dropped == {}


def test_who_waits_and_hangs_up_or_is_removed_meanwhile_is_not_let_in() -> None:
    shell = Shell()
    shell.login(1, "ann")
    login(shell, 2, "ann", 5.0)
    shell.perform(shell.hub.disconnected(2))
    shell.perform(shell.hub.handle_timer(5.0 + d.ANSWER_S, 0))
    assert not shell.hub.is_online(key("ann"))
    shell.login(3, "ann")
    login(shell, 4, "ann", 10.0)
    shell.load(document(absent=("ann",)))
    shell.perform(shell.hub.handle_timer(10.1, 0))
    assert shell.dropped[4].startswith("login.")


def test_who_waits_may_not_log_in_twice() -> None:
    shell = Shell()
    shell.login(1, "ann")
    login(shell, 2, "ann", 5.0)
    again = make_login(PIN, bytes([2]) * 32, NONCE, identity("ann"), key("ann"), private("ann").sign)
    shell.give(2, again, 5.1)
    assert shell.dropped == {2: "protocol.order"}


def test_an_end_costs_the_same_however_many_older_connections_are_asked() -> None:
    def work(count: int) -> int:
        asked = d.Duplicates()
        for number in range(count):
            asked.ask(key("ann"), number, 10_000 + number, 5.0)

        def ends() -> None:
            asked.ask(key("bob"), 5_000, 20_000, 5.0)
            asked.gone(20_000)
            asked.gone(5_000)
            assert asked.silent(5.0) == []
            assert asked.next_timer() == 5.0 + d.ANSWER_S

        return lines_run(ends, Path(d.__file__).parent)

    assert work(2_000) == work(20)
