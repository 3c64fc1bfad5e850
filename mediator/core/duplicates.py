"""One key on two hosts (a cloned disk): the host that is here stays, the newer one waits.

A host that crashed, moved or lost its way out comes back while its older connection still counts as open. What tells
a clone from it is that older connection: on the clone's side of things somebody still answers there. So a login while
the key is online waits until the older connection has answered a ping that was sent after it, or has not.

| state of a key | event                          | next                                             |
|----------------|--------------------------------|--------------------------------------------------|
| SINGLE         | login, another is online       | ASKED: the older one is pinged, the newer waits  |
| SINGLE         | login that proves the older    | SINGLE: the newer is in (same process; no wait)  |
| ASKED          | the older one answers          | SINGLE, noted: the newer is refused              |
| ASKED          | no answer, or it is gone       | SINGLE: the newer is in                          |

The note is kept for `NOTE_S` after the newer one was refused last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey

ANSWER_S = 2.0
"""For the older connection to answer: a satellite takes 0.7 s, a busy host stands still for a second. Whoever logs in
again after a way out that was lost without a word, and with an agent from before, waits so long."""
NOTE_S = 600.0
"""A host that waits tries again every minute: so long without it, and it is over."""
MAX_NOTES = 1024
"""Of 300 bytes each; more keys on two hosts at once than this are somebody's whole template."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A key that two hosts have. Times are monotonic seconds."""

    key: WireGuardKey
    holder: SocketAddress
    """Where the host that stays is connected from."""
    other: SocketAddress
    """Where the one that waits tried to log in from last."""
    first_s: float
    last_s: float
    refused: int = 1


@dataclass(slots=True)
class _Question:
    key: WireGuardKey
    ping: int
    due: float
    waiting: list[int] = field(default_factory=list)
    """Connections that want to log in, the oldest first."""


class Duplicates:
    """The keys that are asked for, and those that were found on two hosts."""

    def __init__(self) -> None:
        self._asked: dict[int, _Question] = {}
        """By the connection that is asked."""
        self._notes: dict[WireGuardKey, Duplicate] = {}
        self._free: list[int] = []
        self._pings = 0

    def ask(self, key: WireGuardKey, holder: int, newer: int, now: float) -> int | None:
        """A connection waits for the word of another. The ping to send; None: it is asked already."""
        question = self._asked.get(holder)
        if question is not None:
            question.waiting.append(newer)
            return None
        self._pings += 1
        self._asked[holder] = _Question(key, self._pings, now + ANSWER_S, [newer])
        return self._pings

    def answered(self, connection: int, ping: int) -> list[int]:
        """The older connection lives: who has to wait. Empty: nobody asked that."""
        question = self._asked.get(connection)
        if question is None or question.ping != ping:
            return []
        return self._asked.pop(connection).waiting

    def gone(self, connection: int) -> None:
        """A connection is over: who waited for its word may log in now (`free`)."""
        for question in self._asked.values():
            if connection in question.waiting:
                question.waiting.remove(connection)
        over = self._asked.pop(connection, None)
        if over is not None:
            self._free += over.waiting

    def free(self) -> list[int]:
        """Who may log in now, the oldest first."""
        free, self._free = self._free, []
        return free

    def silent(self, now: float) -> list[int]:
        """Connections that did not answer in time."""
        return [number for number, question in self._asked.items() if now >= question.due]

    def next_timer(self) -> float | None:
        """When the first answer is due; the beginning of time where somebody is free."""
        if self._free:
            return float("-inf")
        return min((question.due for question in self._asked.values()), default=None)

    def note(self, key: WireGuardKey, holder: SocketAddress, other: SocketAddress, now: float) -> bool:
        """A key is on two hosts. True: that is news."""
        self._expire(now)
        before = self._notes.pop(key, None)
        if before is None and len(self._notes) >= MAX_NOTES:
            del self._notes[next(iter(self._notes))]
        first, refused = (before.first_s, before.refused + 1) if before is not None else (now, 1)
        self._notes[key] = Duplicate(key, holder, other, first, now, refused)  # the last one to be forgotten
        return before is None

    def noted(self, now: float) -> list[Duplicate]:
        """The keys that were on two hosts within the last `NOTE_S` seconds."""
        self._expire(now)
        return list(self._notes.values())

    def forget(self, key: WireGuardKey) -> None:
        """The key is no member's any more."""
        self._notes.pop(key, None)

    def _expire(self, now: float) -> None:
        for key in [key for key, one in self._notes.items() if now - one.last_s >= NOTE_S]:
            del self._notes[key]
