"""Token buckets, which bound the datagrams that others can make this host send."""

from __future__ import annotations


class Bucket:
    """A token bucket: `burst` tokens at once, then `rate` a second. Full at first. `now`: monotonic seconds."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._tokens = float(burst)
        self._at = float("-inf")

    def has(self, now: float) -> bool:
        """Whether a token is left."""
        self._fill(now)
        return self._tokens >= 1.0

    def take(self, now: float) -> bool:
        """Take a token; False: none is left, so the caller must not act."""
        if not self.has(now):
            return False
        self._tokens -= 1.0
        return True

    def _fill(self, now: float) -> None:
        if now > self._at:
            passed = now - self._at
            self._tokens = min(float(self._burst), self._tokens + passed * self._rate)
            self._at = now
