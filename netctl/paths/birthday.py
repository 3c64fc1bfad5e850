"""Who may try the birthday method, and when: one attempt of a host at a time, an hour between two with one peer.

An attempt costs a NAT 256 mappings and the other side's NAT a thousand: nobody wants two of them at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c

if TYPE_CHECKING:
    from collections.abc import Callable


class Birthdays:
    """What all pairs of a host share: the one place, the back-off of every peer, and the pace of guesses."""

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self.allowed = True
        """The host's own switch."""
        self._holder: WireGuardKey | None = None
        self._until = float("-inf")
        self._rest_until: dict[WireGuardKey, float] = {}
        self._next_guess = float("-inf")

    def may(self, key: WireGuardKey, now: float) -> bool:
        """Whether an attempt with this peer could begin now."""
        free = self._holder in (None, key) or now >= self._until
        return self.allowed and free and now >= self._rest_until.get(key, float("-inf"))

    def promise(self, key: WireGuardKey, now: float) -> bool:
        """Take the place for this peer, if it may be had: said in an offer."""
        if not self.may(key, now):
            return False
        self._holder, self._until = key, now + c.BIRTHDAY_HOLD
        return True

    def release(self, key: WireGuardKey) -> None:
        """The place is not needed, or no longer."""
        if self._holder == key:
            self._holder = None

    def tried(self, key: WireGuardKey, now: float) -> None:
        """An attempt began: the next one with this peer is an hour away."""
        self._rest_until = {peer: until for peer, until in self._rest_until.items() if until > now}
        self._rest_until[key] = now + c.BIRTHDAY_BACK_OFF

    def succeeded(self, key: WireGuardKey) -> None:
        """A path came of it: when that dies, the next attempt need not wait."""
        self._rest_until.pop(key, None)
        self.release(key)

    def pace(self, now: float) -> float:
        """When the next packet of a guess may go; taken by asking."""
        self._next_guess = max(now, self._next_guess + c.GUESS_INTERVAL)
        return self._next_guess

    def chance(self) -> Iterator[int]:
        """Random numbers without end."""
        while True:
            yield int.from_bytes(self._rng(4), "big")
