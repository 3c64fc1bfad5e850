"""The timers of all peers: the table of timers, and a heap that costs little while nothing happens.

    timer          armed by                                  after                        on expiry
    INITIATE       a wish for a session                      at once, but REKEY_TIMEOUT   send an initiation; or, when
                                                             after the last message       no packet waits for it, at
                                                                                          the device's pace (`Pace`)
    RETRANSMIT     an initiation sent                        REKEY_TIMEOUT + jitter       send another; give up after
                                                                                          MAX_HANDSHAKE_RETRIES
    KEEPALIVE      data received and none armed              KEEPALIVE_TIMEOUT            send a keepalive
    NEW_HANDSHAKE  data sent and none armed                  NEW_HANDSHAKE_AFTER          INITIATE
    PERSISTENT     anything authenticated, either way        the peer's interval          send a keepalive
    ZERO_KEYS      a session, or giving up                   ZERO_KEYS_AFTER              drop all keys of the peer
    FLUSH          a session confirmed                       at once                      send what is staged

    Giving up drops what is staged; an initiation for a peer without an endpoint is waited with, not sent.
    KEEPALIVE is cancelled by anything sent, NEW_HANDSHAKE by anything received, INITIATE and RETRANSMIT by a
    completed handshake.

Moving a deadline later does not touch the heap: its entry stays, fires early, finds nothing due and is put back. So
traffic moves timers with one dictionary store for each batch.
"""

from __future__ import annotations

import heapq
from enum import IntEnum, auto
from itertools import count
from typing import Generic, TypeVar

from netctl.tunnel.constants import HEAP_SLACK

Owner = TypeVar("Owner")
_NEVER = float("inf")


class Timer(IntEnum):
    """The timers of a peer; see the table above. Integers, since every packet looks some of them up."""

    INITIATE = auto()
    RETRANSMIT = auto()
    KEEPALIVE = auto()
    NEW_HANDSHAKE = auto()
    PERSISTENT = auto()
    ZERO_KEYS = auto()
    FLUSH = auto()


class PeerTimers(Generic[Owner]):
    """The armed timers of one peer."""

    __slots__ = ("_deadlines", "_queue", "owner", "ticket", "wake_at")

    def __init__(self, owner: Owner, queue: TimerQueue[Owner]) -> None:
        self.owner = owner
        self._queue = queue
        self._deadlines: dict[Timer, float] = {}
        self.wake_at = _NEVER
        """When the heap looks at this peer next; never later than its first deadline."""
        self.ticket = -1
        """Which heap entry of this peer is the valid one."""

    def arm(self, timer: Timer, at: float) -> None:
        """Set, or move, the deadline of `timer`."""
        self._deadlines[timer] = at
        if at < self.wake_at:
            self._queue.schedule(self, at)

    def arm_if_idle(self, timer: Timer, at: float) -> bool:
        """Set the deadline unless there is one. Says whether it did."""
        if timer in self._deadlines:
            return False
        self.arm(timer, at)
        return True

    def cancel(self, timer: Timer) -> None:
        """Disarm."""
        self._deadlines.pop(timer, None)

    def is_armed(self, timer: Timer) -> bool:
        """Whether `timer` has a deadline."""
        return timer in self._deadlines

    def deadline(self, timer: Timer) -> float | None:
        """When `timer` is due, or None."""
        return self._deadlines.get(timer)

    def clear(self) -> None:
        """Disarm all."""
        self._deadlines.clear()

    def take_due(self, now: float) -> list[Timer]:
        """Disarm and return the due timers, the oldest first."""
        due = sorted((at, timer.value, timer) for timer, at in self._deadlines.items() if at <= now)
        for _, _, timer in due:
            del self._deadlines[timer]
        return [timer for _, _, timer in due]

    def rest(self) -> None:
        """After a turn: schedule the next look at the first deadline."""
        first = min(self._deadlines.values(), default=_NEVER)
        if first < self.wake_at:
            self._queue.schedule(self, first)


class TimerQueue(Generic[Owner]):
    """The timers of all peers: a heap with one valid entry for each peer and few stale ones."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, PeerTimers[Owner]]] = []
        self._tickets = count()
        self._live = 0

    def schedule(self, timers: PeerTimers[Owner], at: float) -> None:
        """Look at this peer at `at`, and not at the time scheduled before."""
        if timers.wake_at == _NEVER:
            self._live += 1
        timers.wake_at, timers.ticket = at, next(self._tickets)
        heapq.heappush(self._heap, (at, timers.ticket, timers))
        if len(self._heap) > 4 * self._live + HEAP_SLACK:
            self._heap = [entry for entry in self._heap if entry[2].ticket == entry[1]]
            heapq.heapify(self._heap)

    def next(self) -> float | None:
        """When to look next; None: never."""
        while self._heap and self._heap[0][2].ticket != self._heap[0][1]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> PeerTimers[Owner] | None:
        """Take one due peer from the heap; call `rest` of its timers afterwards."""
        at = self.next()
        if at is None or at > now:
            return None
        timers = heapq.heappop(self._heap)[2]
        self._forget(timers)
        return timers

    def discard(self, timers: PeerTimers[Owner]) -> None:
        """Never look at this peer again (it is being removed)."""
        timers.clear()
        if timers.wake_at != _NEVER:
            self._forget(timers)

    def _forget(self, timers: PeerTimers[Owner]) -> None:
        timers.wake_at, timers.ticket = _NEVER, -1
        self._live -= 1

    def __len__(self) -> int:
        return len(self._heap)
