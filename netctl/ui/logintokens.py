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


class TokenRefusedError(Exception):
    """The token opens nothing. The text says why, for a person."""


@dataclass(slots=True)
class Tokens:
    """The links that are open."""

    _until: dict[bytes, float] = field(default_factory=dict)
    _failures: deque[float] = field(default_factory=deque)

    def issue(self, token: str, now: float) -> None:
        """Let this token be used once."""
        while len(self._until) >= MAX_TOKENS:
            del self._until[next(iter(self._until))]
        self._until[_digest(token)] = now + TOKEN_S

    def redeem(self, token: str, now: float) -> None:
        """Use it up. Raises TokenRefusedError."""
        while self._failures and self._failures[0] <= now - FAILURES_S:
            self._failures.popleft()
        if len(self._failures) >= MAX_FAILURES:
            raise TokenRefusedError("too many links that were not good: wait a minute")
        until = self._until.pop(_digest(token), None)
        if until is None or until < now:
            self._failures.append(now)
            old = "this link is too old" if until is not None else "this link is used up, or was never made"
            raise TokenRefusedError(f"{old}: make a new one")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
