"""No input ends a loop: what a datagram, a frame or a callback raises is counted, said now and then, and dropped.

Whatever reads from outside calls through a `Guard`. It is the last line, not the first: malformed input is refused
where it is decoded, with an error of its own, and a line of a guard in a log is a fault of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import PurePath
from types import TracebackType
from typing import Any

from netctl.model.printable import printable

SAY_EVERY_S = 10.0
"""Between two lines about one kind of fault: who sends a thousand bad datagrams a second shall not fill a disk."""
MAX_KINDS = 64
"""Kinds of faults remembered; a program has fewer places that call a guard, so past it all are forgotten."""
MAX_TEXT = 200
"""Of an exception's own words in a line: they may hold what was received."""


class Guard:
    """Counts faults and says them at a bounded rate. One for a process; not for several threads at a time."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`say` takes one line for the log."""
        self._say = say
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        self.dropped = 0
        """Inputs whose handling failed, since the start."""

    def caught(self, where: str, error: BaseException) -> None:
        """Handling something at `where` (``a datagram``) raised `error`: count it, and say it at most now and then."""
        self.dropped += 1
        kind = where, type(error).__name__
        now = self._clock()
        said_at, hidden = self._said.get(kind, (float("-inf"), 0))
        if now - said_at < SAY_EVERY_S:
            self._said[kind] = said_at, hidden + 1
            return
        if len(self._said) >= MAX_KINDS:
            self._said.clear()
        self._said[kind] = now, 0
        more = f"; {hidden} more like it since the last such line" if hidden else ""
        text = printable(str(error)[:MAX_TEXT])
        self._say(
            f"{where} was dropped ({type(error).__name__} at {_place(error.__traceback__)}: {text}){more}; it goes on"
        )

    def run(self, where: str, call: Callable[..., object], *arguments: Any) -> bool:
        """Call it; False: it raised, which is counted and said."""
        try:
            call(*arguments)
        except Exception as error:
            self.caught(where, error)
            return False
        return True

    def over(self, where: str, call: Callable[..., object]) -> Callable[..., None]:
        """The same as a callback for somebody else's loop."""

        def guarded(*arguments: Any) -> None:
            self.run(where, call, *arguments)

        return guarded


def _place(trace: TracebackType | None) -> str:
    """File and line of where it was raised."""
    if trace is None:
        return "?"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
