"""Who has opened the page: a cookie each, and the token that a change must carry (CSRF).

Takes the time and the randomness as arguments.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

SESSION_S = 12 * 3600.0
"""A working day; after that a new link."""
MAX_SESSIONS = 256
"""Browsers with a link, and as many of members and of a proxy's users; the oldest of its kind goes, so no member puts
out who has a link."""


@dataclass(frozen=True, slots=True)
class Session:
    """An open browser. `csrf`: what its forms carry; `until`: monotonic seconds."""

    csrf: str
    operator: bool
    until: float
    member: str | None = None
    """Who it is, where the overlay says so; None: whoever had the link."""
    user: str | None = None
    """Who it is, where a reverse proxy says so."""

    @property
    def who(self) -> str | None:
        """Its name, whoever vouches for it; None: whoever had the link."""
        return self.member or self.user


@dataclass(slots=True)
class Sessions:
    """All of them, by cookie."""

    _open: dict[str, Session] = field(default_factory=dict)

    def begin(
        self,
        cookie: str,
        csrf: str,
        now: float,
        *,
        operator: bool,
        member: str | None = None,
        user: str | None = None,
    ) -> Session:
        """A browser that has shown who it is."""
        self._open = {name: one for name, one in self._open.items() if one.until > now}
        alike = [
            name
            for name, one in self._open.items()
            if (one.member is None, one.user is None) == (member is None, user is None)
        ]
        if len(alike) >= MAX_SESSIONS:
            del self._open[alike[0]]
        session = self._open[cookie] = Session(csrf, operator, now + SESSION_S, member, user)
        return session

    def find(self, cookie: str | None, now: float) -> Session | None:
        """The session of a cookie, unless it is over."""
        session = self._open.get(cookie) if cookie else None
        return session if session is not None and session.until > now else None

    def end(self, cookie: str) -> None:
        """Close it."""
        self._open.pop(cookie, None)


def carries(session: Session, token: str) -> bool:
    """Whether a form has the token of this session."""
    return hmac.compare_digest(session.csrf.encode(), token.encode(errors="surrogatepass"))
