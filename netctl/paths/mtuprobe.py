"""Finds the largest packet of the tunnel on the direct path in use: Packetization Layer Path MTU Discovery (RFC 8899).

Our pings are padded to the outer size of a packet and sent unfragmented. Only this detects a router that silently drops
packets which are too large. For one pair, without I/O; sizes are those inside the tunnel, in bytes.

state      event                                                   next
UNKNOWN    a path whose peer answers padded pings                  ASKING      (the full size)
ASKING     an answer                                               KNOWN
ASKING     no answer, three times                                  SEARCHING   (many sizes at once)
SEARCHING  three rounds are over                                   KNOWN       (the largest size that was answered)
SEARCHING  no size was answered                                    UNKNOWN     (the peer takes no padded pings)
KNOWN      packets flow and a minute is over, or data in doubt     ASKING      (the size that was found)
KNOWN      packets flow and ten minutes are over                   ASKING      (the full size)
any        another path, or by the relay another way of the peer   ASKING      (the full size)

An idle path is probed once, when it is chosen.
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
"""Sizes that are tried together when the full size does not pass: multiples of 16, to which WireGuard pads."""
GROUPS = 3
"""Parts in which a round of sizes is sent: netctl-wg's hand-over socket takes ten datagrams at once."""
MAX_ASKED = 3 * len(LADDER)
"""Unanswered padded pings that are remembered."""


class MtuState(Enum):
    """See the table above."""

    UNKNOWN = "unknown"
    ASKING = "asking"
    SEARCHING = "searching"
    KNOWN = "known"


class MtuProbe:
    """Path MTU discovery of one pair. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.state = MtuState.UNKNOWN
        self.full = 0
        """The MTU of this host's tunnels; 0: not known, and nothing is probed."""
        self.found: int | None = None
        """The largest size that passes; None: not known."""
        self._size = 0
        """The size that is probed."""
        self._tries = 0
        self._due: float | None = None
        self._asked: dict[bytes, int] = {}
        self._best = 0
        self._asked_at = 0.0
        self._full_at = float("-inf")

    def begin(self, now: float) -> None:
        """Start anew, after a change of the path or of this host's own MTU."""
        self._asked.clear()
        self._ask(self.full, now)

    def rest(self) -> None:
        """Stop without a direct path; the found size is kept, since it may still be true of the uplink."""
        self.state, self._due = MtuState.UNKNOWN, None
        self._asked.clear()

    def doubted(self, now: float) -> None:
        """Handle packets that go out without an answer: the size may have shrunk.

        Asked so lately that the answer may be of before, the size is asked again as soon as the rest is over: the
        doubt itself goes when the peer sends something small.
        """
        if self.state is not MtuState.KNOWN or not self.found:
            return
        rested = self._asked_at + MTU_CONFIRM_REST
        if now >= rested:
            self._ask(self.found, now)
        elif self._due is None:
            self._due = rested

    def widened(self, now: float) -> bool:
        """The peer's way is another and may carry more; False: the full size is known to pass, or was asked lately."""
        full_passes = self.state is MtuState.KNOWN and self.found == self.full
        if full_passes or now - self._full_at < MTU_CONFIRM_REST:
            return False
        self.begin(now)
        return True

    def flows(self, now: float) -> None:
        """Packets flow: check the found size or try the full size when that is due."""
        if self.state is not MtuState.KNOWN or self.found is None:
            return
        if self.found < self.full and now - self._full_at >= MTU_RAISE:
            self._ask(self.full, now)
        elif now - self._asked_at >= MTU_CONFIRM:
            self._ask(self.found, now)

    @property
    def due(self) -> float | None:
        """When to call `sizes`; None: nothing is due."""
        return self._due

    def sizes(self, now: float) -> list[int]:
        """The sizes to probe now, in bytes."""
        if self._due is None or now < self._due:
            return []
        if self.state is MtuState.KNOWN and self.found:
            self._ask(self.found, now)
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
        """Record a sent padded ping."""
        self._asked[transaction] = size
        while len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]

    def answered(self, transaction: bytes) -> bool:
        """Record a pong; False: it answers no padded ping."""
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
