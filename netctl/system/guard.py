"""Keeps loops alive: counts, logs at a bounded rate, and drops exceptions from handling a datagram, frame or callback.

Every loop that reads input from outside calls its handlers through a `Guard`. The guard is the last defence:
decoders refuse malformed input with an error of their own, so a guard's line in the log is a fault of ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import PurePath
from types import TracebackType
from typing import Any

from netctl.model.printable import printable

SAY_EVERY_S = 10.0
"""Seconds between two lines about one kind of fault: a thousand bad datagrams a second must not fill a disk."""
MAX_KINDS = 64
"""Kinds of faults remembered; past this number all are forgotten. A program has fewer places that call a guard."""
MAX_TEXT = 200
"""Characters of an exception's text in a line: the text may contain received data."""


class Guard:
    """Counts faults and logs them at a bounded rate. One for a process; not thread-safe."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """`say` writes one line to the log; `clock` returns monotonic seconds."""
        self._say = say
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        self.dropped = 0
        """Inputs whose handling failed, since the start."""

    def caught(self, where: str, error: BaseException) -> None:
        """Count `error`, raised while handling `where` (``a datagram``), and log it unless its kind was just logged."""
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
        """Call `call`. False: it raised an exception, which is counted and logged."""
        try:
            call(*arguments)
        except Exception as error:
            self.caught(where, error)
            return False
        return True

    def over(self, where: str, call: Callable[..., object]) -> Callable[..., None]:
        """A callback that calls `call` as `run` does, for a loop that is not ours."""

        def guarded(*arguments: Any) -> None:
            self.run(where, call, *arguments)

        return guarded


def _place(trace: TracebackType | None) -> str:
    """File and line at which the exception was raised."""
    if trace is None:
        return "?"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
