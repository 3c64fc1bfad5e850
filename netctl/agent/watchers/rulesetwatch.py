"""Our nftables tables come back as soon as somebody has flushed or changed them; nftables itself says when."""

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
"""Between two looks: somebody who takes the tables away in a loop must not cost a core."""
RETRY_S = 5.0
"""After nftables could not be heard, or a table not loaded."""


class Rulesets:
    """Has tables loaded again."""

    def __init__(self, runner: Runner, host: Host) -> None:
        self._runner, self._host = runner, host
        self._context = runner.node.context
        self.restored = 0
        """How often a table was gone or changed and was loaded again."""
        self.lasted_s = 0.0
        """From nftables' word to the table in place, the last time, in seconds."""
        self.by = ""
        """Who took it away the last time, as far as the kernel says."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async for transaction in transactions(frozenset({FILTER_TABLE, REWRITE_TABLE})):
                    if await self._look(transaction.by):
                        await asyncio.sleep(PAUSE_S)
            except EngineError as error:
                say(f"{error}; tables of ours are looked at with everything else")
            await asyncio.sleep(RETRY_S)

    async def _look(self, by: str) -> bool:
        """Whether something had to be put right. Raises EngineError."""
        began, document = time.monotonic(), self._context.state.document
        if document is not None and document.drift is not Drift.CORRECT:
            if await self._host.tables_stand():
                return False
            await self._runner.ask(requests.CheckDrift())  # it is only said
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
        """For `status`: what happened since this agent began."""
        if not self.restored:
            return None
        times = "once" if self.restored == 1 else f"{self.restored} times"
        who = f", the last time by '{self.by}'" if self.by else ""
        return (
            f"the filter was flushed or changed {times} since this agent began{who}, and loaded again "
            f"(the last time within {self.lasted_s:.2f} s)"
        )
