"""What fails is counted and said now and then, and nothing of a stranger's text reaches a terminal raw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.model.printable import _UNFIT, printable, printable_lines
from netctl.system.guard import MAX_KINDS, SAY_EVERY_S, Guard


class Log:
    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.guard = Guard(self.lines.append, lambda: self.now)


def fail(error: Exception) -> None:
    raise error


def test_a_fault_is_counted_and_said_once_in_a_while() -> None:
    log = Log()
    for _ in range(1000):
        assert not log.guard.run("a datagram", fail, ValueError("port 0"))
    assert log.guard.dropped == 1000
    assert len(log.lines) == 1
    assert log.lines[0].startswith("a datagram was dropped (ValueError at test_guard.py:")
    log.now += SAY_EVERY_S
    log.guard.run("a datagram", fail, ValueError("port 0"))
    assert len(log.lines) == 2
    assert "999 more" in log.lines[1]


def test_each_kind_has_a_line_of_its_own_and_they_do_not_pile_up() -> None:
    log = Log()
    log.guard.run("a datagram", fail, ValueError())
    log.guard.run("a datagram", fail, KeyError())
    log.guard.run("a frame", fail, KeyError())
    assert len(log.lines) == 3
    for number in range(10 * MAX_KINDS):
        log.guard.run(f"place {number}", fail, KeyError())
        assert len(log.guard._said) <= MAX_KINDS


def test_what_works_is_let_through_and_what_ends_the_process_too() -> None:
    log, seen = Log(), list[int]()
    assert log.guard.run("a datagram", seen.append, 1)
    log.guard.over("a datagram", seen.append)(2)
    assert (seen, log.guard.dropped) == ([1, 2], 0)
    with pytest.raises(SystemExit):
        log.guard.run("a datagram", fail, SystemExit(3))


@given(st.text())
def test_no_control_character_comes_through(text: str) -> None:
    shown = printable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert shown.splitlines() in ([shown], [])
    assert "\u202e" not in shown
    assert printable(shown) == shown
    shown.encode()


@given(st.text())
def test_a_whole_text_keeps_its_lines_alone(text: str) -> None:
    shown = printable_lines(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in shown)
    assert shown.count("\n") == text.count("\n")


def test_a_fault_says_what_was_received_escaped() -> None:
    log = Log()
    log.guard.run("a frame", fail, ValueError("\x1b]0;owned\x07 \u202e"))
    assert r"\x1b]0;owned\x07 \u202e" in log.lines[0]


def test_no_unfit_character_is_printable() -> None:
    """Printable text is shown as it is, without a search for unfit characters."""
    unfit = [chr(code) for code in range(0x110000) if printable(f"a{chr(code)}") != f"a{chr(code)}"]
    assert len(unfit) > 2048
    assert not any(character.isprintable() for character in unfit)
    assert {found for found in map(chr, range(0x110000)) if _UNFIT.match(found)} == set(unfit)
