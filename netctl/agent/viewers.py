"""Who looks at this host: told at once what changes, and meanwhile the reason to ask peers whether they answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

MAX_WAIT_S = 10.0
"""Of one question: who still looks asks again."""
KEPT_S = 3.0
"""After an answer a viewer still looks for so long: until it asks again, also on a busy machine."""


class Viewers:
    """All of them; what they want is over a few seconds after the last has gone."""

    def __init__(self, watch: Callable[[float], None]) -> None:
        """`watch` is told that somebody looks for so many seconds more."""
        self._watch = watch
        self._changes = 0
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Something did that a viewer wants to see."""
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, seen: int, wait_s: float) -> int:
        """Until the number of changes is another than `seen`, at most so many seconds; the number."""
        wait_s = min(max(wait_s, 0.0), MAX_WAIT_S)
        self._watch(wait_s + KEPT_S)
        if self._changes == seen and wait_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
        return self._changes
