"""Deadlines of state machines: monotonic seconds, or None for never."""

from __future__ import annotations


def earliest(*times: float | None) -> float | None:
    """The earliest of these times; None: there is none. Hosts ask at each of their events, so it makes no list."""
    found = None
    for at in times:
        if at is not None and (found is None or at < found):
            found = at
    return found
