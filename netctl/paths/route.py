"""One route to one peer: a remote address, the pings sent to it, and the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from netctl.model.addresses import SocketAddress
from netctl.model.forpeople import counted
from netctl.paths.constants import ANSWER_WITHIN, MAX_OUTSTANDING, REFUSED_FIRST, REFUSED_MAX, TRUST_FRESH

KINDS = {
    "host": "on its interface",
    "srflx": "seen from outside",
    "prflx": "heard from there",
    "mapped": "opened by its router",
    "explicit": "from the document",
}
FAR_FACTOR = 2.0
FAR_S = 0.005
"""A `lan` path with more than twice a direct path's round trip, and 5 ms more, is no path within the LAN."""
SILENT_PINGS = 3
"""Unanswered pings after which a route is described as silent, not by an earlier refusal."""
MAX_REFUSALS = 16
"""Refusals counted at most: the time has reached its maximum by then."""
RTT_WEIGHT = 0.2
"""Weight of a new sample in the smoothed round trip."""


@dataclass(slots=True)
class Route:
    """The mutable record of one remote address. Times are monotonic seconds; None: never."""

    address: SocketAddress
    kind: str
    """Candidate kind: host, srflx, prflx, mapped, explicit."""
    path: Literal["lan", "direct"] = "direct"
    outstanding: dict[bytes, float] = field(default_factory=dict)
    """Times of sending of unanswered pings by transaction, oldest first."""
    pings_sent: int = 0
    """Pings sent since the route was found, or since a path over it died."""
    last_ping_at: float = float("-inf")
    last_pong_at: float | None = None
    unanswered_since: float | None = None
    """When the first ping after the last pong was sent."""
    rtt_s: float | None = None
    left: bool = False
    """Whether the peer's socket has another port now, so that nobody answers here: any answering route is better."""
    peer_confirmed: bool = False
    """Whether the peer has received a pong on this route."""
    peer_using: bool = False
    proven: bool = False
    """Whether the route has answered before: packets to it reach no unrelated host."""
    heard_at: float = float("-inf")
    """When a ping of the peer last came from there."""
    refused_until: float = float("-inf")
    """The route answered probes but carried no data: it is not chosen before this time."""
    refusals: int = 0
    """Count of such refusals in a row."""
    refusal: str = ""
    """The reason of the last refusal, in words."""
    peer_refuses: bool = False
    """Whether the peer refuses the route for the same reason."""
    takes_padded: bool = False
    """Whether the peer's program answers padded pings."""
    asks: set[bytes] = field(default_factory=set)
    """Transactions of pings that asked for data."""

    @property
    def rank(self) -> int:
        """The preference of the path's kind: `lan` over `direct`."""
        return 2 if self.path == "lan" else 1

    def far_behind(self, other: Route) -> bool:
        """Whether this route is so much slower that its kind does not count: the LAN is a tunnel to another site."""
        mine, theirs = self.rtt_s or 0.0, other.rtt_s or 0.0
        return mine > FAR_FACTOR * theirs and mine > theirs + FAR_S

    def refuse(self, why: str, now: float) -> None:
        """Refuse the route for a while, because it carried no data."""
        self.refused_until = now + min(REFUSED_FIRST * 2**self.refusals, REFUSED_MAX)
        self.refusals = min(self.refusals + 1, MAX_REFUSALS)
        self.refusal = why

    def refused(self, now: float) -> bool:
        """Whether the route may not be chosen, because we or the peer refuse it."""
        return self.peer_refuses or now < self.refused_until

    def ready(self, now: float) -> bool:
        """Whether the path may use this route: both sides have received an answer here, and neither refuses it."""
        return self.fresh(now) and self.peer_confirmed and not self.refused(now) and not self.left

    @property
    def says_refusal(self) -> bool:
        """Whether the route was refused because it carried no data, and is not silent now."""
        return bool(self.refusal) and (self.last_pong_at is not None or self.pings_sent < SILENT_PINGS)

    def sent(self, transaction: bytes, now: float) -> None:
        """Record a sent ping."""
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
        """Record a pong; False: it answers no ping of ours on this route."""
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

    def forget_pings(self) -> None:
        """Forget the pings that have no answer yet: they tell nothing about the route as it is now."""
        self.unanswered_since = None
        self.outstanding.clear()
        self.asks.clear()

    def fresh(self, now: float) -> bool:
        """Whether the last answer is recent enough for the route to be chosen."""
        return self.answered_within(TRUST_FRESH, now)

    def answered_within(self, seconds: float, now: float) -> bool:
        """Whether the last answer is at most so many seconds old."""
        return self.last_pong_at is not None and now - self.last_pong_at <= seconds

    def silent_for(self, now: float) -> float:
        """Seconds since the first unanswered ping; 0 without one."""
        return 0.0 if self.unanswered_since is None else now - self.unanswered_since

    def suspect(self, now: float) -> bool:
        """Whether an answer is overdue."""
        return now >= self.suspect_at

    @property
    def suspect_at(self) -> float:
        """When the route becomes suspect without an answer; infinity without an unanswered ping."""
        if self.unanswered_since is None:
            return float("inf")
        return self.unanswered_since + max(ANSWER_WITHIN, 3 * (self.rtt_s or 0.0))

    def forget_trust(self) -> None:
        """Forget all answers, after the path has died."""
        self.last_pong_at = None
        self.forget_pings()
        self.peer_confirmed = self.peer_using = False
        self.pings_sent = 0

    def describe_address(self) -> str:
        """The address, and how it became known."""
        return f"{self.address} ({KINDS.get(self.kind, self.kind)})"

    def describe(self) -> str:
        """One line that says why this route is not used."""
        what = self.describe_address()
        if self.says_refusal:
            return f"{what}: {self.refusal}"
        if self.last_pong_at is not None:
            return f"{what}: answers in {(self.rtt_s or 0) * 1000:.1f} ms, not chosen"
        if not self.pings_sent:
            return f"{what}: not tried yet"
        return f"{what}: no answer to {counted(self.pings_sent, 'probe')}"
