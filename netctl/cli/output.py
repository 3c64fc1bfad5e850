"""All terminal output of the command. stdout carries results, stderr carries messages.

Colour appears only on a terminal, never with NO_COLOR (https://no-color.org). Signs repeat the meaning of colours.
Terminal control sequences are removed from text of other origin (a mediator, a host of a roll-out, a commit's
subject), but not from a file that `text` prints.
"""

from __future__ import annotations

import json as _json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from netctl.model.forpeople import age as age
from netctl.model.forpeople import counted as counted
from netctl.model.forpeople import size as size
from netctl.model.printable import printable, printable_json, printable_lines

_RED, _GREEN, _YELLOW, _BOLD, _DIM, _RESET = (
    "\033[31m",
    "\033[32m",
    "\033[33m",
    "\033[1m",
    "\033[2m",
    "\033[0m",
)


def _coloured(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _paint(text: str, colour: str, stream: TextIO) -> str:
    text = printable_lines(text)
    return f"{colour}{text}{_RESET}" if _coloured(stream) else text


def line(text: str = "") -> None:
    """Print a line of the result."""
    _out(printable_lines(text))


def _out(text: str) -> None:
    """Print a line that may contain colours and is already safe for a terminal."""
    print(text, flush=True)


def text(whole: str) -> None:
    """Print a whole file without changes."""
    print(whole, end="", flush=True)


def json(value: Any) -> None:
    """Print the result for programs, as JSON. `value`: plain values, or JSON (`msgspec.Raw`)."""
    import msgspec  # of `json` an indented status of thousands of peers takes a tenth of a second

    try:
        encoded = value if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
        text = msgspec.json.format(encoded, indent=2).decode()
    except UnicodeEncodeError:  # lone surrogates of a file's name: JSON has them only as escapes
        text = _json.dumps(value, indent=2, ensure_ascii=False)
    _out(printable_json(text))


def error(text: str) -> None:
    """Print an error in one line: what went wrong and what to do."""
    print(_paint("error: ", _RED, sys.stderr) + printable_lines(text), file=sys.stderr, flush=True)


def warning(text: str) -> None:
    """Print a warning: something works, but the user should know of a detail."""
    print(_paint("warning: ", _YELLOW, sys.stderr) + printable_lines(text), file=sys.stderr, flush=True)


def ask(text: str) -> None:
    """Print a question; the cursor stays behind it."""
    print(text, end="", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print a message that is no part of the result."""
    print(printable_lines(text), file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Print which step runs now."""
    print(_paint(f"  {text}", _DIM, sys.stderr), file=sys.stderr, flush=True)


def redraw(lines: Sequence[str], over: int) -> None:
    """On a terminal: print these lines over the last `over` lines."""
    up = f"\033[{over}A\033[J" if over else ""
    print(up + "\n".join(map(printable_lines, lines)), file=sys.stderr, flush=True)


def anew() -> None:
    """On a terminal: clear the screen for the next output (ECMA-48 ED, CUP); elsewhere: print a separating line."""
    _out("\033[H\033[2J" if sys.stdout.isatty() else "--")


def check(ok: bool, text: str) -> None:
    """Print the result of one check."""
    sign = _paint("ok  ", _GREEN, sys.stdout) if ok else _paint("FAIL", _RED, sys.stdout)
    _out(f"{sign} {printable_lines(text)}")


def verdict(ok: bool, text: str) -> None:
    """Print the last line: PASS or FAIL, and why."""
    _out(_paint(("PASS: " if ok else "FAIL: ") + text, _GREEN if ok else _RED, sys.stdout))


def change(text: str) -> None:
    """Print a line of a plan. Its first character is the sign: + adds, - removes, ~ changes."""
    colour = {"+": _GREEN, "-": _RED, "~": _YELLOW}.get(text[:1], "")
    _out(_paint(f"  {text}", colour, sys.stdout) if colour else printable_lines(f"  {text}"))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a heading and rows in columns."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]

    def laid_out(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    if title:
        _out(_paint(title, _BOLD, sys.stdout))
    _out(_paint("  " + laid_out(list(columns)), _DIM, sys.stdout))
    # One write: of thousands of rows each would be a system call.
    _out("".join(f"  {laid_out(row)}\n" for row in cells))
