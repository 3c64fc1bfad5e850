"""Delays between tries to connect, with full jitter, so that a thousand members do not return in one second."""

from __future__ import annotations

BASE_S = 2.0
"""The first retry comes within this."""
MOVE_S = 1.0
"""The first retry at another mediator comes within this: with the other mediators' doubt about the lost one
(`mediator.core.peers.WORD_S`) and a handshake, a member is logged in again within two seconds.
"""
CAP_S = 30.0
"""A mediator that is back after a long time is found within half a minute."""
RETURN_PER_S = 1_000
"""Members that return in a second after a mediator's restart: one core of a mediator lets about so many in."""


class Backoff:
    """Delays that grow with failures. Randomness is an argument in [0, 1)."""

    def __init__(self, base_s: float = BASE_S, cap_s: float = CAP_S) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._failures = 0

    def spread(self, members: int) -> None:
        """Spread the return of so many members, which lost the mediator at the same moment as this one; 0: this one
        alone did.
        """
        self._base_s = min(max(BASE_S, members / RETURN_PER_S), CAP_S / 2)

    def next_delay(self, fraction: float, *, elsewhere: bool = False) -> float:
        """Seconds to wait before the next try; counts a failure. `elsewhere`: another mediator is tried next."""
        ceiling = min(self._cap_s, self._base_s * 2.0 ** min(self._failures, 16))
        if elsewhere and not self._failures:
            ceiling *= MOVE_S / BASE_S
        self._failures += 1
        return ceiling * fraction

    def reset(self) -> None:
        """A try has succeeded: begin again with the shortest delay."""
        self._failures = 0
