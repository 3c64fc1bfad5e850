"""How large a packet of the tunnel may be on the direct path in use: Packetization Layer Path MTU Discovery (RFC 8899).

Our own pings are padded to what a packet of a size would be outside, and sent whole or not at all. Nothing else tells
where a hop drops what is too large and says nothing. Sans-IO, of one pair; sizes are those inside the tunnel, in bytes.

state      event                                                   next
UNKNOWN    a path whose peer answers padded pings                  ASKING      (the full size)
ASKING     an answer                                               KNOWN
ASKING     none, three times                                       SEARCHING   (many sizes at once)
SEARCHING  three rounds are over                                   KNOWN       (the largest that was answered)
SEARCHING  none was answered                                       UNKNOWN     (the peer takes no padded ones)
KNOWN      packets flow and a minute is over, or data is doubted   ASKING      (the size that was found)
KNOWN      packets flow and ten minutes are over                   ASKING      (the full size)
any        another path                                            ASKING

An idle path is asked once, when it is chosen.
"""

from __future__ import annotations

from enum import Enum

from netctl.paths.constants import (
    MTU_CONFIRM,
    MTU_CONFIRM_REST,
    MTU_RAISE,
    MTU_RETRY,
    MTU_TRIES,
)

LADDER = (576, 768, 1024, 1152, *range(1200, 1505, 16), 2048, 4096, 7936, 8896)
"""Sizes that are tried at once when the full one does not pass: multiples of 16, to which WireGuard pads."""
GROUPS = 3
"""Parts that a round of them is sent in: netctl-wg's socket for them takes ten at once."""
MAX_ASKED = 3 * len(LADDER)
"""Pings that may still be answered."""


class MtuState(Enum):
    """See the table above."""

    UNKNOWN = "unknown"
    ASKING = "asking"
    SEARCHING = "searching"
    KNOWN = "known"


class MtuProbe:
    """Of one pair. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.state = MtuState.UNKNOWN
        self.full = 0
        """The MTU of this host's own tunnels; 0: not known, nothing is asked."""
        self.found: int | None = None
        """The largest size that passes; None: not known."""
        self._size = 0
        """What is asked for."""
        self._tries = 0
        self._due: float | None = None
        self._asked: dict[bytes, int] = {}
        self._best = 0
        self._asked_at = 0.0
        self._full_at = 0.0

    def begin(self, now: float) -> None:
        """Another path carries, or this host's own MTU is another."""
        self._asked.clear()
        self._ask(self.full, now)

    def rest(self) -> None:
        """No direct path carries: what was found stays true of the way to the outside, as far as anybody knows."""
        self.state, self._due = MtuState.UNKNOWN, None
        self._asked.clear()

    def doubted(self, now: float) -> None:
        """Packets go out and nothing comes back: they may be too large by now."""
        if self.state is MtuState.KNOWN and self.found and now - self._asked_at >= MTU_CONFIRM_REST:
            self._ask(self.found, now)

    def flows(self, now: float) -> None:
        """Packets flow."""
        if self.state is not MtuState.KNOWN or self.found is None:
            return
        if self.found < self.full and now - self._full_at >= MTU_RAISE:
            self._ask(self.full, now)
        elif now - self._asked_at >= MTU_CONFIRM:
            self._ask(self.found, now)

    @property
    def due(self) -> float | None:
        """When to call `sizes`."""
        return self._due

    def sizes(self, now: float) -> list[int]:
        """What to ask for now."""
        if self._due is None or now < self._due:
            return []
        self._due = now + MTU_RETRY
        if self.state is MtuState.ASKING and self._tries >= MTU_TRIES:
            self.state, self._tries, self._best = MtuState.SEARCHING, 0, 0
        self._tries += 1
        if self.state is MtuState.ASKING:
            return [self._size]
        if self._tries > MTU_TRIES * GROUPS:
            self._end(self._best or None)
            return []
        self._due = now + MTU_RETRY / GROUPS
        rungs = [size for size in LADDER if size < self._size]
        return rungs[self._tries % GROUPS :: GROUPS]

    def sent(self, transaction: bytes, size: int) -> None:
        """A padded ping went out."""
        self._asked[transaction] = size
        while len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]

    def answered(self, transaction: bytes) -> bool:
        """A pong came; False: it answers no padded ping."""
        size = self._asked.pop(transaction, None)
        if size is None:
            return False
        self._best = max(self._best, size)
        if self.state is MtuState.ASKING and size >= self._size:
            self._end(size)
        return True

    def _ask(self, size: int, now: float) -> None:
        self.state, self._size, self._tries = MtuState.ASKING, size, 0
        self._best = 0
        self._asked_at = now
        if size == self.full:
            self._full_at = now
        self._due = now if size else None

    def _end(self, found: int | None) -> None:
        self._due = None
        self._asked.clear()
        self.state = MtuState.KNOWN if found else MtuState.UNKNOWN
        self.found = found
