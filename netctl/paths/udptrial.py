"""Tests every minute whether the relay is reachable over UDP again, while TLS carries the packets. Without I/O.

state       event                next
RESTING     the minute is over   ASKING
ASKING      cookie               CONFIRMING
ASKING      no answer, 3 times   RESTING
CONFIRMING  bound                ended: the caller changes to UDP, make before break
CONFIRMING  no answer, 3 times   RESTING

The relay stores nothing before CONFIRM, so asking does not disturb the binding; a CONFIRM moves it.
"""

from __future__ import annotations

from collections.abc import Callable

from netctl.paths.constants import RELAY_RETRY, UDP_FIRST_RETRY, UDP_RETRY
from netctl.wire import relay

TRIES = 3


class UdpTrial:
    """The test for one relay link, from the time on at which TLS carries it."""

    def __init__(
        self, allocation: relay.Allocation, key: bytes, rng: Callable[[int], bytes], now: float
    ) -> None:
        self._allocation, self._key, self._rng = allocation, key, rng
        self._attempts = 0
        self.cookie = b""
        """The cookie of the last answer over UDP."""
        self._transactions: list[bytes] = []
        self.due = now + UDP_FIRST_RETRY
        """When to call `handle_timer`."""

    def soon(self, now: float) -> None:
        """Ask now, after a change of the network."""
        if not self._attempts:
            self.due = now

    def handle_timer(self, now: float) -> tuple[bytes | None, bool]:
        """(a datagram to send over UDP or None, whether an unanswered CONFIRM may have moved the binding)."""
        if now < self.due:
            return None, False
        if self._attempts >= TRIES:
            moved, self.cookie, self._attempts = bool(self.cookie), b"", 0
            self._transactions = []
            self.due = now + UDP_RETRY
            return None, moved
        transaction = self._rng(relay.TRANSACTION_LEN)
        self._transactions.append(transaction)
        self.due = now + RELAY_RETRY[min(self._attempts, len(RELAY_RETRY) - 1)]
        self._attempts += 1
        message = (
            relay.Confirm(self._allocation, transaction, self.cookie)
            if self.cookie
            else relay.Bind(self._allocation, transaction)
        )
        return relay.seal(message, self._key), False

    def handle(self, message: relay.RelayMessage, now: float) -> relay.Bound | None:
        """Take an answer over UDP whose MAC was checked; returns BOUND when UDP works."""
        match message:
            case relay.Cookie(transaction, cookie) if (
                transaction in self._transactions and cookie != self.cookie
            ):
                self.cookie, self._attempts, self.due = cookie, 0, now
            case relay.Bound(transaction) if self.cookie and transaction in self._transactions:
                return message
        return None
