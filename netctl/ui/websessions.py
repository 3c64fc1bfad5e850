"""Who has opened the page: a cookie each, and the token that a change must carry (CSRF).

Takes the time and the randomness as arguments.
"""

from __future__ import annotations

import hmac
from collections import Counter
from dataclasses import dataclass, field

SESSION_S = 12 * 3600.0
"""A working day; after that a new link."""
MAX_SESSIONS = 256
"""Of browsers with a link; one more ends the oldest."""
MAX_OF_ONE = 16
"""Of one member, or of one user of a proxy; one more ends that one's oldest. A browser without a cookie begins
one with
every request, so nobody may end the sessions of others."""
MAX_NAMED = 4096
"""Of all members and users together; one more ends the oldest of whoever has most."""


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
        counts = Counter(one.who for one in self._open.values())
        who = member or user
        if counts[who] >= (MAX_SESSIONS if who is None else MAX_OF_ONE):
            self._end_oldest(who)
        elif who is not None and counts.total() - counts[None] >= MAX_NAMED:
            del counts[None]
            self._end_oldest(counts.most_common(1)[0][0])
        session = self._open[cookie] = Session(csrf, operator, now + SESSION_S, member, user)
        return session

    def _end_oldest(self, who: str | None) -> None:
        del self._open[next(cookie for cookie, one in self._open.items() if one.who == who)]

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
