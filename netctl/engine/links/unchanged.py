"""Caches lists of the kernel until the kernel announces a change (rtnetlink(7)).

A host may have thousands of links, addresses and routes, and an agent that rests looks at them several times a minute.
The kernel queues its announcement before the system call that makes the change returns: while nothing is queued, the
cached list is the present one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from netctl.engine.listening import NETLINK_ROUTE, Listener, Messages

_LINKS, _ADDRESSES4, _ROUTES4, _ADDRESSES6, _ROUTES6 = 1, 5, 7, 9, 11
"""Multicast groups (RTNLGRP_…)."""
_NEW_ROUTE, _DELETE_ROUTE = 24, 25
_ROUTE_BITS = 1
"""Where a message about a route has the length of its prefix."""
ROUTES_SETTLE_S = 1.0
"""Seconds. The kernel announces that a link or address goes before it removes the IPv4 routes that depend on it, and
does not announce their removal (fib_sync_down_dev, fib_sync_down_addr): a list read this soon after a change is read
again.
"""

T = TypeVar("T")


class Changes:
    """Counts the announced changes. Never blocks. For use by one thread."""

    def __init__(self) -> None:
        self._listener: Listener | None = None
        with contextlib.suppress(OSError):  # everything is then read each time
            self._listener = Listener(
                NETLINK_ROUTE, _LINKS, _ADDRESSES4, _ADDRESSES6, _ROUTES4, _ROUTES6, deep=False
            )
        self._links = self._ways_out = self._routes = 0

    def close(self) -> None:
        """Close the socket; every list is read each time from now on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def links(self) -> int | None:
        """A number that differs after each change of links or addresses. None: changes are not known."""
        return self._links if self._look() else None

    def ways_out(self) -> int | None:
        """The same for links, addresses and default routes."""
        return self._links + self._ways_out if self._look() else None

    def routes(self) -> int | None:
        """The same for links, addresses and all routes."""
        return self._links + self._routes if self._look() else None

    def _look(self) -> bool:
        if self._listener is None:
            return False
        try:
            for messages in self._listener.queued():
                self._count(messages)
        except OSError:
            self.close()
            return False
        return True

    def _count(self, messages: Messages | None) -> None:
        if messages is None:  # some were lost
            self._links += 1
            return
        for kind, body in messages:
            if kind not in (_NEW_ROUTE, _DELETE_ROUTE):
                self._links += 1
                continue
            self._routes += 1
            if len(body) > _ROUTE_BITS and body[_ROUTE_BITS] == 0:
                self._ways_out += 1


class Kept(Generic[T]):
    """Returns the value that was read last until a change is announced."""

    def __init__(self, changes: Callable[[], int | None], read: Callable[[], T], settle_s: float = 0) -> None:
        """`changes`: a number that differs once `read` may return another value; None: not known, so read each time.

        `settle_s`: seconds after a change during which a value is not cached.
        """
        self._changes, self._read, self._settle_s = changes, read, settle_s
        self._number: int | None = None
        self._since_s = 0.0
        self._found: tuple[T] | None = None

    def get(self) -> T:
        """The present value. Raises what `read` raises; nothing is cached then."""
        # The number is taken before reading: a change during the read causes another read.
        number, now = self._changes(), time.monotonic()
        if number is None or number != self._number:
            self._number, self._since_s, self._found = number, now, None
        if self._found is not None:
            return self._found[0]
        value = self._read()
        if number is not None and now - self._since_s >= self._settle_s:
            self._found = (value,)
        return value
