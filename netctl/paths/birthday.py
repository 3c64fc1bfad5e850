"""Limits birthday attempts: one attempt of a host at a time, and an hour between two attempts with one peer.

An attempt costs a NAT 256 mappings and the other side's NAT a thousand, so two attempts must not run at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c

if TYPE_CHECKING:
    from collections.abc import Callable


class Birthdays:
    """Shared by all pairs of a host: the single slot for an attempt, each peer's back-off, and the rate of guesses."""

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self.allowed = True
        """Whether the host takes part in birthday attempts."""
        self._holder: WireGuardKey | None = None
        self._until = float("-inf")
        self._rest_until: dict[WireGuardKey, float] = {}
        self._next_guess = float("-inf")

    def may(self, key: WireGuardKey, now: float) -> bool:
        """Whether an attempt with this peer could begin now."""
        free = self._holder in (None, key) or now >= self._until
        return self.allowed and free and now >= self._rest_until.get(key, float("-inf"))

    def promise(self, key: WireGuardKey, now: float) -> bool:
        """Reserve the slot for this peer, if it is free; an offer then contains the promise."""
        if not self.may(key, now):
            return False
        self._holder, self._until = key, now + c.BIRTHDAY_HOLD
        return True

    def release(self, key: WireGuardKey) -> None:
        """Free the slot if this peer holds it."""
        if self._holder == key:
            self._holder = None

    def tried(self, key: WireGuardKey, now: float) -> None:
        """Record the start of an attempt: the next one with this peer may begin an hour later."""
        self._rest_until = {peer: until for peer, until in self._rest_until.items() if until > now}
        self._rest_until[key] = now + c.BIRTHDAY_BACK_OFF

    def succeeded(self, key: WireGuardKey) -> None:
        """Record that the attempt found a path: if the path dies, the next attempt need not wait."""
        self._rest_until.pop(key, None)
        self.release(key)

    def pace(self, now: float) -> float:
        """Reserve and return the time at which the next packet of a guess may be sent."""
        self._next_guess = max(now, self._next_guess + c.GUESS_INTERVAL)
        return self._next_guess

    def chance(self) -> Iterator[int]:
        """Endless random 32-bit numbers."""
        while True:
            yield int.from_bytes(self._rng(4), "big")
