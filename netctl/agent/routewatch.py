"""Our routes and addresses come back as soon as somebody has flushed them; the kernel itself says when."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from netctl.agent.talk import say
from netctl.engine.events import taken_away
from netctl.model.document import Drift
from netctl.model.errors import EngineError
from netctl.model.hoststate import SEGMENT_PREFIX, WIREGUARD_LINK

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

SETTLE_S = 0.05
"""A flush is a message for each route: those that come together are one."""
PAUSE_S = 0.3
"""Between two looks, below the second that is promised: who takes routes away in a loop must not cost a core."""
RETRY_S = 5.0
SAY_S = 60.0
"""Somebody who does it all day has a line a minute; `status` counts them all."""


class RouteWatch:
    """Belongs to one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
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
        agent = self._agent
        if agent.state.loaded is None or agent.state.loaded.document.drift is not Drift.CORRECT:
            return False  # departures are said where all of them are
        async with agent.lock:  # an apply, which may be what takes them away, ends first
            if not agent.state.settled or agent.state.desired.wireguard is None:
                return False
            count = await agent.host.restore_routes(agent.state.desired)
        if not count:
            return False
        self.restored += 1
        agent.patrol.counters.found += count
        agent.patrol.counters.healed += count
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
