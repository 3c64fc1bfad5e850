"""Restores our routes and addresses at once after another program has removed them or set a link down.

The kernel reports the removal.
"""

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
"""Wait that joins the messages of one flush, which has a message per route."""
PAUSE_S = 0.3
"""Pause after a repair, so that a program that removes routes in a loop costs no core; below the promised 1 s."""
LOOKS = 2
"""Looks after a message if the first one has repaired something: a change of a kernel parameter causes no message."""
RETRY_S = 1.0
"""Interval of tries while the kernel refuses a route, or its messages cannot be received."""
SAY_S = 60.0
"""Interval of log lines on repeated removals; `status` counts them all."""


class RouteWatch:
    """Watches for removed routes and has them set again."""

    def __init__(self, runner: Runner, mtus: PathMtus) -> None:
        self._runner, self._mtus = runner, mtus
        self.restored = 0
        """Count of repairs of our routes or addresses."""
        self.lasted_s = 0.0
        """Duration of the last repair, from the kernel's message on."""
        self._said_s = float("-inf")
        self._refused = ""

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                async for _ in taken_away((WIREGUARD_LINK, SEGMENT_PREFIX)):
                    began = time.monotonic()
                    await asyncio.sleep(SETTLE_S)
                    for _ in range(LOOKS):
                        if not await self._look(began):
                            break
                        began = time.monotonic()
                        await asyncio.sleep(PAUSE_S)
            except EngineError as error:
                if str(error) != self._refused:
                    self._refused = str(error)
                    say(f"routes could not be put back: {error}")
            await asyncio.sleep(RETRY_S)

    async def _look(self, began: float) -> bool:
        """Restore routes; returns whether any was missing. Raises EngineError."""
        # The request waits for a running apply, which may have removed the routes itself.
        count: int = await self._runner.ask(requests.RestoreRoutes())
        self._refused = ""
        self._mtus.again()
        if not count:
            return False
        self.restored += 1
        self.lasted_s = time.monotonic() - began
        if time.monotonic() - self._said_s > SAY_S:
            self._said_s = time.monotonic()
            say(
                f"routes or addresses of ours were taken away, {count} in all: back after {self.lasted_s:.2f} s"
            )
        return True

    def condition(self) -> str | None:
        """Sentence for `status` on a refused repair, or on the repairs since the agent's start."""
        if self._refused:
            return f"what others take away of this host's routes and addresses cannot be set again: {self._refused}"
        if not self.restored:
            return None
        times = "once" if self.restored == 1 else f"{self.restored} times"
        return (
            f"routes or addresses of this host's networks were taken away {times} since this agent began, and set "
            f"again (the last time within {self.lasted_s:.2f} s): something else on this host manages its routes"
        )
