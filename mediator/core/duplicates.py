"""One key on two hosts (a cloned disk): the connected host stays, the newer one waits.

A host that crashed, moved or lost its route logs in again while its older connection still counts as open. The older
connection distinguishes it from a clone: if another host has the key, the older connection still answers. So a login
while the key is online waits until the older connection answers a ping sent after the login, or fails to.

| state of a key | event                          | next                                             |
|----------------|--------------------------------|--------------------------------------------------|
| SINGLE         | login, another is online       | ASKED: the older one is pinged, the newer waits  |
| SINGLE         | login that proves the older    | SINGLE: the newer is in (same process; no wait)  |
| ASKED          | the older one answers          | SINGLE, noted: the newer is refused              |
| ASKED          | no answer, or it is gone       | SINGLE: the newer is in                          |

The note is kept for `NOTE_S` after the last refusal of the newer host.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, takewhile

from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey

ANSWER_S = 2.0
"""Time for the older connection to answer: a satellite takes 0.7 s, a busy host may stall for 1 s. A host whose route
was lost silently waits so long at its next login, if its agent is too old to prove the older connection.
"""
NOTE_S = 600.0
"""A waiting host retries every minute: without a retry for so long, the duplicate is over."""
MAX_NOTES = 1024
"""Most notes, 300 bytes each. More duplicate keys at once come from a cloned template."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A key on two hosts. Times are monotonic seconds."""

    key: WireGuardKey
    holder: SocketAddress
    """The address of the host that stays."""
    other: SocketAddress
    """The address of the last login of the host that waits."""
    first_s: float
    last_s: float
    refused: int = 1


@dataclass(slots=True)
class _Question:
    key: WireGuardKey
    ping: int
    due: float
    waiting: dict[int, None]
    """Connections that wait for their login, oldest first."""


class Duplicates:
    """Open questions to older connections, and keys found on two hosts."""

    def __init__(self) -> None:
        self._asked: dict[int, _Question] = {}
        """By the asked connection; the first that is due first."""
        self._waits: dict[int, int] = {}
        """The asked connection by the one that waits for it."""
        self._notes: dict[WireGuardKey, Duplicate] = {}
        self._free: list[int] = []
        self._pings = 0

    def ask(self, key: WireGuardKey, holder: int, newer: int, now: float) -> int | None:
        """Let a connection wait for the answer of an older one. The ping to send; None: already sent."""
        self._waits[newer] = holder
        question = self._asked.get(holder)
        if question is not None:
            question.waiting[newer] = None
            return None
        self._pings += 1
        self._asked[holder] = _Question(key, self._pings, now + ANSWER_S, {newer: None})
        return self._pings

    def answered(self, connection: int, ping: int) -> list[int]:
        """The older connection has answered a ping. Returns the connections to refuse; empty: none asked."""
        question = self._asked.get(connection)
        if question is None or question.ping != ping:
            return []
        return self._over(connection)

    def gone(self, connection: int) -> None:
        """A connection has ended: connections that waited for its answer may log in now (`free`)."""
        holder = self._waits.pop(connection, None)
        if holder is not None:
            del self._asked[holder].waiting[connection]
        if connection in self._asked:
            self._free += self._over(connection)

    def _over(self, connection: int) -> list[int]:
        """The question to a connection is over. Returns who waited for it, oldest first."""
        waiting = list(self._asked.pop(connection).waiting)
        for number in waiting:
            del self._waits[number]
        return waiting

    def free(self) -> list[int]:
        """The connections that may log in now, oldest first."""
        free, self._free = self._free, []
        return free

    def silent(self, now: float) -> list[int]:
        """Asked connections that did not answer in time."""
        return [number for number, _ in takewhile(lambda item: now >= item[1].due, self._asked.items())]

    def next_timer(self) -> float | None:
        """When the first answer is due; -inf if a connection may log in now."""
        if self._free:
            return float("-inf")
        return next((question.due for question in islice(self._asked.values(), 1)), None)

    def note(self, key: WireGuardKey, holder: SocketAddress, other: SocketAddress, now: float) -> bool:
        """Record a key on two hosts. True: it was not recorded before."""
        self._expire(now)
        before = self._notes.pop(key, None)
        if before is None and len(self._notes) >= MAX_NOTES:
            del self._notes[next(iter(self._notes))]
        first, refused = (before.first_s, before.refused + 1) if before is not None else (now, 1)
        self._notes[key] = Duplicate(key, holder, other, first, now, refused)  # at the end: forgotten last
        return before is None

    def noted(self, now: float) -> list[Duplicate]:
        """The duplicates of the last `NOTE_S` seconds."""
        self._expire(now)
        return list(self._notes.values())

    def forget(self, key: WireGuardKey) -> None:
        """The key is no longer a member's."""
        self._notes.pop(key, None)

    def _expire(self, now: float) -> None:
        for key in [key for key, one in self._notes.items() if now - one.last_s >= NOTE_S]:
            del self._notes[key]
