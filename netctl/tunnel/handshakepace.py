"""A rate limit for handshakes without waiting packets: so many a second, for any number of peers."""

from __future__ import annotations

from netctl.tunnel import constants


class Pace:
    """A line with room for a burst (the generic cell rate algorithm, ITU-T I.371)."""

    def __init__(self) -> None:
        self._next = float("-inf")

    def place(self, now: float) -> float:
        """Take the next place, and return its time. At or before `now`: at once."""
        step = 1.0 / constants.UNPROMPTED_RATE
        at = max(self._next, now - constants.UNPROMPTED_BURST * step)
        self._next = at + step
        return at
