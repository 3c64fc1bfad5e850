"""Bounds on what others can make this host send: token buckets."""

from __future__ import annotations


class Bucket:
    """`burst` at once, then `rate` a second. Full at first."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._tokens = float(burst)
        self._at = float("-inf")

    def has(self, now: float) -> bool:
        """Whether one could be taken."""
        self._fill(now)
        return self._tokens >= 1.0

    def take(self, now: float) -> bool:
        """One of what is left; False: there is none, and it is to be left undone."""
        if not self.has(now):
            return False
        self._tokens -= 1.0
        return True

    def _fill(self, now: float) -> None:
        if now > self._at:
            passed = now - self._at
            self._tokens = min(float(self._burst), self._tokens + passed * self._rate)
            self._at = now
