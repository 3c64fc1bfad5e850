"""Whether peers answer just now: asked while somebody looks at them, and only then. Sans-IO.

Presence at the mediator tells that a host has gone when its keepalives have failed, after most of a minute, and an
idle path is pinged every ten seconds. Who looks at a page wants to see a cut link within two. So for as long as a
viewer says that it looks, each peer with a path is asked twice a second (`constants.LIVENESS_EVERY`), and again soon
after a question that nobody answered. The idea is BFD's detection time (RFC 5880 §6.8.4): so many unanswered
questions, and so long, and the peer does not answer.

These questions are apart from the pings that judge a path: one that is lost makes no path suspect. A peer that does
not answer is only a reason to have its path judged now.

ANSWERS    state     event                                             next
None       REST      somebody looks, and there is a way to ask         ASKING
None       ASKING    an answer                                         ANSWERS
None,True  any       three questions unanswered, for 0.75 s and three  SILENT
                     round trips, of a peer that has answered before
False      SILENT    an answer                                         ANSWERS
any        any       nobody looks, or there is no way to ask           REST
"""

from __future__ import annotations

from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c
from netctl.paths.budget import Bucket


class Watch:
    """Whether somebody looks at this host, and what that is worth: one for all its pairs. Times in seconds."""

    def __init__(self) -> None:
        self.until = float("-inf")
        """When the viewers' interest is over, unless they renew it."""
        self.asked = 0
        """Pairs that are asked."""
        self._budget = Bucket(c.LIVENESS_BURST, c.LIVENESS_RATE)

    def active(self, now: float) -> bool:
        """Whether somebody looks."""
        return now < self.until

    @property
    def every_s(self) -> float:
        """Between two questions to one peer: with many they are rarer."""
        return max(c.LIVENESS_EVERY, self.asked / c.LIVENESS_RATE)

    def take(self, now: float) -> bool:
        """One question of what all pairs together may ask."""
        return self._budget.take(now)


class Liveness:
    """What is known of one peer."""

    def __init__(self, watch: Watch, key: WireGuardKey) -> None:
        self._watch = watch
        self._spread = int.from_bytes(key.raw[:2]) / 2**16
        self.answers: bool | None = None
        """None: not asked, or it has never answered."""
        self.rtt_s: float | None = None
        """Smoothed, of the answers of this watch."""
        self.due: float | None = None
        """When to ask next; None: not."""
        self._asked: dict[bytes, float] = {}
        """Transaction to when it was sent, oldest first."""
        self._asked_at = float("-inf")
        self._unanswered = 0
        self._unanswered_since = 0.0
        self._known = False
        """It has answered in this watch."""

    def plan(self, now: float, *, possible: bool) -> None:
        """Ask from now on, or no longer. `possible`: there is a way to ask."""
        if not possible or not self._watch.active(now):
            self.rest()
        elif self.due is None:
            self.due = now + self._spread * c.LIVENESS_EVERY  # not all peers at one moment
            self._watch.asked += 1

    def rest(self) -> None:
        """Nobody looks any more, or there is no way."""
        if self.due is not None:
            self._watch.asked -= 1
        self.due = self.answers = self.rtt_s = None
        self._asked.clear()
        self._unanswered, self._known = 0, False

    def is_due(self, now: float, *, known: bool) -> bool:
        """Whether to ask now; judges what was asked before. `known`: it has answered on this way at some time."""
        if self.due is None or now < self.due:
            return False
        patience = max(c.LIVENESS_SILENT, 3 * (self.rtt_s or 0.0))
        if self._unanswered >= c.LIVENESS_ASKS and now - self._unanswered_since >= patience:
            self.answers = False if known or self._known else None
        if not self._watch.take(now):
            self.due = now + c.LIVENESS_AGAIN
            return False
        return True

    def sent(self, transaction: bytes, now: float) -> None:
        """A question went out."""
        self._asked[transaction] = self._asked_at = now
        while len(self._asked) > c.MAX_OUTSTANDING:
            del self._asked[next(iter(self._asked))]
        if self._unanswered == 0:
            self._unanswered_since = now
        self._unanswered += 1
        # The first of a row is followed soon: one question that was lost on the way shall cost no time.
        hurry = 0 < self._unanswered <= c.LIVENESS_ASKS and self.answers is not False
        again_s = max(c.LIVENESS_AGAIN, 1.5 * (self.rtt_s or 0.0))
        self.due = now + (min(again_s, self._watch.every_s) if hurry else self._watch.every_s)

    def answered(self, transaction: bytes, now: float) -> bool:
        """An answer came in; False: it answers none of these questions."""
        sent_at = self._asked.pop(transaction, None)
        if sent_at is None:
            return False
        if self.answers is False:
            self._asked.clear()  # what waited on the way until it was whole again tells nothing of its round trip
        else:
            sample, known = now - sent_at, self.rtt_s
            self.rtt_s = sample if known is None else known + c.LIVENESS_RTT_WEIGHT * (sample - known)
        self.answers = self._known = True
        self._unanswered = 0
        self.due = self._asked_at + self._watch.every_s
        return True
