"""How often one member may ask: limits after login, by key, so that a member that went wrong harms itself alone.

A key that logs in too often (two machines that fight for one key, a script) is told so and kept out until its bucket
has filled a little; a connection that asks for more than an agent ever does is dropped, and its next login counts. Only
who has proven the key is counted: nobody else can use a member's tries up.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediator.core.relay_limits import TokenBucket
from netctl.model.keys import WireGuardKey

LOGINS_BURST = 30
LOGINS_PER_S = 1 / 5
"""A laptop on a bad train logs in some times a minute; two machines with one key throw each other out several times a
second."""
REFRESHES_BURST = 50
REFRESHES_PER_S = 1 / 5
"""Whole views on demand, the dearest answer there is: a doubt asks once."""
QUESTIONS_BURST = 20_000
QUESTIONS_PER_S = 500
"""All else: offers and relay allocations for all peers of the largest network at once, twice."""
MAX_PACED = 65_536
"""Keys remembered at once, some 15 MB. Past it those who have been quiet are forgotten."""


@dataclass(frozen=True, slots=True)
class Slowed:
    """A key that is kept out for the moment."""

    key: WireGuardKey
    refused: int
    """Logins refused since it was last let in."""


class Pace:
    """The logins of each key. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._buckets: dict[WireGuardKey, TokenBucket] = {}
        self._refused: dict[WireGuardKey, int] = {}

    def login(self, key: WireGuardKey, now: float) -> bool:
        """It has proven its key; whether it comes in."""
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            bucket = TokenBucket(LOGINS_PER_S, LOGINS_BURST, now)
            if len(self._buckets) >= MAX_PACED:
                self.forgive(next(iter(self._buckets)))
        self._buckets[key] = bucket  # the last one to be forgotten
        if bucket.take(1, now):
            self._refused.pop(key, None)
            return True
        self._refused[key] = self._refused.get(key, 0) + 1
        return False

    def slowed(self) -> list[Slowed]:
        """Who was refused when it came last."""
        return [Slowed(key, count) for key, count in self._refused.items()]

    def forgive(self, key: WireGuardKey) -> bool:
        """Forget what is held against a key. False: nothing is."""
        self._buckets.pop(key, None)
        return self._refused.pop(key, None) is not None


class Questions:
    """What one connection may still ask."""

    __slots__ = ("_all", "_refreshes")

    def __init__(self, now: float) -> None:
        self._all = TokenBucket(QUESTIONS_PER_S, QUESTIONS_BURST, now)
        self._refreshes = TokenBucket(REFRESHES_PER_S, REFRESHES_BURST, now)

    def take(self, now: float, *, refresh: bool) -> bool:
        """One more; `refresh`: for a whole view."""
        return self._all.take(1, now) and (not refresh or self._refreshes.take(1, now))
