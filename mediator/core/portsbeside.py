"""Which ports the relay beside a mediator could not bind, because other programs hold them. Sans-IO.

The relay tries these ports again, so a member keeps its port for a while before it is given another one.
"""

from __future__ import annotations

from mediator.core.relay_grants import GRANT_TTL_S

LEAVE_AFTER_S = 15.0
"""The relay has tried four times by then. A shorter time would move members for a socket that lives for seconds, and a
port that a member has left is given to nobody for six hours."""
MAX_UNHELD = 64
"""Ports that are heeded at once, and that are left in `GRANT_TTL_S`, for which they rest: a host has a handful of such
sockets, and a relay in wrong hands must not move all members."""


class PortsBeside:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._left_at: dict[int, float] = {}
        self.left: frozenset[int] = frozenset()
        """Ports that the relay has not had for long: their members get others."""

    @property
    def unheld(self) -> tuple[int, ...]:
        """Ports that the relay does not have now: no grant is of use there."""
        return tuple(self._since)

    def told(self, ports: frozenset[int], now: float) -> None:
        """Take the ports that the relay does not have; to be called about once a second."""
        self._since = {port: self._since.get(port, now) for port in sorted(ports)[:MAX_UNHELD]}

    def handle_timer(self, now: float) -> bool:
        """Whether members have to leave a port that they need not have left before."""
        before = self.left
        self._left_at = {port: at for port, at in self._left_at.items() if now < at + GRANT_TTL_S}
        for port, since in self._since.items():
            if now >= since + LEAVE_AFTER_S and len(self._left_at) < MAX_UNHELD:
                self._left_at.setdefault(port, now)
        self.left = frozenset(self._left_at.keys() & self._since.keys())
        return bool(self.left - before)
