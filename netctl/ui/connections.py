"""Connections to the page, bounded: so many of one address, and none that says nothing.

uvicorn counts all connections together and waits for ever for the first request of one, or for the rest of a next one:
whoever opened enough of them and said nothing kept everybody else out.
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
"""All who come by `ssh -L` come from there; a reverse proxy has as many."""
HEAD_S = 10.0
"""For a request to arrive whole, its body apart."""

_open: Counter[str] = Counter()


class BoundedProtocol(H11Protocol):
    """One connection. `shared`: addresses that many people come from."""

    shared: frozenset[str] = frozenset()
    _from = ""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Count it; one too many is closed before it has said anything."""
        super().connection_made(transport)
        self._from, most = _source(transport.get_extra_info("peername"), self.shared)
        _open[self._from] += 1
        if _open[self._from] > most:
            transport.abort()
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        _open[self._from] -= 1
        if _open[self._from] <= 0:
            del _open[self._from]
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what comes; what begins a request has so long to end it."""
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
    """Whose a connection is, and how many that may have."""
    text = str(peer[0]).partition("%")[0] if peer else ""
    try:
        loopback = ipaddress.ip_address(text).is_loopback
    except ValueError:
        loopback = False
    if loopback:
        return "loopback", MAX_OF_LOOPBACK
    return text, MAX_OF_LOOPBACK if address_of(text) in shared else MAX_OF_ADDRESS
