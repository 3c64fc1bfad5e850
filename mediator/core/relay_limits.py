"""Limits of a relay: bytes a second per pair and per member, bytes a day per member. Sans-IO.

Every member has one `Account` for all its bindings. A `Toll` limits the traffic of one sender to one peer: by the
pair's bucket, the sender's bucket, and the day's quota of both.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

PAIR_RATE = 125_000_000
"""Bytes a second from one member to one peer, unless set otherwise: 1 Gbit/s."""
BURST_S = 0.1
"""A bucket holds this many seconds of its rate, and at least `MIN_BURST` bytes."""
MIN_BURST = 262_144
"""Four batches of 64 KB: a smaller bucket would refuse the data of one system call."""
ASIDE_SHARE = 0.25
"""Largest share of a limit's remainder that is set aside for one flow, as other flows of the member need some too."""
MIN_ASIDE = 262_144
"""Smallest useful amount to set aside: four batches of 64 KB."""
DAY_S = 86_400.0
MAX_ACCOUNTS = 65_536
"""One per port: a relay cannot have more members."""


class TokenBucket:
    """Bytes that may pass, refilled at a steady rate."""

    __slots__ = ("_at", "_burst", "_level", "_rate", "refused")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at = now
        self.refused = 0
        """Bytes refused so far."""

    def take(self, size: int, now: float) -> bool:
        """Whether `size` bytes may pass at `now`."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if size > self._level:
            self.refused += size
            return False
        self._level -= size
        return True

    def level(self, now: float) -> float:
        """Bytes that could pass at `now`."""
        return min(self._burst, self._level + (now - self._at) * self._rate)

    def give_back(self, size: int) -> None:
        """Return taken but unused bytes."""
        self._level = min(self._burst, self._level + size)


@dataclass(frozen=True, slots=True)
class Limits:
    """The operator's limits. Rates in bytes per second and direction; 0: no limit."""

    pair_rate: float = PAIR_RATE
    member_rate: float = 0
    """Rate of a member to all its peers together."""
    quota: int = 0
    """Bytes that a member may send and receive in a day."""

    def bucket(self, rate: float, now: float) -> TokenBucket | None:
        """A bucket for a rate; None: no limit."""
        return TokenBucket(rate, max(rate * BURST_S, MIN_BURST), now) if rate else None


class Account:
    """One member's traffic. A day begins with the first byte after the end of the last day."""

    __slots__ = (
        "_bucket",
        "_quota",
        "day",
        "day_until",
        "member",
        "over_quota",
        "received",
        "refused",
        "sent",
    )

    def __init__(self, member: int, limits: Limits, now: float) -> None:
        self.member = member
        """The member's relay port."""
        self.sent = self.received = self.refused = self.over_quota = 0
        self.day = 0
        """Bytes of this day in both directions."""
        self.day_until = now + DAY_S
        self._quota = limits.quota
        self._bucket = limits.bucket(limits.member_rate, now)

    def room(self, size: int, now: float) -> bool:
        """Whether the day's quota has room for this many more bytes."""
        if now >= self.day_until:
            self.day, self.day_until = 0, now + DAY_S
        if self._quota and self.day + size > self._quota:
            self.over_quota += size
            return False
        return True

    def pace(self, size: int, now: float) -> bool:
        """Whether the member may send `size` bytes now."""
        return self._bucket is None or self._bucket.take(size, now)

    def pace_left(self, now: float) -> float:
        """Bytes that the member could send at `now`."""
        return self._bucket.level(now) if self._bucket is not None else math.inf

    def day_left(self, now: float) -> float:
        """Bytes that this day's quota has left."""
        if not self._quota:
            return math.inf
        return self._quota - (self.day if now < self.day_until else 0)

    def give_back(self, size: int) -> None:
        """Return bytes that were taken but not sent."""
        if self._bucket is not None:
            self._bucket.give_back(size)


class PairClass(Enum):
    """Who the two members of a pair are."""

    AGENTS = "agent-agent"
    APP = "agent-app"
    APPS = "app-app"


class Total:
    """Bytes of all pairs of one class."""

    __slots__ = ("passed",)

    def __init__(self) -> None:
        self.passed = 0


class Toll:
    """The limits between one sender and one peer."""

    __slots__ = ("_bucket", "_total", "passed", "receiver", "refused", "sender")

    def __init__(self, limits: Limits, sender: Account, receiver: Account, total: Total, now: float) -> None:
        self.sender, self.receiver = sender, receiver
        self._total = total
        self._bucket = limits.bucket(limits.pair_rate, now)
        self.passed = self.refused = 0

    def take(self, size: int, now: float) -> bool:
        """Whether `size` bytes may pass at `now`; passed bytes are counted for both sides."""
        sender, receiver = self.sender, self.receiver
        if (
            sender.room(size, now)
            and receiver.room(size, now)
            and sender.pace(size, now)
            and (self._bucket is None or self._bucket.take(size, now))
        ):
            self.passed += size
            self._total.passed += size
            sender.sent += size
            sender.day += size
            receiver.received += size
            receiver.day += size
            return True
        self.refused += size
        sender.refused += size
        return False

    def set_aside(self, most: int, now: float) -> int:
        """Take up to `most` bytes in advance; 0: a limit is so near that each datagram must be checked."""
        left = min(
            self._bucket.level(now) if self._bucket is not None else math.inf,
            self.sender.pace_left(now),
            self.sender.day_left(now),
            self.receiver.day_left(now),
        )
        size = int(min(most, left * ASIDE_SHARE))
        return size if size >= MIN_ASIDE and self.take(size, now) else 0

    def give_back(self, size: int) -> None:
        """Return unused bytes that were set aside."""
        self.passed -= size
        self._total.passed -= size
        self.sender.sent -= size
        self.receiver.received -= size
        for account in (self.sender, self.receiver):
            account.day = max(0, account.day - size)  # a new day may have begun meanwhile
        self.sender.give_back(size)
        if self._bucket is not None:
            self._bucket.give_back(size)


class Ledger:
    """All accounts of one relay."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._accounts: OrderedDict[int, Account] = OrderedDict()
        self.totals = {kind: Total() for kind in PairClass}

    def account(self, member: int, now: float) -> Account:
        """The account of the member with this relay port."""
        found = self._accounts.get(member)
        if found is None:
            if len(self._accounts) >= MAX_ACCOUNTS:
                self._accounts.popitem(last=False)
            found = self._accounts[member] = Account(member, self.limits, now)
        return found

    def toll(self, sender: int, receiver: int, now: float, kind: PairClass = PairClass.AGENTS) -> Toll:
        """The toll of the traffic from one member to another."""
        accounts = self.account(sender, now), self.account(receiver, now)
        return Toll(self.limits, *accounts, self.totals[kind], now)

    def accounts(self) -> list[Account]:
        """All accounts, most traffic first."""
        return sorted(self._accounts.values(), key=lambda account: -(account.sent + account.received))
