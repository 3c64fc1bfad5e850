"""Who looks is told at once what changes, and its interest is over by itself."""

from __future__ import annotations

import asyncio
import time

from netctl.agent.viewers import KEPT_S, MAX_WAIT_S, Viewers
from netctl.system.tasks import awaited


def test_a_viewer_is_told_at_once_and_its_interest_is_kept_a_little_longer() -> None:
    interests: list[float] = []
    viewers = Viewers(interests.append)

    async def look() -> None:
        assert await viewers.wait(-1, 60.0) == 0, "who knows nothing yet is told at once"
        began = time.monotonic()
        waiting = awaited(viewers.wait(0, 5.0))
        await asyncio.sleep(0)
        viewers.changed()
        assert await waiting == 1
        assert await viewers.wait(0, 5.0) == 1, "nothing is missed between two questions"
        assert time.monotonic() - began < 4.0
        assert await viewers.wait(1, 0.01) == 1, "nor waited for ever"

    asyncio.run(look())
    assert interests == [MAX_WAIT_S + KEPT_S, 5.0 + KEPT_S, 5.0 + KEPT_S, 0.01 + KEPT_S]
