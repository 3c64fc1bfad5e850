"""Introductions: two members exchange candidates, and both start hole punching at the same time (DESIGN §7.5)."""

from __future__ import annotations

from dataclasses import dataclass

from mediator.core.effects import Effect, Send
from netctl.model.keys import WireGuardKey
from netctl.wire import control as w

PUNCH_AFTER_MS = 50
"""Delay of the start: covers the different delays between the mediator and both members."""
PUNCH_ACROSS_MS = 150
"""Covers the delay of the bus between two mediators too."""
MAX_OFFERS_PER_S = 50.0
MAX_OFFERS_BURST = 2000.0
"""Introductions that a member may request: all pairs of the largest segment at join, then MAX_OFFERS_PER_S."""


@dataclass(slots=True)
class Allowance:
    """The introductions that a connection may still request."""

    refilled: float
    offers: float = MAX_OFFERS_BURST

    def take(self, now: float) -> bool:
        """Count one request; False: too many."""
        self.offers = min(MAX_OFFERS_BURST, self.offers + (now - self.refilled) * MAX_OFFERS_PER_S)
        self.refilled = now
        if self.offers < 1:
            return False
        self.offers -= 1
        return True


class Introducer:
    """The open offers of candidates, with their rounds."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[WireGuardKey, WireGuardKey], int] = {}
        self._partners: dict[WireGuardKey, set[WireGuardKey]] = {}
        """The other members of each member's open offers."""

    def introduce(
        self, key: WireGuardKey, mine: int, peer: WireGuardKey, other: int, offer: w.Candidates
    ) -> list[Effect]:
        """`key` on connection `mine` offers candidates to `peer` on connection `other`."""
        self._open(key, peer, offer.round)
        effects: list[Effect] = [
            Send(other, w.Introduction(str(key), offer.round, offer.candidates, offer.nat, offer.relays))
        ]
        if self._rounds.get((peer, key)) == offer.round:
            effects += [
                Send(other, w.Punch(str(key), PUNCH_AFTER_MS)),
                Send(mine, w.Punch(str(peer), PUNCH_AFTER_MS)),
            ]
            self._close(key, peer)
        return effects

    def across(self, key: WireGuardKey, peer: WireGuardKey, number: int) -> bool:
        """`key` offers candidates to `peer` in round `number`, one of them elsewhere: have both offered by now?"""
        self._open(key, peer, number)
        if self._rounds.get((peer, key)) != number:
            return False
        self._close(key, peer)
        return True

    def _open(self, key: WireGuardKey, peer: WireGuardKey, number: int) -> None:
        self._rounds[key, peer] = number
        self._partners.setdefault(key, set()).add(peer)
        self._partners.setdefault(peer, set()).add(key)

    def _close(self, key: WireGuardKey, peer: WireGuardKey) -> None:
        """Both offers of a pair are over."""
        for one, other in ((key, peer), (peer, key)):
            self._rounds.pop((one, other), None)
            if (partners := self._partners.get(one)) is not None:
                partners.discard(other)
                if not partners:
                    del self._partners[one]

    def forget(self, key: WireGuardKey) -> None:
        """A member is gone: drop its offers."""
        for peer in list(self._partners.get(key, ())):
            self._close(key, peer)
