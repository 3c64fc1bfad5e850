"""Links that open the page: each has a token, which is good once and for a short while.

Takes the time and the randomness as arguments. Tokens are kept and looked up by their digest, so the time that a look
takes says nothing about a token. Wrong tokens are not counted: a guess has one chance in 2^256, and a bound on guesses
would let any user of the machine, or a web site by way of somebody's browser, keep the right token out.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

TOKEN_S = 300.0
"""A person copies the link from a terminal to a browser in less."""
MAX_TOKENS = 16
"""Links that nobody has used yet; one more makes the oldest useless."""


class TokenRefusedError(Exception):
    """The token opens nothing. The text says why, for a person."""


@dataclass(slots=True)
class Tokens:
    """The links that can still be used."""

    _until: dict[bytes, float] = field(default_factory=dict)
    """By digest of the token: monotonic seconds."""

    def issue(self, token: str, now: float) -> None:
        """Let this token be used once, within `TOKEN_S` from `now` (monotonic seconds)."""
        while len(self._until) >= MAX_TOKENS:
            del self._until[next(iter(self._until))]
        self._until[_digest(token)] = now + TOKEN_S

    def redeem(self, token: str, now: float) -> None:
        """Use the token up. Raises TokenRefusedError."""
        until = self._until.pop(_digest(token), None)
        if until is None:
            raise TokenRefusedError("this link is used up, or was never made: make a new one")
        if until < now:
            raise TokenRefusedError("this link is too old: make a new one")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
