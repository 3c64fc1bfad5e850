"""Bounds the connections to the page: how many one address may have, and how long one may stay without a request.

uvicorn counts only all connections together, and waits for ever for the first request of a connection or the rest of a
later one. So whoever opens many connections and sends nothing would keep everybody else out.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from netctl.ui.pageaccess import address_of

MAX_OF_ADDRESS = 24
"""A browser opens six to one host; a person has a few."""
MAX_OF_LOOPBACK = 128
"""Everybody who comes by `ssh -L` comes from loopback. A reverse proxy may have as many."""
HEAD_S = 10.0
"""Seconds within which the head of a request must arrive."""

_open: Counter[str] = Counter()


class BoundedProtocol(H11Protocol):
    """One connection. `shared`: addresses that many people come from, such as a reverse proxy's."""

    shared: frozenset[str] = frozenset()
    _from = ""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Count the connection, and close it at once if its address has too many."""
        super().connection_made(transport)
        self._from, most = _source(transport.get_extra_info("peername"), self.shared)
        _open[self._from] += 1
        if _open[self._from] > most:
            transport.abort()
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection no more."""
        _open[self._from] -= 1
        if _open[self._from] <= 0:
            del _open[self._from]
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass the data on. A request whose head has begun must be complete within `HEAD_S`."""
        super().data_received(data)
        self._expect()

    def _expect(self) -> None:
        if self._between_requests() and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(HEAD_S, self._too_late, self.cycle)

    def _between_requests(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _too_late(self, before: object) -> None:
        self._timer = None
        if self.cycle is before and self._between_requests() and not self.transport.is_closing():
            self.transport.abort()
        elif self._between_requests():
            self._expect()


def _source(peer: Any, shared: frozenset[str]) -> tuple[str, int]:
    """The key under which connections of this peer are counted, and how many it may have."""
    text = str(peer[0]).partition("%")[0] if peer else ""
    try:
        loopback = ipaddress.ip_address(text).is_loopback
    except ValueError:
        loopback = False
    if loopback:
        return "loopback", MAX_OF_LOOPBACK
    return text, MAX_OF_LOOPBACK if address_of(text) in shared else MAX_OF_ADDRESS
