"""What the agent says: lines for its log, and for whoever waits for a change."""

from __future__ import annotations

import sys
from collections.abc import Callable

from netctl.model.errors import NetctlError
from netctl.model.printable import printable_lines

Progress = Callable[[str], None]
"""Takes one line for the person who waits."""


def say(text: str) -> None:
    """One line for the log."""
    print(printable_lines(text), file=sys.stderr, flush=True)


def quiet(line: str) -> None:
    """Tell nobody."""


def reason_of(error: Exception) -> str:
    """One line for what went wrong, whatever it was."""
    if isinstance(error, NetctlError):
        return str(error)
    return f"netctl itself failed ({type(error).__name__}: {error}); it goes on"
