"""Viewers of this host's status: tells them of changes at once, and has peers probed while there are viewers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

MAX_WAIT_S = 10.0
"""Longest wait of one request; a viewer then sends the next."""
KEPT_S = 3.0
"""How long a viewer counts as present after an answer, until its next request, even on a busy machine."""


class Viewers:
    """All viewers. The probes of peers end a few seconds after the last viewer has gone."""

    def __init__(self, watch: Callable[[float], None]) -> None:
        """`watch` is called with the seconds for which there will be a viewer."""
        self._watch = watch
        self._changes = 0
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Something changed that viewers show."""
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seen: int, wait_s: float) -> int:
        """Wait until the count of changes differs from `seen`, at most `wait_s` seconds; returns the count."""
        wait_s = min(max(wait_s, 0.0), MAX_WAIT_S)
        self._watch(wait_s + KEPT_S)
        if self._changes == seen and wait_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
        return self._changes
