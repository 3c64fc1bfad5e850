"""One way to one peer: a remote address, the pings sent there, and what came back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from netctl.model.addresses import SocketAddress
from netctl.paths.constants import ANSWER_WITHIN, MAX_OUTSTANDING, REFUSED_FIRST, REFUSED_MAX, TRUST_FRESH
from netctl.wire.probe import ProbeFlag

KINDS = {
    "host": "on its interface",
    "srflx": "seen from outside",
    "prflx": "heard from there",
    "mapped": "opened by its router",
    "explicit": "from the document",
}
FAR_FACTOR = 2.0
FAR_S = 0.005
"""A `lan` path with more than twice a direct one's round trip, and 5 ms more, leads somewhere else first."""
SILENT_PINGS = 3
"""Unanswered, after which that is what is to be said of a route."""
MAX_REFUSALS = 16
"""Counted no further: the time is at its longest by then."""
RTT_WEIGHT = 0.2
"""Of a new sample in the smoothed round trip."""


@dataclass(slots=True)
class Route:
    """Mutable record of one remote address. Times are monotonic seconds, None is never."""

    address: SocketAddress
    kind: str
    """Candidate kind: host, srflx, prflx, mapped, explicit."""
    path: Literal["lan", "direct"] = "direct"
    outstanding: dict[bytes, float] = field(default_factory=dict)
    """Transaction to when it was sent, oldest first."""
    pings_sent: int = 0
    """Since it was found, or since the path that it was died."""
    last_ping_at: float = float("-inf")
    last_pong_at: float | None = None
    unanswered_since: float | None = None
    """When the first ping after the last pong was sent."""
    rtt_s: float | None = None
    left: bool = False
    """The peer's socket has another port by now, so nobody answers here: any other that answers is better."""
    peer_confirmed: bool = False
    """The peer has had its own pong on this route."""
    peer_using: bool = False
    proven: bool = False
    """It answered at some time: what is sent there hits nobody who did not ask for it."""
    heard_at: float = float("-inf")
    """When the peer was last heard from there."""
    refused_until: float = float("-inf")
    """It answered probes and carried no data: not chosen before then."""
    refusals: int = 0
    """How often that was so, in a row."""
    refusal: str = ""
    """Why, in words."""
    peer_refuses: bool = False
    """The peer says the same of it."""
    takes_padded: bool = False
    """The peer's program answers padded pings."""
    asks: set[bytes] = field(default_factory=set)
    """Transactions of pings that asked for data."""

    @property
    def rank(self) -> int:
        """lan over direct."""
        return 2 if self.path == "lan" else 1

    def far_behind(self, other: Route) -> bool:
        """Whether it is so much slower that its kind does not make up for it: a LAN that is a tunnel somewhere."""
        mine, theirs = self.rtt_s or 0.0, other.rtt_s or 0.0
        return mine > FAR_FACTOR * theirs and mine > theirs + FAR_S

    @property
    def flags(self) -> ProbeFlag:
        """What we tell the peer about this route, USING apart."""
        return ProbeFlag.NONE if self.last_pong_at is None else ProbeFlag.HAVE_PONG

    def refuse(self, why: str, now: float) -> None:
        """It carried no data: it is left alone for a while."""
        self.refused_until = now + min(REFUSED_FIRST * 2**self.refusals, REFUSED_MAX)
        self.refusals = min(self.refusals + 1, MAX_REFUSALS)
        self.refusal = why

    def refused(self, now: float) -> bool:
        """Whether it may not be chosen, by our own word or the peer's."""
        return self.peer_refuses or now < self.refused_until

    def ready(self, now: float) -> bool:
        """Whether the path may use it: both sides have had an answer here, and neither refuses it."""
        return self.fresh(now) and self.peer_confirmed and not self.refused(now) and not self.left

    @property
    def says_refusal(self) -> bool:
        """It was given up for its data, and is not silent by now."""
        return bool(self.refusal) and (self.last_pong_at is not None or self.pings_sent < SILENT_PINGS)

    def sent(self, transaction: bytes, now: float) -> None:
        """A ping went out."""
        self.outstanding[transaction] = now
        while len(self.outstanding) > MAX_OUTSTANDING:
            oldest = next(iter(self.outstanding))
            del self.outstanding[oldest]
            self.asks.discard(oldest)
        self.pings_sent += 1
        self.last_ping_at = now
        if self.unanswered_since is None:
            self.unanswered_since = now

    def answered(self, transaction: bytes, now: float) -> bool:
        """A pong came in; False if it answers no ping of ours here."""
        sent_at = self.outstanding.pop(transaction, None)
        if sent_at is None:
            return False
        self.proven = True
        sample = now - sent_at
        self.rtt_s = sample if self.rtt_s is None else self.rtt_s + RTT_WEIGHT * (sample - self.rtt_s)
        self.last_pong_at = now
        later = [at for at in self.outstanding.values() if at > sent_at]
        self.unanswered_since = min(later, default=None)
        return True

    def fresh(self, now: float) -> bool:
        """Answered recently enough to be chosen."""
        return self.answered_within(TRUST_FRESH, now)

    def answered_within(self, seconds: float, now: float) -> bool:
        """Whether the last answer is no older."""
        return self.last_pong_at is not None and now - self.last_pong_at <= seconds

    def silent_for(self, now: float) -> float:
        """Seconds since the first ping that is still unanswered; 0 while all is well."""
        return 0.0 if self.unanswered_since is None else now - self.unanswered_since

    def suspect(self, now: float) -> bool:
        """It should have answered by now."""
        return now >= self.suspect_at

    @property
    def suspect_at(self) -> float:
        """When it becomes suspect if nothing comes; infinity while all is well."""
        if self.unanswered_since is None:
            return float("inf")
        return self.unanswered_since + max(ANSWER_WITHIN, 3 * (self.rtt_s or 0.0))

    def forget_trust(self) -> None:
        """The path died: what it answered before counts no more."""
        self.last_pong_at = None
        self.unanswered_since = None
        self.outstanding.clear()
        self.asks.clear()
        self.peer_confirmed = self.peer_using = False
        self.pings_sent = 0

    def describe_address(self) -> str:
        """Where it leads, and how it is known."""
        return f"{self.address} ({KINDS.get(self.kind, self.kind)})"

    def describe(self) -> str:
        """One line on why this route does not carry the path."""
        what = self.describe_address()
        if self.says_refusal:
            return f"{what}: {self.refusal}"
        if self.last_pong_at is not None:
            return f"{what}: answers in {(self.rtt_s or 0) * 1000:.1f} ms, not chosen"
        if not self.pings_sent:
            return f"{what}: not tried yet"
        return f"{what}: no answer to {self.pings_sent} probe{'s' if self.pings_sent > 1 else ''}"
