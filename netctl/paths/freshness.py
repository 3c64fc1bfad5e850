"""Rejects replayed pings: a recorded ping of a peer must have no effect a second time.

A ping's number is its sender's time in microseconds: Unix time at the start of its agent, and the monotonic clock from
then on, so that a restarted agent numbers higher without storing anything. The receiver compares it only with the
peer's earlier numbers and with no clock, as WireGuard does with the time in its initiations: a wrong clock locks
nobody out, and a clock that went back does so for half a minute at most.
"""

from __future__ import annotations

from netctl.paths import constants as c
from netctl.wire.probe import MAX_NUMBER, Probe


class Numbers:
    """The numbers of one host's pings, for all its peers."""

    def __init__(self, epoch_s: float) -> None:
        """`epoch_s`: the Unix time at which `now` was 0."""
        self._epoch_s = epoch_s
        self._last = 0

    def following(self, now: float) -> int:
        """The number of the next ping, above all earlier ones."""
        by_the_clock = int((self._epoch_s + now) * 1e6)
        self._last = min(max(self._last + 1, by_the_clock), MAX_NUMBER)
        return self._last


class Freshness:
    """The record of one peer's pings. `now`: monotonic seconds.

    For a peer of an old version, which sends no numbers, the last `SEEN_PINGS` transactions are kept until its first
    number.
    """

    def __init__(self) -> None:
        self._below: int | None = None
        """Numbers below this one are old. None: the peer has sent no number yet."""
        self._numbers: set[int] = set()
        """Accepted numbers that are not below `_below`."""
        self._transactions: dict[bytes, None] = {}
        """Transactions of accepted pings without a number, oldest first."""
        self._heard_at = float("-inf")
        """When a ping was last accepted."""
        self._introduced_at = float("-inf")

    def introduced(self, now: float) -> None:
        """Record that the mediator introduced the peer: an attacker who only copies datagrams cannot cause that."""
        self._introduced_at = now

    def takes(self, ping: Probe, now: float, *, from_peer: bool) -> bool:
        """Whether this ping is new; a new one is recorded.

        `from_peer`: the ping comes from an address at which a ping of ours was answered lately.
        """
        if self._below is not None and (ping.number is None or ping.number < self._below):
            there = from_peer or now - self._introduced_at <= c.INTRODUCED_LATELY
            if not there or now - self._heard_at < c.NUMBERS_FORGOTTEN:
                return False
            self._below = None  # the peer's numbers went back, or it sends none any more
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
