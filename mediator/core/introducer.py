"""Introductions: two members swap candidates, and both start to punch at one moment (DESIGN §7.5)."""

from __future__ import annotations

from dataclasses import dataclass

from mediator.core.effects import Effect, Send
from netctl.model.keys import WireGuardKey
from netctl.wire import control as w

PUNCH_AFTER_MS = 50
"""Covers the difference between two members' ways to the mediator."""
MAX_OFFERS_PER_S = 50.0
MAX_OFFERS_BURST = 2000.0
"""Introductions a member may ask for: all pairs of the largest segment at join, and a steady trickle."""


@dataclass(slots=True)
class Allowance:
    """What one connection may still ask for."""

    refilled: float
    offers: float = MAX_OFFERS_BURST

    def take(self, now: float) -> bool:
        """One more."""
        self.offers = min(MAX_OFFERS_BURST, self.offers + (now - self.refilled) * MAX_OFFERS_PER_S)
        self.refilled = now
        if self.offers < 1:
            return False
        self.offers -= 1
        return True


class Introducer:
    """Who has offered candidates to whom, and in which round."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[WireGuardKey, WireGuardKey], int] = {}

    def introduce(
        self, key: WireGuardKey, mine: int, peer: WireGuardKey, other: int, offer: w.Candidates
    ) -> list[Effect]:
        """`key` on connection `mine` offers candidates to `peer` on connection `other`."""
        self._rounds[key, peer] = offer.round
        effects: list[Effect] = [
            Send(other, w.Introduction(str(key), offer.round, offer.candidates, offer.nat))
        ]
        if self._rounds.get((peer, key)) == offer.round:
            effects += [
                Send(other, w.Punch(str(key), PUNCH_AFTER_MS)),
                Send(mine, w.Punch(str(peer), PUNCH_AFTER_MS)),
            ]
            self._rounds.pop((peer, key), None)
            self._rounds.pop((key, peer), None)
        return effects

    def forget(self, key: WireGuardKey) -> None:
        """A member is gone: what it offered is void."""
        for pair in [pair for pair in self._rounds if key in pair]:
            del self._rounds[pair]
