"""Hears from the kernel that the engine's link is gone; the node has it brought back.

A userspace engine takes its link along when it dies, and the kernel says so. What holds the packets back meanwhile
are routes that belong to no link (`HostState.unreachable`), so neither this agent nor the engine is needed for it.
"""

from __future__ import annotations

import asyncio

from netctl.agent.log import warn
from netctl.agent.runner import Runner
from netctl.engine.links.linkevents import vanished
from netctl.model.errors import EngineError
from netctl.model.hoststate import WIREGUARD_LINK
from netctl.node import events as on

RETRY_S = 1.0
"""Where the kernel does not say what happens to links it is asked so often."""


class EngineWatch:
    """Tells the node when to look at the link."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async for _ in vanished(WIREGUARD_LINK):
                    self._runner.post(on.LinkVanished())
            except EngineError as error:
                warn(f"{error}; the link is looked at every {RETRY_S:.0f} s")
            await asyncio.sleep(RETRY_S)
