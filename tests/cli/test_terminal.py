"""What others wrote reaches a terminal as text: no escape sequence, no line of its own in a table, no reordering."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable

import pytest

from netctl.cli import output

HOSTILE = "nas\x1b[2J\x1b]0;title\x07\x9b1m\r\u202eerror: none\u2028x\x00"
SHOWN = r"nas\x1b[2J\x1b]0;title\x07\x9b1m\x0d\u202eerror: none\u2028x\x00"
UNFIT = {"\x1b", "\x07", "\x9b", "\r", "\x00", "\u202e", "\u2028"}
WAYS: dict[str, Callable[[str], None]] = {
    "line": output.line,
    "error": output.error,
    "warning": output.warning,
    "note": output.note,
    "progress": output.progress,
    "change": lambda text: output.change(f"+ {text}"),
    "check": lambda text: output.check(False, text),
    "verdict": lambda text: output.verdict(True, text),
    "redraw": lambda text: output.redraw([text], 0),
    "cell": lambda text: output.table(text, ("host",), [(text,)]),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_that_a_terminal_obeys_gets_through(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    WAYS[way](HOSTILE)
    said = capsys.readouterr()
    assert SHOWN in said.out + said.err
    assert not UNFIT & set(said.out + said.err)


class Flushed(io.StringIO):
    """Counts what would be system calls."""

    count = 0

    def flush(self) -> None:
        self.count += 1


def test_a_table_of_thousands_is_three_writes() -> None:
    flushed = Flushed()
    with contextlib.redirect_stdout(flushed):
        output.table("peers", ("name", "path"), [(f"host-{n}", "idle") for n in range(5000)])
    assert flushed.getvalue().splitlines()[-2:] == ["  host-4999  idle", ""]
    assert flushed.count == 3, "heading, columns, rows"


def test_a_cell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.table("", ("host", "why"), [("nas", "no\nPASS: all hosts")])
    assert r"  nas   no\x0aPASS: all hosts" in capsys.readouterr().out.splitlines()


def test_lines_of_a_message_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.note("one\n\ttwo, büro, 漢字")
    assert capsys.readouterr().err == "one\n\ttwo, büro, 漢字\n"


def test_programs_get_every_character_escaped_or_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.json({"why": HOSTILE})
    said = capsys.readouterr().out
    assert json.loads(said) == {"why": HOSTILE}
    assert not UNFIT & set(said)
