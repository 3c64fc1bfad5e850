"""Links that open the page: a token each, good once and for a short while.

Takes the time and the randomness as arguments. A token is compared by its digest, so that how long that takes says
nothing about it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field

TOKEN_S = 300.0
"""A person copies the link from a terminal to a browser in less."""
MAX_TOKENS = 16
"""Links that nobody has used yet; the oldest goes."""
MAX_FAILURES = 10
"""In FAILURES_S: a guess has one chance in 2^256, so more than slips of the hand are an attack or a broken client."""
FAILURES_S = 60.0
MAX_ADDRESSES = 256
"""Whose failures are counted: overlay addresses are bound to keys, so nobody has many."""


class TokenRefusedError(Exception):
    """The token opens nothing. The text says why, for a person."""


@dataclass(slots=True)
class Tokens:
    """The links that are open."""

    _until: dict[bytes, float] = field(default_factory=dict)
    _failures: dict[str, deque[float]] = field(default_factory=dict)
    """By who asked; whoever failed longest ago goes first."""

    def issue(self, token: str, now: float) -> None:
        """Let this token be used once."""
        while len(self._until) >= MAX_TOKENS:
            del self._until[next(iter(self._until))]
        self._until[_digest(token)] = now + TOKEN_S

    def redeem(self, token: str, now: float, address: str = "") -> None:
        """Use it up. `address`: who asks, so that nobody's guesses keep another out. Raises TokenRefusedError."""
        failures = self._failures.pop(address, deque())
        while failures and failures[0] <= now - FAILURES_S:
            failures.popleft()
        if failures:
            self._failures[address] = failures
        if len(failures) >= MAX_FAILURES:
            raise TokenRefusedError("too many links that were not good: wait a minute")
        until = self._until.pop(_digest(token), None)
        if until is None or until < now:
            while len(self._failures) >= MAX_ADDRESSES:
                del self._failures[next(iter(self._failures))]
            self._failures.setdefault(address, failures).append(now)
            old = "this link is too old" if until is not None else "this link is used up, or was never made"
            raise TokenRefusedError(f"{old}: make a new one")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
