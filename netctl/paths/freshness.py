"""Which pings of a peer are new, so that none that somebody recorded does anything a second time.

A ping's number is its sender's time in microseconds: Unix time when its agent began, and the monotonic clock from
then on, so that a later life of the agent numbers higher without keeping anything. The receiver holds it against no
clock of its own, only against the peer's earlier numbers, as WireGuard does with the time in its initiations: a clock
that is wrong locks nobody out, and one that went back does so for half a minute at most.
"""

from __future__ import annotations

from netctl.paths import constants as c
from netctl.wire.probe import MAX_NUMBER, Probe


class Numbers:
    """The numbers of one host's pings, for all its peers."""

    def __init__(self, epoch_s: float) -> None:
        """`epoch_s`: Unix time when `now` was 0."""
        self._epoch_s = epoch_s
        self._last = 0

    def following(self, now: float) -> int:
        """That of the next ping: above all before."""
        by_the_clock = int((self._epoch_s + now) * 1e6)
        self._last = min(max(self._last + 1, by_the_clock), MAX_NUMBER)
        return self._last


class Freshness:
    """What is remembered of one peer's pings. `now` is monotonic seconds.

    A peer from before there were numbers has its last `SEEN_PINGS` transactions remembered, until its first number.
    """

    def __init__(self) -> None:
        self._below: int | None = None
        """Numbers below it are old. None: the peer has not numbered yet."""
        self._numbers: set[int] = set()
        """Those taken that are not below."""
        self._transactions: dict[bytes, None] = {}
        """Those of unnumbered pings, oldest first."""
        self._heard_at = float("-inf")
        """When a ping was taken last."""
        self._introduced_at = float("-inf")

    def introduced(self, now: float) -> None:
        """The mediator spoke of the peer, which nobody can make it do who only copies datagrams."""
        self._introduced_at = now

    def takes(self, ping: Probe, now: float, *, from_peer: bool) -> bool:
        """Whether this ping is new; it is remembered then.

        `from_peer`: it comes from where a ping of ours was answered lately.
        """
        if self._below is not None and (ping.number is None or ping.number < self._below):
            there = from_peer or now - self._introduced_at <= c.INTRODUCED_LATELY
            if not there or now - self._heard_at < c.NUMBERS_FORGOTTEN:
                return False
            self._below = None  # it numbers lower than it did, or no longer
            self._numbers.clear()
        taken = self._take_unnumbered(ping.transaction) if ping.number is None else self._take(ping.number)
        if taken:
            self._heard_at = now
        return taken

    def _take(self, number: int) -> bool:
        if number in self._numbers:
            return False
        self._numbers.add(number)
        self._below = max(self._below or 0, number - c.PING_LATE_US)
        if len(self._numbers) > c.SEEN_PINGS:
            lowest = min(self._numbers)
            self._numbers.remove(lowest)
            self._below = max(self._below, lowest + 1)
        return True

    def _take_unnumbered(self, transaction: bytes) -> bool:
        if transaction in self._transactions:
            return False
        self._transactions[transaction] = None
        if len(self._transactions) > c.SEEN_PINGS:
            del self._transactions[next(iter(self._transactions))]
        return True
