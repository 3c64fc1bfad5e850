"""Restores our nftables tables at once after another program has flushed or changed them, as nftables reports."""

from __future__ import annotations

import asyncio
import time

from netctl.agent.host import Host
from netctl.agent.log import say
from netctl.agent.runner import Runner
from netctl.engine.filter.nftevents import transactions
from netctl.model.document import Drift
from netctl.model.errors import EngineError
from netctl.model.hoststate import FILTER_TABLE, REWRITE_TABLE
from netctl.node import requests

PAUSE_S = 0.2
"""Pause after a repair, so that a program that flushes tables in a loop does not use a core."""
RETRY_S = 5.0
"""Retry interval after a failure to read nftables' messages or to load a table."""


class Rulesets:
    """Watches our tables and loads them again."""

    def __init__(self, runner: Runner, host: Host) -> None:
        self._runner, self._host = runner, host
        self._context = runner.node.context
        self.restored = 0
        """Count of repairs of a missing or changed table."""
        self.lasted_s = 0.0
        """Duration of the last repair, from nftables' message on."""
        self.by = ""
        """The program that made the last change, if the kernel tells."""

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                async for transaction in transactions(frozenset({FILTER_TABLE, REWRITE_TABLE})):
                    if await self._look(transaction.by):
                        await asyncio.sleep(PAUSE_S)
            except EngineError as error:
                say(f"{error}; tables of ours are looked at with everything else")
            await asyncio.sleep(RETRY_S)

    async def _look(self, by: str) -> bool:
        """Restore or report changed tables; returns whether any was changed. Raises EngineError."""
        began, document = time.monotonic(), self._context.state.document
        if document is not None and document.drift is not Drift.CORRECT:
            if await self._host.tables_stand():
                return False
            await self._runner.ask(requests.CheckDrift())  # only reported, not restored
            return True
        restored = await self._host.restore_tables()
        if not restored:
            return False
        self.restored += 1
        self._context.counters.found += len(restored.tables)
        self._context.counters.healed += len(restored.tables)
        self.by = by
        self.lasted_s = time.monotonic() - began
        who = f" by '{by}'" if by else ""
        ended = f"; flows ended that no rule lets through: {restored.ended}" if restored.ended else ""
        say(
            f"nftables: {' and '.join(restored.tables)} was flushed or changed{who}, "
            f"and is back after {self.lasted_s:.2f} s{ended}"
        )
        return True

    def condition(self) -> str | None:
        """Sentence for `status` on the repairs since the agent's start."""
        if not self.restored:
            return None
        times = "once" if self.restored == 1 else f"{self.restored} times"
        who = f", the last time by '{self.by}'" if self.by else ""
        return (
            f"the filter was flushed or changed {times} since this agent began{who}, and loaded again "
            f"(the last time within {self.lasted_s:.2f} s)"
        )
