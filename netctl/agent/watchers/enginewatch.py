"""Reports to the node that the engine's link has vanished, so that the node restores it.

The link of a userspace engine vanishes when the engine dies, and the kernel reports that. Meanwhile routes without a
link (`HostState.unreachable`) stop the packets, which needs neither agent nor engine.
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
"""Retry interval if the kernel's reports on links cannot be read."""


class EngineWatch:
    """Reports vanished links to the node."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                async for _ in vanished(WIREGUARD_LINK):
                    self._runner.post(on.LinkVanished())
            except EngineError as error:
                warn(f"{error}; the link is looked at every {RETRY_S:.0f} s")
            await asyncio.sleep(RETRY_S)
