"""Whether the relay can be reached over UDP again, while TLS carries: asked every minute, sans-IO.

state       event                next
RESTING     the minute is over   ASKING
ASKING      cookie               CONFIRMING
ASKING      no answer, 3 times   RESTING
CONFIRMING  bound                over: the caller moves to UDP, make before break
CONFIRMING  no answer, 3 times   RESTING

The relay stores nothing before CONFIRM, so asking disturbs nothing; a CONFIRM moves the binding.
"""

from __future__ import annotations

from collections.abc import Callable

from netctl.paths.constants import RELAY_RETRY, UDP_FIRST_RETRY, UDP_RETRY
from netctl.wire import relay

TRIES = 3


class UdpTrial:
    """For one relay link, from the moment on that TLS carries it."""

    def __init__(
        self, allocation: relay.Allocation, key: bytes, rng: Callable[[int], bytes], now: float
    ) -> None:
        self._allocation, self._key, self._rng = allocation, key, rng
        self._attempts = 0
        self.cookie = b""
        """Of the last answer over UDP."""
        self._transactions: list[bytes] = []
        self.due = now + UDP_FIRST_RETRY
        """When to call `handle_timer`."""

    def soon(self, now: float) -> None:
        """Something about the network has changed: ask now."""
        if not self._attempts:
            self.due = now

    def handle_timer(self, now: float) -> tuple[bytes | None, bool]:
        """(a datagram to be sent over UDP, whether the binding may have moved though nothing came back)."""
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
        """An answer over UDP, its MAC checked; BOUND when the way is open."""
        match message:
            case relay.Cookie(transaction, cookie) if (
                transaction in self._transactions and cookie != self.cookie
            ):
                self.cookie, self._attempts, self.due = cookie, 0, now
            case relay.Bound(transaction) if self.cookie and transaction in self._transactions:
                return message
        return None
