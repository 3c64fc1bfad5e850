"""How loaded a relay is, in the steps that it tells members with its STUN answers. Sans-IO.

step  the relay's thread is busy for   or so many bindings are held, of `MAX_BINDINGS`
0     less than a half of the time     less than a half
1     a half                           a half
2     three quarters                   three quarters
3     nine tenths: full                nine tenths

A step ends only `BACK` below the share at which it began, so a load that stays near a limit does not change the step
again and again.
"""

from __future__ import annotations

from mediator.core.relay_table import MAX_BINDINGS

STEPS = (0.5, 0.75, 0.9)
"""Shares at which the steps begin. Queues grow steeply from some nine tenths on."""
BACK = 0.1
EVERY_S = 10.0
"""Time over which the thread's share is counted: a burst of a second is no load. Members ask every five minutes."""


class RelayLoad:
    """The step, from what the relay's thread has used. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.step = 0
        self._before: tuple[float, float] | None = None

    def look(self, now: float, used_s: float, bindings: int) -> None:
        """Count anew if that is due. `used_s`: processor time of the relay's thread since it began, seconds."""
        if self._before is None:
            self._before = now, used_s
            return
        since, before_s = self._before
        if now - since < EVERY_S:
            return
        self._before = now, used_s
        share = max((used_s - before_s) / (now - since), bindings / MAX_BINDINGS)
        up = sum(share >= limit for limit in STEPS)
        down = sum(share >= limit - BACK for limit in STEPS)
        self.step = max(up, min(self.step, down))
