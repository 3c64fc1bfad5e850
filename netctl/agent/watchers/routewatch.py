"""Our routes and addresses come back as soon as somebody has flushed them; the kernel itself says when."""

from __future__ import annotations

import asyncio
import time

from netctl.agent.log import say
from netctl.agent.runner import Runner
from netctl.agent.transport.pathmtus import PathMtus
from netctl.engine.links.linkevents import taken_away
from netctl.model.errors import EngineError
from netctl.model.hoststate import SEGMENT_PREFIX, WIREGUARD_LINK
from netctl.node import requests

SETTLE_S = 0.05
"""A flush is a message for each route: those that come together are one."""
PAUSE_S = 0.3
"""Between two looks, below the second that is promised: who takes routes away in a loop must not cost a core."""
RETRY_S = 5.0
SAY_S = 60.0
"""Somebody who does it all day has a line a minute; `status` counts them all."""


class RouteWatch:
    """Has routes set again."""

    def __init__(self, runner: Runner, mtus: PathMtus) -> None:
        self._runner, self._mtus = runner, mtus
        self.restored = 0
        """How often routes or addresses of ours were taken away and set again."""
        self.lasted_s = 0.0
        """From the kernel's word until they were back, the last time, in seconds."""
        self._said_s = float("-inf")
        self._refused = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async for _ in taken_away((WIREGUARD_LINK, SEGMENT_PREFIX)):
                    began = time.monotonic()
                    await asyncio.sleep(SETTLE_S)
                    if await self._look(began):
                        await asyncio.sleep(PAUSE_S)
            except EngineError as error:
                if str(error) != self._refused:
                    self._refused = str(error)
                    say(f"routes could not be put back: {error}")
            await asyncio.sleep(RETRY_S)

    async def _look(self, began: float) -> bool:
        """Whether something had to be put right. Raises EngineError."""
        # In its turn: an apply, which may be what takes them away, ends first.
        count: int = await self._runner.ask(requests.RestoreRoutes())
        self._mtus.again()
        if not count:
            return False
        self.restored += 1
        self.lasted_s = time.monotonic() - began
        self._refused = ""
        if time.monotonic() - self._said_s > SAY_S:
            self._said_s = time.monotonic()
            say(
                f"{count} routes or addresses of ours were taken away; they are back after {self.lasted_s:.2f} s"
            )
        return True

    def condition(self) -> str | None:
        """For `status`: what happened since this agent began."""
        if not self.restored:
            return None
        times = "once" if self.restored == 1 else f"{self.restored} times"
        return (
            f"routes or addresses of this host's networks were taken away {times} since this agent began, and set "
            f"again (the last time within {self.lasted_s:.2f} s): something else on this host manages its routes"
        )
