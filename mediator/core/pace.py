"""Rate limits after login, per key, so that a faulty member harms only itself.

A key that logs in too often (two machines with one key, a script) gets an error until its bucket has refilled a little.
A connection with more requests than any agent makes is dropped, and its next login counts. Only logins with a proven
key count, so others cannot use up a member's logins.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediator.core.relay_limits import TokenBucket
from netctl.model.keys import WireGuardKey

LOGINS_BURST = 30
LOGINS_PER_S = 1 / 5
"""A laptop on a train logs in a few times a minute; two machines with one key replace each other several times a
second.
"""
REFRESHES_BURST = 50
REFRESHES_PER_S = 1 / 5
"""Requests for a whole view, the most expensive answer: an agent in doubt asks once."""
QUESTIONS_BURST = 20_000
QUESTIONS_PER_S = 500
"""Other requests. The burst covers offers and relay allocations for all peers of the largest network, twice."""
MAX_PACED = 65_536
"""Keys remembered, about 15 MB. Above it the quietest keys are forgotten."""


@dataclass(frozen=True, slots=True)
class Slowed:
    """A key whose last login was refused."""

    key: WireGuardKey
    refused: int
    """Logins refused since its last admitted login."""


class Pace:
    """The login rate of each key. `now`: monotonic seconds."""

    def __init__(self) -> None:
        self._buckets: dict[WireGuardKey, TokenBucket] = {}
        self._refused: dict[WireGuardKey, int] = {}

    def login(self, key: WireGuardKey, now: float) -> bool:
        """Count a login with a proven key; False: refuse it."""
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            bucket = TokenBucket(LOGINS_PER_S, LOGINS_BURST, now)
            if len(self._buckets) >= MAX_PACED:
                self.forgive(next(iter(self._buckets)))
        self._buckets[key] = bucket  # moved to the end: forgotten last
        if bucket.take(1, now):
            self._refused.pop(key, None)
            return True
        self._refused[key] = self._refused.get(key, 0) + 1
        return False

    def slowed(self) -> list[Slowed]:
        """The keys whose last login was refused."""
        return [Slowed(key, count) for key, count in self._refused.items()]

    def forgive(self, key: WireGuardKey) -> bool:
        """Forget a key's logins and refusals. False: none was refused."""
        self._buckets.pop(key, None)
        return self._refused.pop(key, None) is not None


class Questions:
    """The requests that a connection may still make."""

    __slots__ = ("_all", "_refreshes")

    def __init__(self, now: float) -> None:
        self._all = TokenBucket(QUESTIONS_PER_S, QUESTIONS_BURST, now)
        self._refreshes = TokenBucket(REFRESHES_PER_S, REFRESHES_BURST, now)

    def take(self, now: float, *, refresh: bool, count: int = 1) -> bool:
        """Count a request as `count`; False: too many. `refresh`: for a whole view, or for everybody's presence."""
        return self._all.take(count, now) and (not refresh or self._refreshes.take(1, now))
