"""Detects whether peers answer, while somebody watches them and only then. Without I/O.

The mediator reports that a host has gone when its keepalives have failed, after most of a minute, and an idle path is
pinged every ten seconds. A viewer of a page wants to see a cut link within two seconds. So while a viewer watches, each
peer with a path is asked twice a second (`constants.LIVENESS_EVERY`), and sooner after an unanswered request. The
method is BFD's detection time (RFC 5880 §6.8.4): a peer is silent after a number of unanswered requests and a time.

These requests are separate from the pings that judge a path: a lost one makes no path suspect. A silent peer is only a
reason to check its path now.

ANSWERS    state     event                                             next
None       REST      somebody watches, and there is a way to ask       ASKING
None       ASKING    an answer                                         ANSWERS
None,True  any       three requests unanswered, for 0.75 s and three   SILENT
                     round trips, of a peer that has answered before
False      SILENT    an answer                                         ANSWERS
any        any       nobody watches, or there is no way to ask         REST
"""

from __future__ import annotations

from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c
from netctl.paths.budget import Bucket


class Watch:
    """Whether somebody watches this host, and the budget of requests: one for all its pairs. Times in seconds."""

    def __init__(self) -> None:
        self.until = float("-inf")
        """When watching ends, unless a viewer renews it."""
        self.asked = 0
        """Count of pairs that are asked."""
        self._budget = Bucket(c.LIVENESS_BURST, c.LIVENESS_RATE)

    def active(self, now: float) -> bool:
        """Whether somebody watches."""
        return now < self.until

    @property
    def every_s(self) -> float:
        """Interval between two requests to one peer, in seconds: grows with the number of peers."""
        return max(c.LIVENESS_EVERY, self.asked / c.LIVENESS_RATE)

    def take(self, now: float) -> bool:
        """Take one request from the budget of all pairs. False: the budget is exhausted."""
        return self._budget.take(now)


class Liveness:
    """Whether one peer answers. Times are monotonic seconds."""

    def __init__(self, watch: Watch, key: WireGuardKey) -> None:
        self._watch = watch
        self._spread = int.from_bytes(key.raw[:2]) / 2**16
        self.answers: bool | None = None
        """Whether the peer answers; None: it is not asked, or has never answered."""
        self.rtt_s: float | None = None
        """Smoothed round trip while somebody watches."""
        self.due: float | None = None
        """When to ask next; None: the peer is not asked."""
        self._asked: dict[bytes, float] = {}
        """Time of sending by transaction, oldest first."""
        self._asked_at = float("-inf")
        self._unanswered = 0
        self._unanswered_since = 0.0
        self._known = False
        """Whether the peer has answered since watching began."""

    def watched(self, now: float) -> bool:
        """Whether there is anything to plan: somebody watches, or the peer is asked until now."""
        return self.due is not None or self._watch.active(now)

    def plan(self, now: float, *, possible: bool) -> None:
        """Start or stop asking. `possible`: there is a way to ask."""
        if not possible or not self._watch.active(now):
            self.rest()
        elif self.due is None:
            self.due = now + self._spread * c.LIVENESS_EVERY  # not all peers at the same moment
            self._watch.asked += 1

    def rest(self) -> None:
        """Stop asking, and forget the answers."""
        if self.due is not None:
            self._watch.asked -= 1
        self.due = self.answers = self.rtt_s = None
        self._asked.clear()
        self._unanswered, self._known = 0, False

    def is_due(self, now: float, *, known: bool) -> bool:
        """Whether to ask now; also judges earlier requests. `known`: the peer has answered on this path before."""
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
        """Record that a request was sent."""
        self._asked[transaction] = self._asked_at = now
        while len(self._asked) > c.MAX_OUTSTANDING:
            del self._asked[next(iter(self._asked))]
        if self._unanswered == 0:
            self._unanswered_since = now
        self._unanswered += 1
        # The next request follows soon, so that a single lost one costs little time.
        hurry = 0 < self._unanswered <= c.LIVENESS_ASKS and self.answers is not False
        again_s = max(c.LIVENESS_AGAIN, 1.5 * (self.rtt_s or 0.0))
        self.due = now + (min(again_s, self._watch.every_s) if hurry else self._watch.every_s)

    def answered(self, transaction: bytes, now: float) -> bool:
        """Record an answer; False: it answers none of these requests."""
        sent_at = self._asked.pop(transaction, None)
        if sent_at is None:
            return False
        if self.answers is False:
            self._asked.clear()  # requests delayed until the path worked again tell nothing about its round trip
        else:
            sample, known = now - sent_at, self.rtt_s
            self.rtt_s = sample if known is None else known + c.LIVENESS_RTT_WEIGHT * (sample - known)
        self.answers = self._known = True
        self._unanswered = 0
        self.due = self._asked_at + self._watch.every_s
        return True
