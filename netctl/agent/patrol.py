"""The patrol: compares the host with what it should have, and heals it where the document says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from netctl.agent.talk import quiet, reason_of, warn
from netctl.node.drift import Counters, Departure, inspect

if TYPE_CHECKING:
    from netctl.agent.agent import Agent

DRIFT_S = 30.0
"""How often the host is compared with what it should have."""


class Patrol:
    """Belongs to one agent."""

    def __init__(self, agent: Agent, drift_s: float) -> None:
        self._agent = agent
        self._drift_s = drift_s
        self.drift: tuple[Departure, ...] = ()
        """Where the host departs from the document, as it was seen last."""
        self.counters = Counters()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._drift_s)
            try:
                await self.check()
            except Exception as error:
                warn(reason_of(error))

    async def check(self) -> None:
        """Compare the host with what it should have, and heal it if the document says so. Raises EngineError."""
        agent = self._agent
        if (
            not agent.state.settled
        ):  # nothing is read and nothing removed; but a try that failed is tried again
            if agent.state.loaded is not None:
                agent.wanted.set()
            return
        async with agent.lock:
            await agent.host.retry()
            foreign, actual = await agent.host.foreign(), await agent.host.read()
            found = inspect(agent.state, agent.keys.wireguard, foreign, actual, self.drift)
            if found.evaluate_again:
                agent.wanted.set()
            self.counters.found += found.fresh
            self.drift = found.departures
            if not found.heal:
                return
            for departure in found.departures:
                warn(f"drift: {departure}")
            outcome = await agent.host.apply(agent.state.desired, quiet)
            self.counters.healed += outcome.changed if outcome.error is None else 0
            if outcome.error is None:
                self.drift = ()
            else:
                self.counters.failed += 1
                warn(f"drift could not be put right: {outcome.error}")
